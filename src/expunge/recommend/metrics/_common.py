"""What the metrics share: findings, and bootstrap draws of users that both sides of a comparison take part in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from expunge.errors import InputError
from expunge.report.scorecard import Direction, Finding
from expunge.report.statistics import Interval

if TYPE_CHECKING:
    from expunge.recommend.evidence import EvidenceStore

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
HELD = 8_000_000  # weights held at a time
UNKNOWN = float("nan")


def direction(split: str) -> Direction:
    """Gold's value is the ideal on what must go; elsewhere more is better.

    >>> direction("forget"), direction("test")
    ('match-gold', 'higher')
    """
    return "match-gold" if split == "forget" else "higher"


def single(metric: str, split: str, model: EvidenceStore, value: float, n: int, ideal: Direction) -> Finding:
    """A finding without an interval."""
    return Finding(metric, split, model.name, value, UNKNOWN, UNKNOWN, n, ideal)


def by_users(
    statistic: Callable[[Sequence[Floats]], Floats], sides: Sequence[Ints], *, seed: int = 0, draws: int = 1000
) -> Interval:
    """95% percentile interval of a statistic over several lists of interactions, the same users drawn for each.

    The two sides of a comparison come from the same people, so a draw that takes a user twice takes them twice on
    every side.

    Args:
        statistic: From weights [draws, n] of the rows of each side to values [draws].
        sides: [n] user of each row, for each side.
        seed: Seeds the draws.
        draws: Number of them.

    Returns:
        The value under equal weights, and the ends; NaN ends for a single user.

    Raises:
        InputError: A side is empty.
    """
    if any(len(side) == 0 for side in sides):
        raise InputError("There are no interactions on one side of a comparison.")
    distinct, places = np.unique(np.concatenate(sides), return_inverse=True)
    index = np.split(places.ravel(), np.cumsum([len(side) for side in sides])[:-1])
    value = float(statistic([np.ones((1, len(side))) for side in sides])[0])
    if len(distinct) == 1:
        return Interval(value, UNKNOWN, UNKNOWN)
    chunks = _drawn(len(distinct), max(map(len, sides)), seed, draws)
    found = np.concatenate([statistic([counts[:, rows] for rows in index]) for counts in chunks])
    found = found[~np.isnan(found)]
    if not len(found):
        return Interval(value, UNKNOWN, UNKNOWN)
    low, high = np.quantile(found, [0.025, 0.975])
    return Interval(value, float(low), float(high))


def _drawn(users: int, rows: int, seed: int, draws: int) -> Iterator[Floats]:
    """How often each draw takes each user, some draws at a time: [chunk, users]."""
    rng, chunk = np.random.default_rng(seed), max(1, HELD // rows)
    for start in range(0, draws, chunk):
        size = min(chunk, draws - start)
        yield rng.multinomial(users, np.full(users, 1 / users), size=size).astype(np.float64)


def weighted_auroc(members: Floats, others: Floats) -> Callable[[Sequence[Floats]], Floats]:
    """P(member > other) + P(tie) / 2 under weights of both sides: weights [draws, n], [draws, m] -> [draws]."""
    order = np.argsort(others, kind="stable")
    below, up_to = (np.searchsorted(others[order], members, side=side) for side in ("left", "right"))

    def statistic(weights: Sequence[Floats]) -> Floats:
        ours, theirs = weights
        under = np.cumsum(np.pad(theirs[:, order], ((0, 0), (1, 0))), axis=1)  # weight of the first i others
        won = (ours * (under[:, below] + under[:, up_to])).sum(1) / 2
        pairs = ours.sum(1) * under[:, -1]
        return _divided(won, pairs)

    return statistic


def weighted_ks(a: Floats, b: Floats) -> Callable[[Sequence[Floats]], Floats]:
    """Largest difference of two weighted distribution functions: weights [draws, n], [draws, m] -> [draws]."""
    values = np.concatenate([a, b])
    order = np.argsort(values, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(values[order]) > 0, True))  # where a run of equal values is over
    first = order < len(a)

    def statistic(weights: Sequence[Floats]) -> Floats:
        joined = np.concatenate([w / w.sum(1, keepdims=True) for w in weights], axis=1)[:, order]
        gap = np.cumsum(np.where(first, joined, -joined), axis=1)[:, ends]
        return np.asarray(np.abs(gap).max(1))

    return statistic


def ratio_of_means(a: Floats, b: Floats) -> Callable[[Sequence[Floats]], Floats]:
    """Mean of a / mean of b: weights [draws, n], [draws, m] -> [draws]; NaN where the mean of b is 0."""

    def statistic(weights: Sequence[Floats]) -> Floats:
        means = [w @ values / w.sum(1) for w, values in zip(weights, (a, b), strict=True)]
        return _divided(means[0], means[1])

    return statistic


def _divided(a: Floats, b: Floats) -> Floats:
    """a / b; NaN where b is 0."""
    out: Floats = np.full(len(a), UNKNOWN)
    np.divide(a, b, out=out, where=b != 0)
    return out
