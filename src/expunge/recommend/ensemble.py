"""The models of several shards as one recommender, which every audit takes like any other."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from expunge.engine.training import derive_seed
from expunge.recommend.aggregation import Aggregator, made
from expunge.recommend.data import Interactions
from expunge.recommend.graph import Graph
from expunge.recommend.models.base import Recommender, Rows, Vectors
from expunge.recommend.models.rebuild import rebuilt
from expunge.recommend.partition import By, Partition


class ShardEnsemble(Recommender):
    """Models of shards, each propagating over the edges of its own shard, and what combines them.

    Attributes:
        members: One model for each shard.
        aggregator: Combines their vectors.
        elements, labels: The partition (`Partition`), kept with the weights. A pair that is not listed there, such as
            one an attacker adds, goes to the shard `Partition.of` gives it.
    """

    kind: ClassVar[str] = "shards"
    elements: Tensor
    labels: Tensor

    def __init__(self, members: Sequence[Recommender], partition: Partition, aggregator: Aggregator) -> None:
        """Take copies of the members."""
        first = members[0]
        super().__init__(first.users, first.items, first.reg)
        self.members = nn.ModuleList(copy.deepcopy(m) for m in members)
        self.aggregator = aggregator
        self.by: By = partition.by
        self.register_buffer("elements", partition.elements.clone())
        self.register_buffer("labels", partition.labels.clone())
        self._graphs = _LastSplit()

    @property
    def couples_batch(self) -> bool:  # type: ignore[override]  # as its members do
        """See `Recommender`."""
        return any(m.couples_batch for m in self.shard_models)

    @property
    def shard_models(self) -> list[Recommender]:
        """The members, typed."""
        return list(self.members)  # type: ignore[arg-type]

    @property
    def partition(self) -> Partition:
        """Which shard an interaction belongs to."""
        return Partition(self.by, self.elements.cpu(), self.labels.cpu(), len(self.members), self.items)

    def embeddings(self, graph: Graph) -> Vectors:
        """See `Recommender`."""
        z_user, z_item = self.shard_vectors(graph)
        found: Vectors = self.aggregator(z_user, z_item)
        return found

    def shard_vectors(self, graph: Graph) -> Vectors:
        """Vectors of every shard: [S, users, d] and [S, items, d]."""
        each = [m(g) for m, g in zip(self.shard_models, self._graphs.of(graph, self.partition), strict=True)]
        return torch.stack([z for z, _ in each]), torch.stack([z for _, z in each])

    def penalty(self, users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        """See `Recommender`: the mean of the members' own."""
        return torch.stack([m.penalty(users, positives, negatives) for m in self.shard_models]).mean(0)

    @property
    def node_rows(self) -> Mapping[str, Rows]:
        """See `Recommender`: the members'; the aggregator is everybody's."""
        return {f"members.{k}.{n}": rows for k, m in enumerate(self.shard_models) for n, rows in m.node_rows.items()}

    def origin(self) -> dict[str, Any]:
        """See `Recommender`."""
        return {
            "network": self.kind, "member": self.shard_models[0].origin(), "by": self.by,
            "elements": len(self.elements), "aggregator": self.aggregator.origin(),
        }  # fmt: skip

    @classmethod
    def from_origin(cls, values: dict[str, Any]) -> Self:
        """See `Recommender`."""
        members = [rebuilt(values["member"]) for _ in range(int(values["aggregator"]["shards"]))]
        none = torch.zeros(values["elements"], dtype=torch.long)
        partition = Partition(values["by"], none, none, len(members), members[0].items)
        return cls(members, partition, made(values["aggregator"]))

    def _fresh(self, name: str, rows: Tensor, seed: int) -> Tensor:
        _, number, inner = name.split(".", 2)
        return self.shard_models[int(number)]._fresh(inner, rows, derive_seed(seed, "shard", int(number)))


class _LastSplit:
    """The graphs of the shards of the last graph that was asked for; copies of a model start without."""

    def __init__(self) -> None:
        self._held: tuple[Graph, list[Graph]] | None = None

    def of(self, graph: Graph, partition: Partition) -> list[Graph]:
        """The graph of every shard."""
        if self._held is None or self._held[0] is not graph:
            whole = Interactions(graph.users, graph.items, graph.pairs)
            self._held = graph, [Graph(part) for part in partition.split(whole)]
        return self._held[1]

    def __deepcopy__(self, memo: dict[int, Any]) -> _LastSplit:
        return _LastSplit()
