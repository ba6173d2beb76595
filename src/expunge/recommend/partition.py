"""Dividing interactions into shards, so that forgetting some of them means training few models again.

Assignments are int64 [n]: the shard of every element. All of them are functions of the elements and a seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from expunge.engine.sampling import generator
from expunge.errors import InputError
from expunge.recommend.data import Interactions

By = Literal["user", "item", "interaction"]


@dataclass(frozen=True, eq=False)
class Partition:
    """Which shard every interaction belongs to: all of a user's, all of an item's, or each on its own.

    What the division was made from is listed. Anything else (a user without interactions, a pair somebody adds later)
    goes to the shard that its number leaves as remainder, so that every pair has a shard.

    Attributes:
        by: What is kept together.
        elements: int64 [m], ascending: user ids, item ids, or user * items + item.
        labels: int64 [m], the shard of each.
        shards: S.
        items: Size of the catalogue.
    """

    by: By
    elements: Tensor
    labels: Tensor
    shards: int
    items: int

    def of(self, pairs: Tensor) -> Tensor:
        """Shards [n] of (user, item) pairs [n, 2]."""
        wanted = element_ids(pairs, self.by, self.items)
        if len(self.elements) == 0:
            return wanted % self.shards
        place = torch.searchsorted(self.elements, wanted).clamp(max=len(self.elements) - 1)
        return torch.where(self.elements[place] == wanted, self.labels[place], wanted % self.shards)

    def split(self, interactions: Interactions) -> list[Interactions]:
        """The interactions of every shard, disjoint and together all of them.

        Pairs are ordered by user and item and stand for themselves alone, so that a shard is the same whatever
        request the interactions come from.
        """
        ordered = replace(interactions, about=()).take(interactions.keys().argsort())
        shard = self.of(ordered.pairs)
        return [ordered.take(shard == s) for s in range(self.shards)]

    def only(self, interactions: Interactions) -> Partition:
        """The division of what has interactions left: what was forgotten is listed no more.

        Shards without any are left out, and the others keep their order.
        """
        left = element_ids(interactions.pairs, self.by, self.items).unique()
        labels = self.of(interactions.pairs)
        kept, numbers = labels.unique(return_inverse=True)
        places = torch.searchsorted(left, element_ids(interactions.pairs, self.by, self.items))
        renumbered = torch.zeros(len(left), dtype=torch.long).index_copy_(0, places, numbers)
        return replace(self, elements=left, labels=renumbered, shards=len(kept))

    @property
    def sizes(self) -> Tensor:
        """[S] listed elements of every shard."""
        return torch.bincount(self.labels, minlength=self.shards)


def element_ids(pairs: Tensor, by: By, items: int) -> Tensor:
    """[n] the number of what each pair is kept together with."""
    if by == "interaction":
        return pairs[:, 0] * items + pairs[:, 1]
    return pairs[:, 0 if by == "user" else 1].contiguous()


def divide(
    interactions: Interactions, by: By, shards: int, assign: Callable[[Tensor], Tensor], name: str = "partition"
) -> Partition:
    """Divide interactions by an assignment of their elements.

    Args:
        interactions: What is divided.
        by: What is kept together.
        shards: S.
        assign: Elements [m] (ids, ascending) to shards [m].
        name: Who asks, for messages.

    Raises:
        InputError: More shards than elements, or none.
    """
    elements = element_ids(interactions.pairs, by, interactions.items).unique()
    require_shards(len(elements), shards, f"{name}: shards", f"{by}s")
    return Partition(by, elements, assign(elements), shards, interactions.items)


def uniform(elements: int, shards: int, seed: int) -> Tensor:
    """Shards [n] dealt out at random; sizes differ by one at most.

    Raises:
        InputError: More shards than elements, or none.
    """
    require_shards(elements, shards, "shards")
    dealt = torch.empty(elements, dtype=torch.long)
    dealt[torch.randperm(elements, generator=generator(seed, "uniform shards"))] = torch.arange(elements) % shards
    return dealt


def capacity(elements: int, shards: int, slack: float = 1.2) -> int:
    """Most elements a shard may have: ceil(slack n / S).

    >>> capacity(10, 4), capacity(100, 10)
    (3, 12)
    """
    return math.ceil(round(slack * elements / shards, 9))  # 1.2 * 100 / 10 is 12, not a little more


def propagation_capacity(elements: int, shards: int) -> int:
    """GraphEraser's limit of a shard: ceil(n / S + 0.005 (n - n / S)).

    >>> propagation_capacity(100, 10)
    11
    """
    mean = elements / shards
    return math.ceil(round(mean + 0.005 * (elements - mean), 9))


def balanced_kmeans(
    blocks: Sequence[Tensor], shards: int, seed: int, *, limit: int | None = None, rounds: int = 50
) -> Tensor:
    """Greedy k-means with shards of limited size.

    S random elements are the first centroids. Each round assigns greedily (`greedy`) by distance and moves every
    centroid to the mean vector of its shard, until nothing moves.

    Args:
        blocks: [n, d_b] each. The distance to a centroid is the product over blocks of squared distances: one block
            for users or items, two (of the user, of the item) for interactions.
        shards: S.
        seed: Draws the first centroids.
        limit: Most elements of a shard; None for `capacity`.
        rounds: Most rounds.

    Returns:
        Shards [n].

    Raises:
        InputError: More shards than elements, blocks of different lengths, vectors that are not finite, a limit that
            leaves elements without a place.
    """
    elements = len(blocks[0])
    require_shards(elements, shards, "shards")
    if any(len(b) != elements for b in blocks) or not all(bool(b.isfinite().all()) for b in blocks):
        raise InputError(f"Balanced k-means needs finite vectors of {elements} elements in every block.")
    values = [b.double() for b in blocks]
    limit = capacity(elements, shards) if limit is None else limit
    first = torch.randperm(elements, generator=generator(seed, "centroids"))[:shards]
    centroids = [v[first] for v in values]
    labels = torch.full((elements,), -1)
    for _ in range(rounds):
        new = greedy(squared_distances(values, centroids), limit)
        if torch.equal(new, labels):
            break
        labels = new
        centroids = [shard_means(v, labels, c) for v, c in zip(values, centroids, strict=True)]
    return labels


def squared_distances(blocks: Sequence[Tensor], centroids: Sequence[Tensor]) -> Tensor:
    """[n, S] product over blocks of ||x - c||^2."""
    exact = "donot_use_mm_for_euclid_dist"  # a point at its centroid is at distance 0
    return (
        torch.stack([torch.cdist(b, c, compute_mode=exact) for b, c in zip(blocks, centroids, strict=True)])
        .prod(0)
        .square()
    )


def shard_means(values: Tensor, labels: Tensor, empty: Tensor) -> Tensor:
    """[S, d] mean vector of every shard; a shard without elements keeps its row of `empty`."""
    sums = torch.zeros_like(empty).index_add_(0, labels, values)
    counts = torch.bincount(labels, minlength=len(empty)).unsqueeze(1)
    return torch.where(counts > 0, sums / counts.clamp(min=1), empty)


def greedy(costs: Tensor, limit: int) -> Tensor:
    """Go through all (element, shard) pairs by ascending cost; an element takes the first shard that has room.

    Equal costs go by element, then by shard. While no shard fills up every element simply takes its cheapest open
    shard, so it is enough to sort once for every shard that fills: S rounds instead of n S steps.

    Args:
        costs: [n, S].
        limit: Most elements of a shard.

    Returns:
        Shards [n].

    Raises:
        InputError: n > S limit.
    """
    elements, shards = costs.shape
    if elements > shards * limit:
        raise InputError(f"{elements} elements do not fit into {shards} shards of at most {limit}.")
    labels = torch.full((elements,), -1)
    room, rest, costs = torch.full((shards,), limit), torch.arange(elements), costs.clone()
    while len(rest):
        cost, wanted = costs[rest].min(1).values, costs[rest].argmin(1)
        order = cost.argsort(stable=True)
        rest, wanted = rest[order], wanted[order]
        taken = torch.nn.functional.one_hot(wanted, shards).cumsum(0)
        full = ((taken >= room) & (room > 0)).any(1).nonzero().flatten()
        count = int(full[0]) + 1 if len(full) else len(rest)
        labels[rest[:count]] = wanted[:count]
        room = room - taken[count - 1]
        costs[:, room == 0] = torch.inf
        rest = rest[count:].sort().values
    return labels


def require_shards(elements: int, shards: int, name: str, what: str = "elements") -> None:
    """Refuse more shards than elements, or none.

    Raises:
        InputError: Names the setting and both numbers.
    """
    if not 1 <= shards <= elements:
        raise InputError(f"{name}={shards} must be from 1 to the number of {what} ({elements}).")
