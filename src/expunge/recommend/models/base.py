"""What every recommender of the wing is: vectors of users and items computed over a graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from expunge.engine.sampling import generator
from expunge.recommend.graph import Graph

Rows = Literal["user", "item", "node"]
Vectors = tuple[Tensor, Tensor]  # of users [users, d] and of items [items, d]


class Recommender(nn.Module):
    """A recommender whose score of a pair is the product of two vectors.

    Attributes:
        users: Users of the catalogue.
        items: Items of the catalogue.
        reg: Weight of `penalty` in the training loss.
        kind: Name in the origin it is rebuilt from.
        couples_batch: Its penalty is a function of the whole batch, so that a batch cannot be divided.
    """

    kind: ClassVar[str]
    couples_batch: ClassVar[bool] = False
    users: int
    items: int
    reg: float

    def __init__(self, users: int, items: int, reg: float) -> None:
        """Bind the size of the catalogue and the weight of the penalty."""
        super().__init__()
        self.users, self.items, self.reg = users, items, reg

    def embeddings(self, graph: Graph) -> Vectors:
        """Vectors of users [users, d] and of items [items, d]; a constant column may carry a bias of the items."""
        raise NotImplementedError

    def forward(self, graph: Graph) -> Vectors:
        """`embeddings`, so that other weights can be put in with `torch.func.functional_call`."""
        return self.embeddings(graph)

    def penalty(self, users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        """[b] regulariser of each triple before `reg`; its sum over a batch divided by b is the model's own."""
        raise NotImplementedError

    @property
    def node_rows(self) -> Mapping[str, Rows]:
        """Parameters with one row for each user, item or node; all others are shared by everybody."""
        raise NotImplementedError

    def origin(self) -> dict[str, Any]:
        """Keyword arguments it is made again with, and its ``network``."""
        raise NotImplementedError

    @classmethod
    def from_origin(cls, values: dict[str, Any]) -> Self:
        """An untrained one from `origin` without its ``network``."""
        return cls(**values)

    def _fresh(self, name: str, rows: Tensor, seed: int) -> Tensor:
        """Values the rows of a node parameter would start from under a seed, [len(rows), d]."""
        raise NotImplementedError

    def rows_of(self, name: str, nodes: Tensor) -> Tensor:
        """Rows of a node parameter that belong to some nodes: those of the other side are left out."""
        owner = self.node_rows[name]
        if owner == "node":
            return nodes
        return nodes[nodes < self.users] if owner == "user" else nodes[nodes >= self.users] - self.users

    @torch.no_grad()
    def reset_rows(self, nodes: Tensor, seed: int) -> None:
        """Fresh initial values for the rows of some nodes.

        Args:
            nodes: int64 node numbers (user u -> u, item i -> users + i).
            seed: Fixes the values; a node's do not depend on which others are reset.
        """
        for name in self.node_rows:
            rows = self.rows_of(name, nodes)
            parameter = self.get_parameter(name)
            parameter[rows] = self._fresh(name, rows, seed).to(parameter)


def normal(rows: int, width: int, std: float, seed: int, name: str) -> Tensor:
    """[rows, width] normal numbers, a function of the seed and the parameter's name."""
    return torch.randn(rows, width, generator=generator(seed, "initial", name)) * std


def uniform(rows: int, width: int, bound: float, seed: int, name: str) -> Tensor:
    """[rows, width] uniform numbers in (-bound, bound), a function of the seed and the parameter's name."""
    return (torch.rand(rows, width, generator=generator(seed, "initial", name)) * 2 - 1) * bound


def xavier(rows: int, columns: int) -> float:
    """Standard deviation sqrt(2 / (rows + columns)) of Glorot and Bengio; times sqrt(3) it bounds the uniform form."""
    return float((2 / (rows + columns)) ** 0.5)
