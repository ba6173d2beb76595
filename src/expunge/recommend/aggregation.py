"""Answers of several shards' models combined into one: every combination is again a product of two vectors.

Shards' vectors are z_user [S, users, d] and z_item [S, items, d]; the score of shard k is z_user[k] @ z_item[k].T.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from expunge.engine.sampling import generator
from expunge.errors import InputError

Vectors = tuple[Tensor, Tensor]
INITIAL = 0.01  # of RecEraser's attention vector


class Aggregator(nn.Module):
    """Combines the vectors of several shards into one vector for each node."""

    def forward(self, z_user: Tensor, z_item: Tensor) -> Vectors:
        """Vectors of users [users, D] and of items [items, D]."""
        raise NotImplementedError

    def origin(self) -> dict[str, Any]:
        """What `made` makes it again from."""
        raise NotImplementedError


class Weighted(Aggregator):
    """s = sum_k w_k s_k: the shards' vectors side by side, those of users times the weights.

    Equal weights are SISA's mean of scores; GraphEraser and UltraRE learn them (`simplex_weights`,
    `logistic_weights`).

    Attributes:
        weights: [S].
    """

    def __init__(self, shards: int) -> None:
        """Start from the mean."""
        super().__init__()
        self.weights = nn.Parameter(torch.full((shards,), 1 / shards))

    def forward(self, z_user: Tensor, z_item: Tensor) -> Vectors:
        """[users, S d] and [items, S d]."""
        return side_by_side(z_user * self.weights[:, None, None]), side_by_side(z_item)

    def origin(self) -> dict[str, Any]:
        """See `Aggregator`."""
        return {"kind": "weighted", "shards": len(self.weights)}


class Owned(Aggregator):
    """s_u = s_k of the shard k that user u is in: nothing else has learned from that user.

    Attributes:
        owners: int64 [users] shards.
        shards: S.
    """

    owners: Tensor

    def __init__(self, owners: Tensor, shards: int) -> None:
        """Bind the shards of the users."""
        super().__init__()
        self.register_buffer("owners", owners)
        self.shards = shards

    def forward(self, z_user: Tensor, z_item: Tensor) -> Vectors:
        """[users, S d] and [items, S d]."""
        own = F.one_hot(self.owners, self.shards).T.unsqueeze(2)
        return side_by_side(z_user * own.to(z_user)), side_by_side(z_item)

    def origin(self) -> dict[str, Any]:
        """See `Aggregator`."""
        return {"kind": "owned", "shards": self.shards, "users": len(self.owners)}


class Attention(Aggregator):
    """RecEraser's aggregation: every shard's space mapped to a common one, then a weighted sum for each node.

    e_k <- e_k W_k + b_k, for users and items alike; a_k proportional to exp(h^T relu(A e_k + a)), with an A, a and h
    for users and another for items; e = sum_k a_k e_k. W starts as the identity, so that one shard alone answers as
    its own model does.

    Attributes:
        maps: W, [S, d, d].
        shifts: b, [S, d].
        user, item: A and a, h of the two attentions; d / 2 wide inside.
    """

    def __init__(self, shards: int, d: int, seed: int = 0) -> None:
        """Draw the attentions' matrices."""
        super().__init__()
        self.maps = nn.Parameter(torch.eye(d).repeat(shards, 1, 1))
        self.shifts = nn.Parameter(torch.zeros(shards, d))
        self.user = Attending(d, generator(seed, "attention of users"))
        self.item = Attending(d, generator(seed, "attention of items"))

    def forward(self, z_user: Tensor, z_item: Tensor) -> Vectors:
        """[users, d] and [items, d]."""
        return self.user(self.mapped(z_user)), self.item(self.mapped(z_item))

    def mapped(self, z: Tensor) -> Tensor:
        """[S, n, d] in the common space."""
        return torch.baddbmm(self.shifts.unsqueeze(1), z, self.maps)

    def square(self) -> Tensor:
        """Scalar |W|^2 + |b|^2, what RecEraser penalises."""
        return self.maps.square().sum() + self.shifts.square().sum()

    def origin(self) -> dict[str, Any]:
        """See `Aggregator`."""
        return {"kind": "attention", "shards": len(self.maps), "d": self.maps.shape[1]}


class Attending(nn.Module):
    """sum_k a_k e_k with a = softmax over shards of h^T relu(A e_k + a)."""

    def __init__(self, d: int, draws: torch.Generator) -> None:
        """Draw A; h starts at 0.01 everywhere, which attends to all shards nearly alike."""
        super().__init__()
        inside = max(1, d // 2)
        std = math.sqrt(2 / (d + inside))
        self.inner = nn.Parameter(torch.randn(d, inside, generator=draws) * std)
        self.shift = nn.Parameter(torch.zeros(inside))
        self.outer = nn.Parameter(torch.full((inside,), INITIAL))

    def forward(self, e: Tensor) -> Tensor:
        """[S, n, d] -> [n, d]."""
        return (self.shares(e).unsqueeze(2) * e).sum(0)

    def shares(self, e: Tensor) -> Tensor:
        """[S, n] attention, summing to one over the shards."""
        return (torch.relu(e @ self.inner + self.shift) @ self.outer).softmax(0)


def side_by_side(z: Tensor) -> Tensor:
    """[S, n, d] -> [n, S d]."""
    return z.transpose(0, 1).flatten(1)


def made(origin: Mapping[str, Any]) -> Aggregator:
    """An aggregator of the kind and size an origin names, its values still to be loaded.

    Raises:
        InputError: An unknown kind.
    """
    kind, shards = origin["kind"], int(origin["shards"])
    if kind == "weighted":
        return Weighted(shards)
    if kind == "owned":
        return Owned(torch.zeros(origin["users"], dtype=torch.long), shards)
    if kind == "attention":
        return Attention(shards, origin["d"])
    raise InputError(f"Unknown aggregation {kind!r}; one of weighted, owned, attention.")


def shard_margins(z_user: Tensor, z_item: Tensor, pairs: Tensor, negatives: Tensor) -> Tensor:
    """[n, S] by how much each shard prefers the item of a pair [n, 2] to its negative [n]."""
    users, positives = pairs.unbind(1)
    return (z_user[:, users] * (z_item[:, positives] - z_item[:, negatives])).sum(2).T


def simplex_weights(
    margins: Tensor, *, epochs: int = 50, lr: float = 1e-3, batch: int = 256, decay: float = 1.0, seed: int = 0
) -> Tensor:
    """GraphEraser's LBAggr: weights >= 0 that sum to 1 and make the aggregated answer right.

    min mean softplus(-margins w) + decay |w|_2 by Adam from equal weights; after every step negative weights become 0
    and the sum 1. Adam sees the gradient along the simplex: of the whole one it keeps the signs at most, which are
    mostly alike, and steps that are alike vanish in the sum.

    Args:
        margins: [n, S] of the shards (`shard_margins`).
        epochs: Passes.
        lr: Learning rate.
        batch: Rows of a step.
        decay: Weight of the norm.
        seed: Orders the rows.

    Returns:
        [S].
    """
    shards = margins.shape[1]
    weights = torch.full((shards,), 1 / shards, dtype=margins.dtype, requires_grad=True)
    adam = torch.optim.Adam([weights], lr)
    for epoch in range(epochs):
        order = torch.randperm(len(margins), generator=generator(seed, "aggregator", epoch))
        for rows in order.split(batch):
            loss = F.softplus(-(margins[rows] @ weights)).mean() + decay * weights.norm()
            (gradient,) = torch.autograd.grad(loss, weights)
            weights.grad = gradient - gradient.mean()
            adam.step()
            with torch.no_grad():
                positive = weights.clamp_min(0)
                total = positive.sum()
                weights.copy_(positive / total if float(total) > 0 else torch.full_like(weights, 1 / shards))
    return weights.detach()


def logistic_weights(margins: Tensor, *, ridge: float = 1e-3, rounds: int = 100) -> Tensor:
    """UltraRE's linear combiner: the weights of least mean softplus(-margins w) + ridge |w|^2 / 2.

    A convex problem of S numbers, solved by Newton's method with halved steps.

    Args:
        margins: [n, S] of the shards (`shard_margins`).
        ridge: Weight of the penalty, above 0.
        rounds: Most Newton steps.

    Returns:
        [S].

    Raises:
        InputError: No convergence, which finite margins do not cause.
    """
    values = margins.double()
    weights = torch.zeros(values.shape[1]).double()

    def loss(w: Tensor) -> Tensor:
        return F.softplus(-(values @ w)).mean() + ridge / 2 * w.square().sum()

    for _ in range(rounds):
        wrong = torch.sigmoid(-(values @ weights))
        gradient = ridge * weights - values.T @ wrong / len(values)
        if float(gradient.norm()) < 1e-9:
            return weights.to(margins)
        curvature = (values * (wrong * (1 - wrong)).unsqueeze(1)).T @ values / len(values)
        step = torch.linalg.solve(curvature + ridge * torch.eye(len(weights)).double(), gradient)
        size, before, slope = 1.0, loss(weights), gradient @ step
        while size > 1e-6 and bool(loss(weights - size * step) > before - 1e-4 * size * slope):
            size /= 2
        weights = weights - size * step
    raise InputError(f"The weights of the shards were not found in {rounds} rounds (are the scores finite?).")
