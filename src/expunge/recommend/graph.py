"""The bipartite graph a recommender propagates over: one symmetric sparse product, and means over neighbours.

Nodes are numbered user u -> u, item i -> users + i. Stock autograd transposes a sparse matrix in every backward pass; B
and D^-1/2 B D^-1/2 are symmetric, so the gradient of a product is the same product of the gradient.
"""

from __future__ import annotations

import warnings
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from expunge.errors import InputError
from expunge.recommend.data import Interactions


class Graph:
    """Edges between users and items, each in both directions; no self loops.

    Attributes:
        users: Users.
        items: Items.
        nodes: users + items.
        degree: int64 [nodes] neighbours of each node.
    """

    def __init__(self, interactions: Interactions) -> None:
        """Connect every user with the items of their interactions."""
        self._connect(interactions.pairs, interactions.users, interactions.items)

    @classmethod
    def of(cls, pairs: Tensor, users: int, items: int) -> Graph:
        """A graph of int64 pairs [n, 2] (user, item), none twice.

        Raises:
            InputError: An id outside the catalogue, or a pair twice.
        """
        return cls(Interactions(users, items, pairs))

    def _connect(self, pairs: Tensor, users: int, items: int) -> None:
        self.users, self.items, self.nodes = users, items, users + items
        ends = pairs + torch.tensor([0, users])
        rows = torch.cat([ends[:, 0], ends[:, 1]])
        columns = torch.cat([ends[:, 1], ends[:, 0]])
        order = (rows * self.nodes + columns).argsort()
        self._columns = columns[order].int()
        self.degree = torch.bincount(rows, minlength=self.nodes)
        self._starts = torch.cat([torch.zeros(1, dtype=torch.long), self.degree.cumsum(0)]).int()

    @cached_property
    def pairs(self) -> Tensor:
        """int64 [n, 2] (user, item) of the edges, by user and item."""
        users = torch.repeat_interleave(torch.arange(self.users), self.degree[: self.users])
        return torch.stack([users, self._columns[: len(users)].long() - self.users], 1)

    @cached_property
    def _normal(self) -> Matrix:
        """D^-1/2 B D^-1/2."""
        scale = self.degree.double().clamp_min(1).rsqrt()
        values = torch.repeat_interleave(scale, self.degree) * scale[self._columns.long()]
        return Matrix(self._starts, self._columns, values)

    @cached_property
    def _plain(self) -> Matrix:
        """B."""
        return Matrix(self._starts, self._columns, torch.ones(len(self._columns), dtype=torch.float64))

    def propagate(self, x: Tensor) -> Tensor:
        """A x, A = D^-1/2 B D^-1/2: one layer of LightGCN, differentiable twice.

        Args:
            x: [nodes, d] values of the nodes.

        Returns:
            [nodes, d]; rows of isolated nodes are 0.

        Raises:
            InputError: Another number of rows.
        """
        self._require_nodes(x)
        return _times(self._normal, x)

    def mean(self, x: Tensor) -> Tensor:
        """D^-1 B x: the mean over each node's neighbours, differentiable twice.

        Args:
            x: [nodes, d] values of the nodes.

        Returns:
            [nodes, d]; rows of isolated nodes are 0.

        Raises:
            InputError: Another number of rows.
        """
        self._require_nodes(x)
        share = self.degree.to(x.device).clamp_min(1).to(x.dtype)
        return _times(self._plain, x) / share[:, None]

    def _require_nodes(self, x: Tensor) -> None:
        if x.ndim != 2 or len(x) != self.nodes:
            raise InputError(
                f"The graph has {self.nodes} nodes ({self.users} users and {self.items} items); found values of shape "
                f"{list(x.shape)}."
            )


class Matrix:
    """A symmetric sparse matrix in compressed rows, made once for each type and device it is asked for in.

    No tensor itself, so that autograd sees only the values it is multiplied with.
    """

    def __init__(self, starts: Tensor, columns: Tensor, values: Tensor) -> None:
        """Bind [n + 1] starts of the rows, column indices, and values in float64."""
        self.parts = starts, columns, values
        self.made: dict[tuple[torch.dtype, torch.device], Tensor] = {}

    def like(self, x: Tensor) -> Tensor:
        """The matrix in the type and on the device of a tensor."""
        key = x.dtype, x.device
        if key not in self.made:
            size = len(self.parts[0]) - 1
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Sparse", category=UserWarning)  # "in beta state"
                self.made[key] = torch.sparse_csr_tensor(*self.parts, (size, size), dtype=x.dtype, device=x.device)
        return self.made[key]


class _Times(torch.autograd.Function):
    """S x with the gradient S g."""

    @staticmethod
    def forward(matrix: Matrix, x: Tensor) -> Tensor:
        """S x."""
        return matrix.like(x) @ x.detach()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep the matrix; x is not needed, the product is linear."""
        ctx.matrix = inputs[0]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        """S^T g = S g, by the same differentiable product."""
        return None, _times(ctx.matrix, gradient)


def _times(matrix: Matrix, x: Tensor) -> Tensor:
    product: Tensor = _Times.apply(matrix, x)  # type: ignore[no-untyped-call]
    return product
