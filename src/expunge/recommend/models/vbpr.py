"""VBPR: item vectors that are partly free and partly read off frozen features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from expunge.recommend.data import Features
from expunge.recommend.graph import Graph
from expunge.recommend.models.base import Rows, Vectors, normal, uniform, xavier
from expunge.recommend.models.features import Featured


class VBPR(Featured):
    """VBPR (He, McAuley, AAAI 2016, arXiv 1510.01784), in the form of the multi-modal recommendation toolboxes.

    z_u = p_u in R^2d, z_i = (q_i, W f_i + c) with q_i in R^d, f_i the features of all modalities side by side. The
    penalty of a batch is (|Z_U| + |Z_P| + |Z_N|) / b, the Frobenius norms of its users', positives' and negatives'
    vectors (not squared): the share of a row is its square over the norm, which has the gradient of the norm.

    Attributes:
        preferences: [users, 2 d].
        table: [items, d].
        projection: W and c, [d, F] and [d].
    """

    kind: ClassVar[str] = "vbpr"
    couples_batch: ClassVar[bool] = True

    def __init__(
        self, users: int, items: int, features: Features, d: int = 64, reg: float = 1e-2, *, seed: int = 0
    ) -> None:
        """Draw Xavier-uniform tables and a Xavier-normal projection.

        Raises:
            InputError: Feature tables that do not fit the items, or none.
        """
        super().__init__(users, items, reg)
        self.d = d
        self.keep_features(features)
        width = sum(self.widths.values())
        self.preferences = nn.Parameter(self._initial("preferences", seed))
        self.table = nn.Parameter(self._initial("table", seed))
        self.projection = nn.Linear(width, d)
        with torch.no_grad():
            self.projection.weight.copy_(normal(d, width, xavier(d, width), seed, "projection.weight"))
            self.projection.bias.zero_()

    def _initial(self, name: str, seed: int) -> Tensor:
        rows, width = (self.users, 2 * self.d) if name == "preferences" else (self.items, self.d)
        return uniform(rows, width, 3**0.5 * xavier(rows, width), seed, name)

    def _item_vectors(self, rows: Tensor | None = None) -> Tensor:
        tables = [self.features(m) for m in self.widths]
        free: Tensor = self.table
        if rows is not None:
            free, tables = free.index_select(0, rows), [t[rows] for t in tables]
        return torch.cat([free, self.projection(torch.cat(tables, 1))], 1)

    def embeddings(self, graph: Graph) -> Vectors:
        """See `Recommender`."""
        return self.preferences, self._item_vectors()

    def penalty(self, users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        """See `Recommender`: [b] shares of the three norms."""
        u = self.preferences.index_select(0, users)
        return _shares(u) + _shares(self._item_vectors(positives)) + _shares(self._item_vectors(negatives))

    @property
    def node_rows(self) -> Mapping[str, Rows]:
        """See `Recommender`."""
        return {"preferences": "user", "table": "item"}

    def origin(self) -> dict[str, Any]:
        """See `Recommender`."""
        made = {"users": self.users, "items": self.items, "d": self.d, "reg": self.reg, "features": dict(self.widths)}
        return {"network": self.kind, **made}

    def _fresh(self, name: str, rows: Tensor, seed: int) -> Tensor:
        return self._initial(name, seed)[rows]


def _shares(matrix: Tensor) -> Tensor:
    """[b] shares of the rows in the Frobenius norm: their sum and its gradient are those of the norm."""
    squares = matrix.square().sum(1)
    tiny = torch.finfo(squares.dtype).tiny
    norm = squares.sum().clamp_min(tiny).sqrt()
    return squares / norm
