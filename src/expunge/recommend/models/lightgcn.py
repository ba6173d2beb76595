"""Matrix factorisation and LightGCN: one table of vectors, with and without propagation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from expunge.errors import InputError
from expunge.recommend.graph import Graph
from expunge.recommend.models.base import Recommender, Rows, Vectors, normal

STD = 0.1  # of the initial vectors, as in LightGCN's code

Readout = Literal["mean", "sum"]


class BPRMF(Recommender):
    """Matrix factorisation for a pairwise ranking loss (Rendle, Freudenthaler, Gantner, Schmidt-Thieme, UAI 2009).

    z = E. penalty of (u, i, j) = (|E_u|^2 + |E_i|^2 + |E_j|^2) / 2.

    Attributes:
        table: [users + items, d] vectors of users and items.
    """

    kind: ClassVar[str] = "bpr-mf"

    def __init__(self, users: int, items: int, d: int = 64, reg: float = 1e-2, *, seed: int = 0) -> None:
        """Draw normal initial vectors of standard deviation 0.1."""
        super().__init__(users, items, reg)
        self.d = d
        self.table = nn.Parameter(normal(users + items, d, STD, seed, "table"))

    def embeddings(self, graph: Graph) -> Vectors:
        """See `Recommender`."""
        return self.table[: self.users], self.table[self.users :]

    def penalty(self, users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        """See `Recommender`."""
        # the squares of all rows cost less than gathering three rows for each triple, and scattering them back
        squares = self.table.square().sum(1)
        chosen = [squares.index_select(0, nodes) for nodes in (users, positives + self.users, negatives + self.users)]
        return (chosen[0] + chosen[1] + chosen[2]) / 2

    @property
    def node_rows(self) -> Mapping[str, Rows]:
        """See `Recommender`."""
        return {"table": "node"}

    def origin(self) -> dict[str, Any]:
        """See `Recommender`."""
        return {"network": self.kind, "users": self.users, "items": self.items, "d": self.d, "reg": self.reg}

    def _fresh(self, name: str, rows: Tensor, seed: int) -> Tensor:
        return normal(self.users + self.items, self.d, STD, seed, name)[rows]


class LightGCN(BPRMF):
    """LightGCN: linear propagation without weights (He, Deng, Wang, Li, Zhang, Wang, SIGIR 2020, arXiv 2002.02126).

    x_0 = E, x_{l+1} = A x_l, z = mean (or sum) of x_0 to x_L; the penalty is that of E. Nodes without edges keep
    z = E / (L + 1) (or E). With no layer it is `BPRMF`.
    """

    kind: ClassVar[str] = "lightgcn"

    def __init__(
        self, users: int, items: int, d: int = 64, layers: int = 3, readout: Readout = "mean", reg: float = 1e-3,
        *, seed: int = 0,
    ) -> None:  # fmt: skip
        """Draw normal initial vectors of standard deviation 0.1.

        Raises:
            InputError: A negative number of layers, or an unknown readout.
        """
        super().__init__(users, items, d, reg, seed=seed)
        if layers < 0 or readout not in ("mean", "sum"):
            raise InputError(f"LightGCN: layers={layers}, readout={readout!r}; need layers >= 0 and mean or sum.")
        self.layers, self.readout = layers, readout

    def embeddings(self, graph: Graph) -> Vectors:
        """See `Recommender`."""
        x: Tensor = self.table
        z = x
        for _ in range(self.layers):
            x = graph.propagate(x)
            z = z + x
        if self.readout == "mean" and self.layers:
            z = z / (self.layers + 1)
        return z[: self.users], z[self.users :]

    def origin(self) -> dict[str, Any]:
        """See `Recommender`."""
        return {**super().origin(), "layers": self.layers, "readout": self.readout}
