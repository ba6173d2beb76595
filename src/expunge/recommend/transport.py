"""Optimal transport between elements and centroids, and the balanced clusters that follow from it."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from expunge.engine.sampling import generator
from expunge.errors import InputError
from expunge.recommend.partition import greedy, require_shards, shard_means, squared_distances

Solver = Literal["exact", "sinkhorn"]
Array = np.ndarray[Any, np.dtype[Any]]
TINY = 1e-300
START = 0.02  # entropy of the plan whose prices the exact one starts from


def transport(costs: Tensor, solver: Solver = "exact", *, epsilon: float = 0.05, rounds: int = 2000) -> Tensor:
    """The plan [n, S] with row sums 1/n and column sums 1/S of least cost.

    Args:
        costs: [n, S], finite.
        solver: ``exact`` (shortest paths) or ``sinkhorn`` (with an entropy, in logarithms).
        epsilon: Weight of the entropy, as a share of the mean cost.
        rounds: Most rounds of Sinkhorn.

    Raises:
        InputError: Costs that are not finite; Sinkhorn did not converge.
    """
    if not bool(costs.isfinite().all()):
        raise InputError("The transport problem needs finite costs.")
    costs = costs.double()
    return exact_plan(costs) if solver == "exact" else sinkhorn_plan(costs, epsilon, rounds)


def exact_plan(costs: Tensor) -> Tensor:
    """An optimal plan [n, S], by successive shortest paths between the S columns.

    In units of 1 / (n S) every row has S to give and every column n to take. Given prices of the columns, rows that
    each go to their cheapest one are the best plan for the sums that come out; the prices of an entropic plan bring
    these sums close to n. What is too much then moves along shortest paths to where too little is, which keeps the
    plan the best for its sums. There are few such moves, and the graph has S nodes: much less work than a general
    linear programme of n S unknowns.
    """
    n, shards = costs.shape
    c = costs.numpy()
    prices = _balance(costs, START, 200, 1e-4)[1].squeeze(0).numpy() * START * max(float(costs.mean()), TINY)
    given = np.zeros((n, shards), dtype=np.int64)
    given[np.arange(n), (c - prices).argmin(1)] = shards
    detours = c[:, None, :] - c[:, :, None]  # of a row that goes from one column to another
    while (excess := given.sum(0) - n).any():
        source = int(excess.argmax())
        held = np.where((given > 0)[:, :, None], detours, np.inf)
        movers, lengths = held.argmin(0), held.min(0)
        distances, before = _shortest(lengths, source)
        target = int(np.where(excess < 0, distances, np.inf).argmin())
        steps = _path(before, source, target)
        rows = [int(movers[step]) for step in steps]
        amount = min(excess[source], -excess[target], *(given[i, k] for i, (k, _) in zip(rows, steps, strict=True)))
        for i, (k, to) in zip(rows, steps, strict=True):
            given[i, k] -= amount
            given[i, to] += amount
    return torch.from_numpy(given).double() / (n * shards)


def _shortest(lengths: Array, source: int) -> tuple[Array, list[int]]:
    """Distances [S] from a column over a graph without negative cycles, and the column before each."""
    distances, before = np.full(len(lengths), np.inf), [source] * len(lengths)
    distances[source] = 0
    slack = 1e-12 * max(float(np.abs(lengths[np.isfinite(lengths)]).max(initial=0)), TINY)
    for _ in range(len(lengths) - 1):
        through = distances[:, None] + lengths
        nearer = through.min(0) < distances - slack  # rounding must not close a cycle
        for k in np.flatnonzero(nearer):
            before[k] = int(through[:, k].argmin())
        distances = np.where(nearer, through.min(0), distances)
        if not nearer.any():
            break
    return distances, before


def _path(before: list[int], source: int, target: int) -> list[tuple[int, int]]:
    """The steps from one column to another."""
    steps = []
    while target != source:
        steps.append((before[target], target))
        target = before[target]
    return steps[::-1]


def sinkhorn_plan(costs: Tensor, epsilon: float, rounds: int = 2000, tolerance: float = 1e-9) -> Tensor:
    """The plan [n, S] of least cost minus epsilon times its entropy, by Sinkhorn's iteration in logarithms.

    Args:
        costs: [n, S].
        epsilon: As a share of the mean cost.
        rounds: Most rounds.
        tolerance: Sum of the errors of the row sums at which to stop; column sums are exact.

    Raises:
        InputError: The row sums are still wrong by more than 1e-3 after all rounds.
    """
    if epsilon <= 0:
        raise InputError(f"epsilon={epsilon} must be above 0.")
    row, column, error = _balance(costs, epsilon, rounds, tolerance)
    if error > 1e-3:
        raise InputError(f"Sinkhorn did not converge in {rounds} rounds (epsilon={epsilon}); raise epsilon.")
    return (_scores(costs, epsilon) + row + column).exp()


def _scores(costs: Tensor, epsilon: float) -> Tensor:
    return -costs / (epsilon * costs.mean().clamp_min(TINY))


def _balance(costs: Tensor, epsilon: float, rounds: int, tolerance: float) -> tuple[Tensor, Tensor, float]:
    """Logarithmic scalings of rows [n, 1] and columns [1, S], and the sum of the errors of the row sums."""
    n, shards = costs.shape
    scores = _scores(costs, epsilon)
    row, column, error = scores.new_zeros(n, 1), scores.new_zeros(1, shards), float("inf")
    for _ in range(rounds):
        row = -math.log(n) - (scores + column).logsumexp(1, keepdim=True)
        column = -math.log(shards) - (scores + row).logsumexp(0, keepdim=True)
        error = float(((scores + row + column).exp().sum(1) - 1 / n).abs().sum())
        if error <= tolerance:
            break
    return row, column, error


def optimal_balanced(
    points: Tensor, shards: int, seed: int, *, rounds: int = 10, solver: Solver = "exact", epsilon: float = 0.05
) -> Tensor:
    """UltraRE's optimal balanced clustering: transport to the centroids, largest entry, new centroids, again.

    Rows that the plan splits, and ties, are settled under the limit ceil(n / S), which an optimal plan otherwise keeps
    by itself; with an entropy it is what keeps the clusters balanced.

    Args:
        points: [n, d].
        shards: S.
        seed: Draws the first centroids.
        rounds: Most rounds.
        solver: See `transport`.
        epsilon: See `transport`.

    Returns:
        Shards [n], of at most ceil(n / S) elements.

    Raises:
        InputError: More shards than elements; points that are not finite.
    """
    require_shards(len(points), shards, "shards")
    values = points.double()
    centroids = values[torch.randperm(len(values), generator=generator(seed, "centroids"))[:shards]]
    labels = torch.full((len(values),), -1)
    for _ in range(rounds):
        plan = transport(squared_distances([values], [centroids]), solver, epsilon=epsilon)
        new = greedy(-plan, -(-len(values) // shards))
        if torch.equal(new, labels):
            break
        labels = new
        centroids = shard_means(values, labels, centroids)
    return labels
