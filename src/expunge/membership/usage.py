"""How large a share of some records a model still uses (DUCI): the direct question after unlearning."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expunge.errors import InputError
from expunge.membership.thresholds import Calibration

Floats = NDArray[np.float64]
BLOCK = 4_000_000  # numbers held at a time
CHANCE = 0.01  # probability with which a powerless attack passes for one with power


class Usage(NamedTuple):
    """An estimate of the share of records that were trained on.

    Attributes:
        share: The estimate, clipped to [0, 1].
        raw: As it came out; far outside [0, 1] the calibration does not fit the model.
        low: Lower end of the 95% interval of `raw`; NaN with a single cluster or record.
        high: Its upper end.
        tpr: Rate at which the attack calls members so, on the stand-ins.
        fpr: Rate at which it calls non-members so.
        records: How many.
        note: Says so where the estimate was clipped, or its calibration rests on one model; else empty.
    """

    share: float
    raw: float
    low: float
    high: float
    tpr: float
    fpr: float
    records: int
    note: str


def used_share(
    scores: ArrayLike,
    calibration: Calibration,
    clusters: ArrayLike | None = None,
    *,
    seed: int = 0,
    draws: int = 1000,
) -> Usage:
    """p_hat = mean_i (m_i - FPR) / (TPR - FPR) (DUCI: Tong et al., ICLR 2025), m_i = 1 where x_i is called a member.

    An attack that errs at known rates on single records is right about how many there are. The rates come from
    reference models in the place of the target; the threshold that makes TPR - FPR largest (`calibrated_threshold`
    without `fpr`) gives the narrowest interval. They must hold for the audited model: after unlearning, records may
    score *lower* than records never seen, and the raw estimate then falls below 0.

    Args:
        scores: [n] scores of the records in question under the audited model.
        calibration: From `calibrated_threshold`, with the same detector.
        clusters: [n] who or what each record is about; None for records that stand alone.
        seed: Seeds the bootstrap.
        draws: Bootstrap draws: clusters, and the stand-ins the rates come from, are resampled.

    Raises:
        InputError: No score, one that is not finite, not one cluster for each, or an attack without power: its TPR -
            FPR is within what the best of all thresholds reaches by chance.
    """
    called = calibration.decide(scores)
    if called.ndim != 1 or len(called) == 0:
        raise InputError(f"The share of records still in use needs a list of scores; found shape {called.shape}.")
    _require_power(calibration)
    tpr, fpr = calibration.tpr, calibration.fpr
    raw = float((called.mean() - fpr) / (tpr - fpr))
    low, high = _interval(called, clusters, calibration, seed, draws)
    share = min(1.0, max(0.0, raw))
    notes = []
    if share != raw:
        notes.append(f"The estimate {raw:.4f} lies outside [0, 1] and was clipped.")
    if len(calibration.members) == 1:
        notes.append("TPR and FPR come from one stand-in; how far models differ is not in the interval.")
    return Usage(share, raw, low, high, tpr, fpr, len(called), " ".join(notes))


def _require_power(calibration: Calibration) -> None:
    """Against the two-sample Kolmogorov-Smirnov bound: TPR - FPR is such a distance, at the best threshold the largest.

    The one-sided bound is exceeded by chance with probability exp(-2 d^2 nm / (n + m)) at most.
    """
    members, others = int(calibration.members.sum()), int(calibration.nonmembers.sum())
    bound = float(np.sqrt(-np.log(CHANCE) / 2 * (members + others) / (members * others)))
    if calibration.tpr - calibration.fpr <= bound:
        raise InputError(
            f"The attack has no power: on the reference models it calls {calibration.tpr:.1%} of members and "
            f"{calibration.fpr:.1%} of non-members members, and chance alone gives a difference of up to {bound:.1%}. "
            f"The share of records in use cannot be told."
        )


def _interval(
    called: NDArray[np.bool_], clusters: ArrayLike | None, calibration: Calibration, seed: int, draws: int
) -> tuple[float, float]:
    sizes, hits = _per_cluster(called, clusters)
    if len(sizes) == 1:
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    if clusters is None:  # resampling single rows is a binomial draw
        share = rng.binomial(len(called), called.mean(), size=draws) / len(called)
    else:
        share = _resampled(rng, hits, sizes, draws)
    rng = np.random.default_rng([seed, 1])
    tpr = _resampled(rng, calibration.caught, calibration.members, draws)
    rng = np.random.default_rng([seed, 1])  # the same stand-ins for both rates
    fpr = _resampled(rng, calibration.false_alarms, calibration.nonmembers, draws)
    if (tpr <= fpr).any():
        raise InputError("The attack has power on some reference models and none on others: use more of them.")
    low, high = np.quantile((share - fpr) / (tpr - fpr), [0.025, 0.975])
    return float(low), float(high)


def _per_cluster(called: NDArray[np.bool_], clusters: ArrayLike | None) -> tuple[Floats, Floats]:
    """[k] records of each cluster, and how many of them are called members."""
    labels = np.arange(len(called)) if clusters is None else np.asarray(clusters)
    if labels.shape != called.shape:
        raise InputError(f"{len(called)} scores but cluster labels of shape {labels.shape}.")
    _, index, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    return sizes.astype(np.float64), np.bincount(index.ravel(), weights=called).astype(np.float64)


def _resampled(rng: np.random.Generator, hits: ArrayLike, sizes: ArrayLike, draws: int) -> Floats:
    """[draws] hits over sizes, of k things drawn with replacement; some draws at a time."""
    top, bottom = np.asarray(hits, dtype=np.float64), np.asarray(sizes, dtype=np.float64)
    k = len(top)
    chunk = max(1, BLOCK // k)
    parts = [
        (times @ top) / (times @ bottom)
        for start in range(0, draws, chunk)
        for times in [rng.multinomial(k, np.full(k, 1 / k), size=min(chunk, draws - start))]
    ]
    return np.concatenate(parts)
