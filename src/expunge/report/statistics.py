"""Statistics over clusters: intervals, tests and power when records come in groups.

Questions about the same person, author or book are not independent, so the cluster is the unit of
inference everywhere: clusters are resampled whole, and tests are computed on cluster means. The
decision that uses them is in ``verdict.py``.

>>> cluster_bootstrap(np.array([1.0, 0.0, 1.0, 1.0]), np.array([0, 0, 1, 1])).value
0.75
>>> holm([0.01, 0.04, 0.03]).tolist()
[0.03, 0.06, 0.06]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Statistic = Callable[[NDArray[Any]], float]


class Interval(NamedTuple):
    """An estimate with the two ends of its interval (NaN ends: too few clusters to say)."""

    value: float
    low: float
    high: float


class Rates(NamedTuple):
    """How often the decision procedure acquits and convicts, as fractions of simulated audits."""

    acquittal: float
    conviction: float


def _compact(clusters: ArrayLike) -> tuple[NDArray[np.int64], int]:
    labels, index = np.unique(np.asarray(clusters), return_inverse=True)
    return index.astype(np.int64).ravel(), len(labels)


def cluster_means(values: ArrayLike, clusters: ArrayLike) -> Floats:
    """Collapse items to one mean per cluster: [n], [n] -> [k], in order of the cluster labels.

    >>> cluster_means([1, 3, 5], [7, 7, 9]).tolist()
    [2.0, 5.0]
    """
    index, k = _compact(clusters)
    items = np.asarray(values, dtype=np.float64)
    if len(items) != len(index):
        raise ValueError(f"{len(items)} values but {len(index)} cluster labels")
    return np.bincount(index, weights=items, minlength=k) / np.bincount(index, minlength=k)


def cluster_bootstrap(
    values: NDArray[Any],
    clusters: ArrayLike,
    statistic: Statistic | None = None,
    *,
    seed: int = 0,
    draws: int = 1000,
) -> Interval:
    """95% percentile bootstrap interval, resampling whole clusters with replacement.

    A statistic over several arrays (AUROC, Kolmogorov-Smirnov, a paired difference) is written by letting
    the rows carry everything: pass ``values`` [n, 2] with columns such as score and label, or pass
    ``np.arange(n)`` and index the arrays inside the statistic.

    Args:
        values: [n] or [n, ...], one row per record.
        clusters: [n] cluster label of each row.
        statistic: Maps resampled rows ``values[index]`` to a number; the mean if not given. A resample on
            which it returns NaN (for example only one class was drawn) is left out.
        seed: Seeds the resampling.
        draws: Number of resamples.

    Returns:
        The statistic on all rows with its interval. The ends are NaN if there is only one cluster, since
        nothing is then known about the spread between clusters.

    Raises:
        ValueError: No rows, or not one cluster label per row.
    """
    index, k = _compact(clusters)
    if len(values) == 0 or len(values) != len(index):
        raise ValueError(f"{len(values)} rows and {len(index)} cluster labels: need as many, at least one")
    value = float(np.mean(values)) if statistic is None else float(statistic(values))
    if k == 1:
        return Interval(value, float("nan"), float("nan"))
    rng = np.random.default_rng(seed)
    if statistic is None:
        counts = rng.multinomial(k, np.full(k, 1 / k), size=draws)  # [draws, k]
        sums = np.bincount(index, weights=np.asarray(values, dtype=np.float64), minlength=k)
        resampled = (counts @ sums) / (counts @ np.bincount(index, minlength=k))
    else:
        rows = np.split(np.argsort(index, kind="stable"), np.cumsum(np.bincount(index))[:-1])
        picks = rng.integers(k, size=(draws, k))
        resampled = np.array([statistic(values[np.concatenate([rows[c] for c in pick])]) for pick in picks])
    resampled = resampled[~np.isnan(resampled)]
    if len(resampled) == 0:
        return Interval(value, float("nan"), float("nan"))
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Interval(value, float(low), float(high))


def bca_interval(means: ArrayLike, *, level: float = 0.95, draws: int = 10_000, seed: int = 0) -> Interval:
    """Bias-corrected and accelerated bootstrap interval of the mean of cluster means (Efron 1987).

    Args:
        means: [k] cluster means.
        level: Two-sided coverage. The upper end at 0.90 is the one-sided 95% bound.
        draws: Number of resamples.
        seed: Seeds the resampling.
    """
    from scipy import stats

    x = np.asarray(means, dtype=np.float64)
    value = float(x.mean())
    if len(x) < 2 or float(np.ptp(x)) == 0.0:  # no spread: the bootstrap distribution is a point
        end = value if len(x) > 1 else float("nan")
        return Interval(value, end, end)
    ends = stats.bootstrap(
        (x,),
        np.mean,
        n_resamples=draws,
        confidence_level=level,
        method="BCa",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(value, float(ends.low), float(ends.high))


def upper_bound(means: ArrayLike, *, alpha: float = 0.05, seed: int = 0) -> float:
    """One-sided upper confidence bound of the mean of cluster means: the larger of BCa and Student's t.

    BCa alone is too narrow with few clusters (about 8% instead of 5% misses at 10), and an acquittal
    must not profit from that; t alone misses skew.
    """
    from scipy import stats

    x = np.asarray(means, dtype=np.float64)
    if len(x) < 2:
        return float("nan")
    student = x.mean() + stats.t.ppf(1 - alpha, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x))
    return float(max(student, bca_interval(x, level=1 - 2 * alpha, seed=seed).high))


def one_sided_p(means: ArrayLike, null: float = 0.0) -> float:
    """P-value of a one-sided t-test on cluster means; the alternative is a mean above ``null``."""
    from scipy import stats

    x = np.asarray(means, dtype=np.float64)
    if len(x) < 2:
        return float("nan")
    error = x.std(ddof=1) / np.sqrt(len(x))
    if error == 0:
        return 0.0 if x.mean() > null else 1.0
    return float(stats.t.sf((x.mean() - null) / error, len(x) - 1))


def holm(p_values: Sequence[float] | Floats) -> Floats:
    """Holm's step-down adjusted p-values [m], in the order given (Holm 1979).

    The i-th smallest (i = 0..m-1) is multiplied by m - i, made non-decreasing and capped at 1.
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    stepped = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    adjusted = np.empty_like(stepped)
    adjusted[order] = stepped
    return adjusted


def simulate_rates(
    clusters: int,
    items: int,
    *,
    residue: float | Sequence[float] = 0.0,
    delta: float = 0.10,
    alpha: float = 0.05,
    channels: int = 6,
    correlation: float = 0.5,
    cluster_sd: float = 0.10,
    item_sd: float = 0.25,
    gap: float = 0.6,
    runs: int = 2000,
    seed: int = 0,
) -> Rates:
    """Simulate audits and count decisions: acquitted on every channel, convicted on at least one.

    Cluster mean of channel c: residue_c * gap + sqrt(cluster_sd^2 + item_sd^2 / items) * z_c, with the z_c
    standard normal and correlated across channels. Bounds are Student's (as in :func:`upper_bound` where it
    counts); conviction asks for a mean above delta and a Holm-adjusted p-value below alpha.

    Args:
        clusters: Number of clusters scored.
        items: Facts in each cluster.
        residue: True residue as a share of the gap, for all channels or one each.
        delta: Tolerance as a share of the gap.
        alpha: Level of the tests.
        channels: Number of channels.
        correlation: Correlation between channels.
        cluster_sd: Standard deviation between clusters, in score units.
        item_sd: Standard deviation between items of a cluster, in score units.
        gap: Target's score minus gold's.
        runs: Number of audits simulated.
        seed: Seeds the draws.
    """
    from scipy import stats

    rng = np.random.default_rng(seed)
    z = np.sqrt(1 - correlation) * rng.standard_normal((runs, channels, clusters))
    z += np.sqrt(correlation) * rng.standard_normal((runs, 1, clusters))
    truth = np.broadcast_to(np.asarray(residue, dtype=np.float64), (channels,)) * gap
    excess = truth[:, None] + np.sqrt(cluster_sd**2 + item_sd**2 / items) * z  # [runs, channels, clusters]
    mean = excess.mean(axis=-1)
    error = excess.std(axis=-1, ddof=1) / np.sqrt(clusters)
    acquitted = (mean + stats.t.ppf(1 - alpha, clusters - 1) * error < delta * gap).all(axis=-1)
    p = stats.t.sf(mean / error, clusters - 1)
    order = np.argsort(p, axis=-1)
    steps = np.maximum.accumulate(np.take_along_axis(p, order, -1) * np.arange(channels, 0, -1), axis=-1)
    above = np.take_along_axis(mean, order, -1) > delta * gap
    convicted = ((steps < alpha) & above).any(axis=-1)
    return Rates(float(acquitted.mean()), float(convicted.mean()))


def acquittal_power(
    clusters: int,
    sd: float,
    margin: float,
    *,
    channels: int = 6,
    correlation: float = 0.5,
    alpha: float = 0.05,
) -> float:
    """Chance that a model with no residue at all is acquitted on every channel (t bounds).

    Given the factor shared by the channels, each channel's bound stays below the margin with a non-central t
    probability; the shared factor is integrated out by Gauss-Hermite quadrature. Treats the channels'
    standard deviations as independent, which :func:`simulate_rates` confirms to within 3 points.

    Args:
        clusters: Number of clusters scored, at least 2.
        sd: Standard deviation of a channel's excess between clusters, in score units.
        margin: delta * gap, in score units.
        channels: Number of channels that must acquit.
        correlation: Correlation between channels, in [0, 1).
        alpha: One-sided level of each bound.
    """
    from scipy import stats

    if sd == 0:
        return 1.0
    scale = np.sqrt(1 - correlation)
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    centre = (np.sqrt(correlation) * nodes - np.sqrt(clusters) * margin / sd) / scale
    critical = -stats.t.ppf(1 - alpha, clusters - 1) / scale
    passes = np.clip(np.nan_to_num(stats.nct.cdf(critical, clusters - 1, centre), nan=0.0), 0.0, 1.0)
    return float(np.sum(weights * passes**channels) / np.sqrt(2 * np.pi))


def clusters_needed(
    sd: float,
    margin: float,
    *,
    power: float = 0.80,
    channels: int = 6,
    correlation: float = 0.5,
    alpha: float = 0.05,
) -> int | None:
    """Smallest number of clusters that acquits a model without residue with the given chance.

    Arguments as in :func:`acquittal_power`. Returns None when 100,000 clusters do not suffice.
    """

    def enough(n: int) -> bool:
        return acquittal_power(n, sd, margin, channels=channels, correlation=correlation, alpha=alpha) >= power

    low, high = 4, 5
    while not enough(high):
        low, high = high, 2 * high
        if high > 100_000:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
