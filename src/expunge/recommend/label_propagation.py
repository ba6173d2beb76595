"""Balanced label propagation: communities of limited size that follow the edges of a graph."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor

from expunge.errors import InputError
from expunge.recommend.data import Interactions
from expunge.recommend.partition import propagation_capacity, uniform

Votes = Callable[[Tensor], Tensor]


def label_propagation(
    votes: Votes, nodes: int, shards: int, seed: int, *, limit: int | None = None, rounds: int = 100
) -> Tensor:
    """GraphEraser's BLPA: nodes move to where most of their neighbours are, as long as there is room.

    From random balanced communities, each round collects the wish of every node whose neighbours are mostly
    elsewhere, and goes through the wishes by descending number of those neighbours. A node moves if its target has
    room and waits there if not; when a node leaves a community, the first that waits for it moves in.

    Args:
        votes: One-hot communities [n, S] to the number of neighbours each node has in each: [n, S], A onehot.
        nodes: n.
        shards: S.
        seed: Draws the first communities.
        limit: Most nodes of a community; None for `propagation_capacity`.
        rounds: Most rounds; the rounds end when no node moves.

    Returns:
        Communities [n].

    Raises:
        InputError: More shards than nodes; a limit that the first communities break.
    """
    limit = propagation_capacity(nodes, shards) if limit is None else limit
    if nodes > shards * limit:
        raise InputError(f"{nodes} nodes do not fit into {shards} communities of at most {limit}.")
    labels = uniform(nodes, shards, seed)
    for _ in range(rounds):
        counts = votes(torch.nn.functional.one_hot(labels, shards).double())
        best, target = counts.max(1).values, counts.argmax(1)
        own = counts.gather(1, labels.unsqueeze(1)).squeeze(1)
        wishes = (best > own).nonzero().flatten()
        wishes = wishes[best[wishes].argsort(descending=True, stable=True)]
        moved = _move(labels.tolist(), list(zip(wishes.tolist(), target[wishes].tolist(), strict=True)), shards, limit)
        if moved == labels.tolist():
            break
        labels = torch.tensor(moved)
    return labels


def _move(labels: list[int], wishes: list[tuple[int, int]], shards: int, limit: int) -> list[int]:
    """Communities after the wishes (node, target), in their order; one node leaving makes room for the next."""
    labels, sizes = list(labels), [0] * shards
    for label in labels:
        sizes[label] += 1
    waiting: list[deque[int]] = [deque() for _ in range(shards)]
    for node, target in wishes:
        if sizes[target] >= limit:
            waiting[target].append(node)
            continue
        free = _enter(node, target, labels, sizes)
        while waiting[free] and sizes[free] < limit:
            free = _enter(waiting[free].popleft(), free, labels, sizes)
    return labels


def _enter(node: int, target: int, labels: list[int], sizes: list[int]) -> int:
    """Move a node; returns the community it left."""
    left = labels[node]
    labels[node] = target
    sizes[target] += 1
    sizes[left] -= 1
    return left


def shared_neighbours(interactions: Interactions, side: int, elements: Tensor) -> Votes:
    """Votes among users through the items they share (side 0), or among items through their users (side 1).

    Two users count as many times as neighbours as they have items in common, nobody as their own neighbour. The
    matrix of users by users is never made.

    Args:
        interactions: What connects them.
        side: Column of the pairs the elements are in.
        elements: [m] ids, ascending: the rows of the votes.
    """
    rows = torch.searchsorted(elements, interactions.pairs[:, side].contiguous())
    columns = interactions.pairs[:, 1 - side]
    width = interactions.items if side == 0 else interactions.users
    degree = torch.bincount(rows, minlength=len(elements)).unsqueeze(1)

    def votes(onehot: Tensor) -> Tensor:
        through = torch.zeros(width, onehot.shape[1], dtype=onehot.dtype).index_add_(0, columns, onehot[rows])
        return torch.zeros_like(onehot).index_add_(0, rows, through[columns]) - degree * onehot

    return votes
