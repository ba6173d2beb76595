"""MMGCN: one graph network for each modality of the items' features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from expunge.recommend.data import Features
from expunge.recommend.graph import Graph
from expunge.recommend.models.base import Rows, Vectors, normal, xavier
from expunge.recommend.models.features import Featured

LAYERS = 3
VISUAL = "visual"  # the modality that is mapped to fewer numbers first
MAPPED = 256


class MMGCN(Featured):
    """MMGCN (Wei, Wang, Nie, He, Hong, Chua, ACM Multimedia 2019), in the form of the multi-modal toolboxes.

    z = mean over the modalities of the output of their networks (`Modality`), all with the same identities T. The
    penalty of a batch is mean(T_u^2 + T_i^2) over its positive and negative pairs and the d numbers, plus mean(P^2)
    of the visual modality (of the first one where there is none). T and P are parameters here; the toolbox keeps them
    as plain tensors, which are never trained, saved or moved.

    Attributes:
        identities: T, [users + items, d].
        networks: Modality -> its network.
    """

    kind: ClassVar[str] = "mmgcn"

    def __init__(
        self, users: int, items: int, features: Features, d: int = 64, reg: float = 1e-2, *, seed: int = 0
    ) -> None:
        """Draw Xavier-normal tables and matrices, and zero biases.

        Raises:
            InputError: Feature tables that do not fit the items, or none.
        """
        super().__init__(users, items, reg)
        self.d = d
        self.keep_features(features)
        self.identities = nn.Parameter(self._initial("identities", seed))
        self.networks = nn.ModuleDict({m: Modality(users, width, d, m, seed) for m, width in self.widths.items()})

    def _initial(self, name: str, seed: int) -> Tensor:
        rows, width = (self.users + self.items, self.d) if name == "identities" else self.get_parameter(name).shape
        return normal(rows, width, xavier(rows, width), seed, name)

    def embeddings(self, graph: Graph) -> Vectors:
        """See `Recommender`."""
        outputs = [network(graph, self.features(m), self.identities) for m, network in self.networks.items()]
        z = torch.stack(outputs).mean(0)
        return z[: self.users], z[self.users :]

    def penalty(self, users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        """See `Recommender`."""
        squares = self.identities.square().mean(1)
        u, i, j = (squares.index_select(0, n) for n in (users, positives + self.users, negatives + self.users))
        lead = VISUAL if VISUAL in self.widths else next(iter(self.widths))
        return u + (i + j) / 2 + self.get_parameter(f"networks.{lead}.preferences").square().mean()

    @property
    def node_rows(self) -> Mapping[str, Rows]:
        """See `Recommender`."""
        rows: dict[str, Rows] = {"identities": "node"}
        return {**rows, **{f"networks.{m}.preferences": "user" for m in self.widths}}

    def origin(self) -> dict[str, Any]:
        """See `Recommender`."""
        made = {"users": self.users, "items": self.items, "d": self.d, "reg": self.reg, "features": dict(self.widths)}
        return {"network": self.kind, **made}

    def _fresh(self, name: str, rows: Tensor, seed: int) -> Tensor:
        return self._initial(name, seed)[rows]


class Modality(nn.Module):
    """The network of one modality: three rounds over the graph.

    x = rows of (P, F) over their norms, F mapped to 256 numbers first for the visual modality;
    h = lrelu(mean over neighbours of x W), e = lrelu(x U + u) + T, x <- lrelu((h, e) G + g).
    """

    def __init__(self, users: int, features: int, d: int, modality: str, seed: int) -> None:
        """Draw all initial values from the seed and the names of the parameters."""
        super().__init__()
        width = MAPPED if modality == VISUAL else features
        self.preferences = nn.Parameter(torch.empty(users, width))
        self.map = nn.Linear(features, width) if modality == VISUAL else nn.Identity()
        sizes = [width, *[d] * (LAYERS - 1)]
        self.received = nn.ModuleList(nn.Linear(size, size, bias=False) for size in sizes)  # W
        self.own = nn.ModuleList(nn.Linear(size, d) for size in sizes)  # U and u
        self.mixed = nn.ModuleList(nn.Linear(size + d, d) for size in sizes)  # G and g
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                full = f"networks.{modality}.{name}"
                if parameter.ndim == 2:
                    rows, columns = parameter.shape
                    parameter.copy_(normal(rows, columns, xavier(rows, columns), seed, full))
                else:
                    parameter.zero_()

    def forward(self, graph: Graph, features: Tensor, identities: Tensor) -> Tensor:
        """[nodes, d] from the features [items, F] and T [nodes, d]."""
        x = F.normalize(torch.cat([self.preferences, self.map(features)]))
        for received, own, mixed in zip(self.received, self.own, self.mixed, strict=True):
            h = F.leaky_relu(received(graph.mean(x)))  # mean(x W) = mean(x) W
            e = F.leaky_relu(own(x)) + identities
            x = F.leaky_relu(mixed(torch.cat([h, e], 1)))
        return x
