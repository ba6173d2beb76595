"""Exact curves over membership scores (higher = more like a member), ties handled, clusters resampled.

>>> auroc([3, 2], [1, 2])  # of four pairs the member wins three and ties one
0.875
>>> tpr_at_fpr([3, 2], [1, 2], fpr=0.5)
1.0
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expunge.errors import InputError
from expunge.report.statistics import Interval

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
BLOCK = 4_000_000  # numbers held at a time where an array of all pairs or all draws could be large


class Steps(NamedTuple):
    """Every threshold that decides differently, from the strictest on; row 0 calls nobody a member.

    Attributes:
        threshold: [k] a row is called a member when its score reaches it; infinity in row 0.
        true_positives: [k] members called so.
        false_positives: [k] non-members called so.
    """

    threshold: Floats
    true_positives: Ints
    false_positives: Ints


class Roc(NamedTuple):
    """The corners of a ROC curve from (0, 0) to (1, 1), both rates non-decreasing."""

    fpr: Floats
    tpr: Floats


def auroc(member_scores: ArrayLike, nonmember_scores: ArrayLike) -> float:
    """P(member > non-member) + P(tie) / 2 over all pairs: the Mann-Whitney statistic from midranks.

    Args:
        member_scores: [n].
        nonmember_scores: [m].

    Returns:
        1: members always score higher (full leak); 0.5: no signal.

    Raises:
        InputError: One side is empty, or a score is NaN.
    """
    members, others = _checked(member_scores, nonmember_scores)
    ordered = np.sort(others)
    below = np.searchsorted(ordered, members, side="left")
    up_to = np.searchsorted(ordered, members, side="right")
    return float((below + up_to).sum() / (2 * len(members) * len(others)))


def by_membership(scores: ArrayLike, member: ArrayLike) -> tuple[Floats, Floats]:
    """Scores of members and of non-members.

    >>> [side.tolist() for side in by_membership([0.1, 0.7, 0.4], [False, True, False])]
    [[0.7], [0.1, 0.4]]

    Args:
        scores: [n].
        member: [n] booleans, or 0 and 1.

    Raises:
        InputError: Shapes that differ, a membership that is neither, only one of the two, or a NaN score.
    """
    values, labels = np.asarray(scores, dtype=np.float64), np.asarray(member)
    if values.ndim != 1 or labels.shape != values.shape:
        raise InputError(f"Scores of shape {values.shape} need memberships of the same; found shape {labels.shape}.")
    if not np.isin(labels, (0, 1)).all():
        raise InputError(
            f"The membership of row {int(np.isin(labels, (0, 1)).argmin()) + 1} is neither true nor false."
        )
    inside = labels.astype(bool)
    if inside.all() or not inside.any():
        kind = "a member" if inside.any() else "a non-member"
        raise InputError(f"Each of the {len(inside)} records is {kind}; telling the two apart takes some of either.")
    return _checked(values[inside], values[~inside])


def roc_steps(member_scores: ArrayLike, nonmember_scores: ArrayLike) -> Steps:
    """All thresholds with their counts, none left out; tied scores are one step.

    Raises:
        InputError: As `auroc`.
    """
    members, others = _checked(member_scores, nonmember_scores)
    order, last = _descending(members, others)
    caught = order < len(members)
    counts = [np.concatenate([[0], np.cumsum(side)[last]]).astype(np.int64) for side in (caught, ~caught)]
    scores = np.concatenate([members, others])[order[last]]
    return Steps(np.concatenate([[np.inf], scores]), *counts)


def roc_curve(member_scores: ArrayLike, nonmember_scores: ArrayLike) -> Roc:
    """The ROC curve; tied scores are one step, and points on a straight line are left out.

    Raises:
        InputError: As `auroc`.
    """
    _, tp, fp = roc_steps(member_scores, nonmember_scores)
    turns = np.diff(tp)[:-1] * np.diff(fp)[1:] != np.diff(tp)[1:] * np.diff(fp)[:-1]
    corner = np.concatenate([[True], turns, [True]])
    return Roc(fp[corner] / fp[-1], tp[corner] / tp[-1])


def tpr_at_fpr(member_scores: ArrayLike, nonmember_scores: ArrayLike, fpr: float = 0.01) -> float:
    """The largest true positive rate of a threshold whose empirical false positive rate is at most `fpr`.

    A row is called a member when its score reaches the threshold; the threshold is one of the scores or
    above all of them, with no interpolation between two thresholds and no random breaking of ties.

    Args:
        member_scores: [n].
        nonmember_scores: [m].
        fpr: Highest false positive rate, in [1/m, 1].

    Raises:
        InputError: As `auroc`; or `fpr` is below 1/m, which m non-members cannot resolve.
    """
    members, others = _checked(member_scores, nonmember_scores)
    _supported(len(others), fpr)
    order, steps = _descending(members, others)
    return float(_tpr(order < len(members), steps, np.ones((1, len(order))), fpr)[0])


def balanced_accuracy(member_scores: ArrayLike, nonmember_scores: ArrayLike) -> float:
    """The best (TPR + TNR) / 2 over all thresholds, at least 0.5.

    The threshold is chosen on the scored rows themselves, which flatters the attacker on few rows.

    Raises:
        InputError: As `auroc`.
    """
    curve = roc_curve(member_scores, nonmember_scores)
    return float(0.5 + np.max(curve.tpr - curve.fpr) / 2)


def auroc_interval(
    member_scores: ArrayLike,
    nonmember_scores: ArrayLike,
    member_clusters: ArrayLike,
    nonmember_clusters: ArrayLike,
    *,
    seed: int = 0,
    draws: int = 1000,
) -> Interval:
    """AUROC with its 95% percentile interval, clusters of both sides resampled with replacement.

    Pairs won are counted once per pair of clusters, W [C, D]. A draw takes cluster c of the members a_c times
    and cluster d of the non-members b_d times, so its AUROC is a^T W b / (a^T n)(b^T m) with cluster sizes
    n and m: exact, and 1000 draws are two matrix products.

    Args:
        member_scores: [n].
        nonmember_scores: [m].
        member_clusters: [n] cluster labels.
        nonmember_clusters: [m] cluster labels, of other clusters than the members'.
        seed: Seeds the resampling.
        draws: Number of resamples.

    Returns:
        The estimate and its interval, with NaN ends if either side is a single cluster.

    Raises:
        InputError: As `auroc`.
        ValueError: Not one cluster label per row.
    """
    members, others = _checked(member_scores, nonmember_scores)
    value = auroc(members, others)
    a_of, n = _compact(member_clusters, len(members))
    b_of, m = _compact(nonmember_clusters, len(others))
    if len(n) == 1 or len(m) == 1:
        return Interval(value, float("nan"), float("nan"))
    wins = _wins(members, others, a_of, b_of)
    a, b = _multiplicities(len(n), len(m), seed, draws)
    resampled = ((a @ wins) * b).sum(1) / ((a @ n) * (b @ m))
    return _interval(value, resampled)


def tpr_at_fpr_interval(
    member_scores: ArrayLike,
    nonmember_scores: ArrayLike,
    member_clusters: ArrayLike,
    nonmember_clusters: ArrayLike,
    fpr: float = 0.01,
    *,
    seed: int = 0,
    draws: int = 1000,
) -> Interval:
    """`tpr_at_fpr` with its 95% percentile interval; the threshold is chosen anew in every draw.

    Arguments, return value and errors as in `auroc_interval` and `tpr_at_fpr`.
    """
    members, others = _checked(member_scores, nonmember_scores)
    value = tpr_at_fpr(members, others, fpr)
    a_of, n = _compact(member_clusters, len(members))
    b_of, m = _compact(nonmember_clusters, len(others))
    if len(n) == 1 or len(m) == 1:
        return Interval(value, float("nan"), float("nan"))
    a, b = _multiplicities(len(n), len(m), seed, draws)
    order, steps = _descending(members, others)
    caught = order < len(members)
    chunk = max(1, BLOCK // len(order))
    pieces = [
        _tpr(caught, steps, np.hstack([a[s : s + chunk, a_of], b[s : s + chunk, b_of]])[:, order], fpr)
        for s in range(0, draws, chunk)
    ]
    return _interval(value, np.concatenate(pieces))


def _checked(member_scores: ArrayLike, nonmember_scores: ArrayLike) -> tuple[Floats, Floats]:
    sides = []
    for name, scores in (("members", member_scores), ("non-members", nonmember_scores)):
        array = np.asarray(scores, dtype=np.float64)
        if array.ndim != 1 or len(array) == 0:
            raise InputError(f"Membership needs a list of scores of {name}; found shape {array.shape}.")
        if np.isnan(array).any():
            raise InputError(f"The membership score of row {int(np.isnan(array).argmax()) + 1} of the {name} is NaN.")
        sides.append(array)
    return sides[0], sides[1]


def _supported(nonmembers: int, fpr: float) -> None:
    if not 0 < fpr <= 1 or fpr * nonmembers < 1 - 1e-9:
        raise InputError(
            f"A false positive rate of {fpr} cannot be measured on {nonmembers} non-members: "
            f"it must lie between 1/{nonmembers} = {1 / nonmembers:.3g} and 1."
        )


def _descending(members: Floats, others: Floats) -> tuple[Ints, Ints]:
    """Rows of both sides, members first, by falling score; and the last place of each run of equal scores."""
    scores = np.concatenate([members, others])
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    return order, np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))


def _tpr(caught: NDArray[np.bool_], steps: Ints, weights: Floats, fpr: float) -> Floats:
    """[draws] TPR at `fpr` where draw r holds row i of the descending order ``weights[r, i]`` times."""
    tp = np.cumsum(weights * caught, axis=1)
    fp = np.cumsum(weights * ~caught, axis=1)
    allowed = np.floor(fpr * fp[:, -1:] + 1e-9)  # 0.29 * 100 is 28.999999999999996
    best = np.where(fp[:, steps] <= allowed, tp[:, steps], 0.0).max(axis=1)
    return np.asarray(best / tp[:, -1], dtype=np.float64)


def _wins(members: Floats, others: Floats, a_of: Ints, b_of: Ints) -> Floats:
    """[C, D] pairs won by the member (a tie counts half), summed over each pair of clusters."""
    by_a, by_b = np.argsort(a_of, kind="stable"), np.argsort(b_of, kind="stable")
    x, y = members[by_a], others[by_b]
    starts_a = np.flatnonzero(np.diff(a_of[by_a], prepend=-1))
    starts_b = np.flatnonzero(np.diff(b_of[by_b], prepend=-1))
    rows = max(1, BLOCK // len(y))
    blocks = [x[s : s + rows, None] for s in range(0, len(x), rows)]
    won = [np.add.reduceat((b > y) + 0.5 * (b == y), starts_b, axis=1) for b in blocks]  # [rows, D] each
    return np.asarray(np.add.reduceat(np.concatenate(won), starts_a, axis=0), dtype=np.float64)


def _compact(clusters: ArrayLike, rows: int) -> tuple[Ints, Floats]:
    """[n] cluster index 0..k-1 of each row and [k] cluster sizes."""
    labels = np.asarray(clusters)
    if labels.shape != (rows,):
        raise ValueError(f"{rows} scores but cluster labels of shape {labels.shape}")
    _, index, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    return index.astype(np.int64).ravel(), sizes.astype(np.float64)


def _multiplicities(c: int, d: int, seed: int, draws: int) -> tuple[Floats, Floats]:
    """How often each draw takes each cluster: [draws, c] and [draws, d]."""
    rng = np.random.default_rng(seed)
    a = rng.multinomial(c, np.full(c, 1 / c), size=draws).astype(np.float64)
    return a, rng.multinomial(d, np.full(d, 1 / d), size=draws).astype(np.float64)


def _interval(value: float, resampled: Floats) -> Interval:
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Interval(value, float(low), float(high))
