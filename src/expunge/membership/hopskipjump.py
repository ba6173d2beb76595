"""HopSkipJump: how far is a record from the decision boundary, seen through predicted classes alone.

Chen, Jordan and Wainwright 2020 (arXiv 1904.02144), for the L2 norm, with the constants of the Adversarial Robustness
Toolbox, which TDDBench (arXiv 2411.03363) uses. All records are attacked side by side: every step of every record is
one batch. Two things differ. Random directions and first guesses are drawn once for all records, so what is found for
one does not depend on the others; and the closest point seen is kept, where the published code returns the last
one, a step away from the boundary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from expunge.errors import InputError
from expunge.membership.classifier import Floats, Ints

Bools: TypeAlias = NDArray[np.bool_]
Predict: TypeAlias = Callable[[Floats], Ints]

BLOCK = 8_000_000  # numbers of a batch of queries
HALVINGS = 60  # of a step, after which float64 cannot tell it from none


@dataclass(frozen=True)
class BoundarySettings:
    """What the search may spend.

    Attributes:
        iterations: Gradient estimates, each with a step and a binary search. Source: reference code.
        evaluations: Most queries of one gradient estimate. Source: reference code.
        first_evaluations: Queries of the first one; the t-th takes sqrt(t) times as many. Source: reference code.
        trials: Random images tried as a first point of another class. Source: reference code.
    """

    iterations: int = 50
    evaluations: int = 10_000
    first_evaluations: int = 100
    trials: int = 100

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < (0 if name == "iterations" else 1):
                raise InputError(f"HopSkipJump: {name}={value} is too small.")


class Boundary(NamedTuple):
    """Points beyond the decision boundary.

    Attributes:
        points: [n, ...] the closest point found that gets another class; the record itself where that is misclassified
            or nothing was found.
        distances: [n] L2 distance from the record; 0 where it is misclassified, infinite where nothing was found.
        found: [n] whether a point of another class is known.
        queries: [n] points classified for each record, the record itself among them.
        shared: Points classified for all of them together: the first guesses.
    """

    points: Floats
    distances: Floats
    found: Bools
    queries: Ints
    shared: int


def hop_skip_jump(
    predict: Predict,
    x: Floats,
    labels: Ints,
    low: Floats,
    high: Floats,
    *,
    seed: int,
    settings: BoundarySettings | None = None,
) -> Boundary:
    """Find the decision boundary near each record.

    Args:
        predict: Points [k, ...] to classes [k].
        x: [n, ...] records.
        labels: [n] true classes; a point counts as beyond the boundary where it gets any other.
        low: Least value of each feature, of the shape of one record.
        high: Greatest value.
        seed: Fixes the random directions and first guesses.
        settings: See `BoundarySettings`.
    """
    s, shape, n = settings or BoundarySettings(), x.shape[1:], len(x)
    asked = np.zeros(n, dtype=np.int64)
    flat, lo, hi = x.reshape(n, -1), low.reshape(-1), high.reshape(-1)

    def crossed(points: Floats, rows: Ints) -> Bools:
        """[k, m] whether points [k, m, d] of records `rows` [k] get another class than these."""
        asked[rows] += points.shape[1]
        classes = predict(points.reshape(-1, *shape)).reshape(points.shape[:2])
        return np.asarray(classes != labels[rows, None])

    wrong = _in_blocks(crossed, flat[:, None], np.arange(n))[:, 0]
    start, shared = flat.copy(), 0
    found = wrong.copy()
    if not wrong.all():
        guesses = np.random.default_rng([seed, 0]).uniform(lo, hi, (s.trials, flat.shape[1]))
        classes, shared = predict(guesses.reshape(-1, *shape)), s.trials
        other = classes[None, :] != labels[:, None]
        found |= other.any(1)
        start = np.where((found & ~wrong)[:, None], guesses[other.argmax(1)], flat)
    best, distances = start.copy(), np.where(wrong, 0.0, np.inf)
    rows = np.flatnonzero(found & ~wrong)
    if len(rows):
        best[rows] = _search(crossed, flat[rows], start[rows], rows, lo, hi, seed, s)
        distances[rows] = np.linalg.norm(best[rows] - flat[rows], axis=1)
    return Boundary(best.reshape(x.shape), distances, found, asked, shared)


Crossed: TypeAlias = Callable[[Floats, Ints], Bools]


def _search(
    crossed: Crossed, x: Floats, points: Floats, rows: Ints, low: Floats, high: Floats, seed: int, s: BoundarySettings
) -> Floats:
    """[k, d] the closest points seen, from first points beyond the boundary."""
    d = x.shape[1]
    theta = 0.01 / np.sqrt(d)  # how near to the boundary a binary search goes, as a share of the distance
    points = _towards(crossed, x, points, rows, 0.001)
    best = points
    for t in range(s.iterations):
        points = _towards(crossed, x, points, rows, theta)
        best = _closer(x, points, best)
        distance = np.linalg.norm(points - x, axis=1)
        # The first estimate is made far from x, by a step of a fixed size; later ones by a share of the distance.
        delta = np.full(len(x), 0.1 * (high - low).max()) if t == 0 else np.sqrt(d) * theta * distance
        count = min(int(s.first_evaluations * np.sqrt(t + 1)), s.evaluations)
        directions = np.random.default_rng([seed, 1, t]).standard_normal((count, d))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        gradient = _gradient(crossed, points, rows, directions, np.maximum(delta, 1e-12), low, high)
        points = _step(crossed, points, rows, gradient, distance / np.sqrt(t + 1), low, high)
    best = _closer(x, _towards(crossed, x, points, rows, theta), best)
    return _confirmed(crossed, x, best, rows, theta)


def _towards(crossed: Crossed, x: Floats, points: Floats, rows: Ints, threshold: float) -> Floats:
    """Binary search on the way from each point to its record: the last place known to lie beyond the boundary."""
    inside, beyond = np.zeros(len(x)), np.ones(len(x))
    while beyond[0] - inside[0] > threshold:  # the same for all
        middle = (inside + beyond) / 2
        between = x + middle[:, None] * (points - x)
        over = _in_blocks(crossed, between[:, None], rows)[:, 0]
        inside, beyond = np.where(over, inside, middle), np.where(over, middle, beyond)
    return np.asarray(np.where((beyond == 1)[:, None], points, x + beyond[:, None] * (points - x)))


def _gradient(
    crossed: Crossed, points: Floats, rows: Ints, directions: Floats, delta: Floats, low: Floats, high: Floats
) -> Floats:
    """[k, d] unit vectors along which the boundary is crossed: eq. 16 of the paper, with its baseline.

    (1 / B) sum_b (phi(x + delta u_b) - mean phi) u_b, phi = 1 beyond the boundary and -1 before it.
    """
    found = np.empty_like(points)
    block = max(1, BLOCK // directions.size)
    for start in range(0, len(points), block):
        part = slice(start, start + block)
        around = points[part, None] + delta[part, None, None] * directions
        np.clip(around, low, high, out=around)
        phi = np.where(crossed(around, rows[part]), 1.0, -1.0)
        mean = phi.mean(1, keepdims=True)
        weight = np.where(np.abs(mean) == 1, phi, phi - mean)  # all on one side: the mean direction, or away from it
        around -= points[part, None]
        found[part] = (weight[:, None] @ around)[:, 0]  # delta and B change the length alone
    length = np.linalg.norm(found, axis=1, keepdims=True)
    return np.asarray(found / np.maximum(length, np.finfo(np.float64).tiny))


def _step(
    crossed: Crossed, points: Floats, rows: Ints, gradient: Floats, size: Floats, low: Floats, high: Floats
) -> Floats:
    """Geometric progression: steps are halved until they end beyond the boundary."""
    moved, size = points.copy(), size.copy()
    left = np.arange(len(points))
    for _ in range(HALVINGS):
        tried = np.clip(points[left] + size[left, None] * gradient[left], low, high)
        over = _in_blocks(crossed, tried[:, None], rows[left])[:, 0]
        moved[left[over]] = tried[over]
        left = left[~over]
        if not len(left):
            break
        size[left] /= 2
    return moved


def _confirmed(crossed: Crossed, x: Floats, points: Floats, rows: Ints, theta: float) -> Floats:
    """Asked once more: another batch may round differently, and a point that falls back is moved a little away."""
    points, left = points.copy(), np.arange(len(points))
    for _ in range(HALVINGS):
        left = left[~_in_blocks(crossed, points[left][:, None], rows[left])[:, 0]]
        if not len(left):
            break
        points[left] += theta * (points[left] - x[left])
        theta *= 2
    return points


def _closer(x: Floats, points: Floats, best: Floats) -> Floats:
    nearer = np.linalg.norm(points - x, axis=1) < np.linalg.norm(best - x, axis=1)
    return np.asarray(np.where(nearer[:, None], points, best))


def _in_blocks(crossed: Crossed, points: Floats, rows: Ints) -> Bools:
    block = max(1, BLOCK // points[0].size)
    parts = [crossed(points[i : i + block], rows[i : i + block]) for i in range(0, len(points), block)]
    return np.concatenate(parts)
