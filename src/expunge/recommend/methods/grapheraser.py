"""GraphEraser for recommenders: shards along the graph, weighted by what each is worth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from expunge.errors import InputError
from expunge.recommend.aggregation import Aggregator, Weighted, simplex_weights
from expunge.recommend.fitting import Fit
from expunge.recommend.label_propagation import label_propagation, shared_neighbours
from expunge.recommend.partition import Partition, balanced_kmeans, divide, propagation_capacity
from expunge.recommend.sharded import Sharded
from expunge.recommend.subject import Subject


@dataclass(frozen=True)
class GraphEraser(Sharded):
    """Balanced communities of users (or items) as shards, and one weight for each shard.

    Made for the classification of nodes, where edges between shards are lost. Here a shard takes all edges of its
    users, and users are neighbours through the items they share, so that no interaction is lost.

    Communities: balanced label propagation (BLPA), or greedy k-means by the target's vectors (BEKM), with at most
    ceil(n / S + 0.005 (n - n / S)) users. Aggregation (LBAggr): weights >= 0 with sum 1 of least mean
    softplus(-sum_k w_k (s_ui - s_uj)_k) + |w|_2.

    Attributes:
        strategy: ``blpa`` or ``bekm``. Source: paper.
        by: ``user`` or ``item``. Source: ours.
        rounds: Most rounds of either. Source: paper's code (100).
        fitted_on: Share of the interactions the weights are fitted on. Source: paper (a small set); ours (0.1).
        aggregator_epochs: Passes over them. Source: paper's code (50).
        aggregator_lr: Learning rate of Adam. Source: paper's code (1e-3).
    """

    paper: ClassVar[str] = "Chen et al., Graph Unlearning, CCS 2022 (arXiv 2103.14991)"

    strategy: Literal["blpa", "bekm"] = "blpa"
    by: Literal["user", "item"] = "user"
    rounds: int = 100
    fitted_on: float = 0.1
    aggregator_epochs: int = 50
    aggregator_lr: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        rules = {
            "strategy": self.strategy in ("blpa", "bekm"), "by": self.by in ("user", "item"),
            "rounds": self.rounds >= 1, "fitted_on": 0 < self.fitted_on <= 1,
            "aggregator_epochs": self.aggregator_epochs >= 1,
            "aggregator_lr": self.aggregator_lr > 0,
        }  # fmt: skip
        for setting, holds in rules.items():
            if not holds:
                raise InputError(f"grapheraser: {setting}={getattr(self, setting)!r} is out of range.")

    def partition(self, subject: Subject, seed: int) -> Partition:
        """See `Sharded`: communities of users or items."""
        side = 0 if self.by == "user" else 1

        def communities(elements: Tensor) -> Tensor:
            limit = propagation_capacity(len(elements), self.shards)
            if self.strategy == "blpa":
                votes = shared_neighbours(subject.served, side, elements)
                return label_propagation(votes, len(elements), self.shards, seed, limit=limit, rounds=self.rounds)
            vectors = subject.embeddings()[side][elements]
            return balanced_kmeans([vectors], self.shards, seed, limit=limit, rounds=self.rounds)

        return divide(subject.served, self.by, self.shards, communities, self.name)

    def combine(self, fit: Fit) -> Aggregator:
        """See `Sharded`: LBAggr."""
        aggregator = Weighted(fit.partition.shards)
        aggregator.weights.data = simplex_weights(
            fit.margins(self.fitted_on), epochs=self.aggregator_epochs, lr=self.aggregator_lr, seed=fit.job.seed
        )
        return aggregator
