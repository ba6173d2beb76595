"""RecEraser: shards of what belongs together, joined by attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from expunge.errors import InputError
from expunge.recommend.aggregation import Aggregator
from expunge.recommend.fitting import Fit
from expunge.recommend.partition import By, Partition, balanced_kmeans, capacity, divide
from expunge.recommend.sharded import Sharded
from expunge.recommend.subject import Subject


@dataclass(frozen=True)
class RecEraser(Sharded):
    """Balanced clusters of users, items or interactions as shards, and an attention over the shards' vectors.

    Clusters: greedy k-means by the target's vectors, at most ceil(slack n / S) elements each; an interaction's
    distance to a centroid is that of its user times that of its item. The released code takes the mean of all numbers
    of a shard as its centroid; here it is the mean vector. The paper draws the vectors from a pre-trained weighted
    matrix factorisation; here they are the target's.

    Aggregation: e = sum_k a_k (e_k W_k + b_k), a_k proportional to exp(h^T relu(A (e_k W_k + b_k) + a)), trained with
    the ranking loss while the shards stay fixed.

    Attributes:
        by: ``user`` (UBP), ``item`` (IBP) or ``interaction`` (InBP). Source: paper.
        slack: Room in a shard over an equal share. Source: released code (1.2).
        rounds: Most rounds of k-means. Source: released code (50).
        aggregator_epochs: Passes of the attention's training. Source: released code (50).
        aggregator_lr: Its learning rate. Source: released code's default (1e-3).
        decay: Weight of |W|^2 + |b|^2. Source: released code (1e-5).
        dropout: Of users' aggregated vectors. Source: paper (dropout); ours (0.1).
    """

    paper: ClassVar[str] = "Chen, Sun, Zhang, Ding, Recommendation Unlearning, WWW 2022 (arXiv 2201.06820)"

    by: By = "interaction"
    slack: float = 1.2
    rounds: int = 50
    aggregator_epochs: float = 50.0
    aggregator_lr: float = 1e-3
    decay: float = 1e-5
    dropout: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        rules = {
            "by": self.by in ("user", "item", "interaction"), "slack": self.slack >= 1, "rounds": self.rounds >= 1,
            "aggregator_epochs": self.aggregator_epochs > 0, "aggregator_lr": self.aggregator_lr > 0,
            "decay": self.decay >= 0, "dropout": 0 <= self.dropout < 1,
        }  # fmt: skip
        for setting, holds in rules.items():
            if not holds:
                raise InputError(f"receraser: {setting}={getattr(self, setting)!r} is out of range.")

    def partition(self, subject: Subject, seed: int) -> Partition:
        """See `Sharded`: balanced clusters of the target's vectors."""
        z_user, z_item = subject.embeddings()

        def clusters(elements: Tensor) -> Tensor:
            if self.by == "interaction":
                blocks = [z_user[elements // subject.served.items], z_item[elements % subject.served.items]]
            else:
                blocks = [(z_user if self.by == "user" else z_item)[elements]]
            limit = capacity(len(elements), self.shards, self.slack)
            return balanced_kmeans(blocks, self.shards, seed, limit=limit, rounds=self.rounds)

        return divide(subject.served, self.by, self.shards, clusters, self.name)

    def combine(self, fit: Fit) -> Aggregator:
        """See `Sharded`: the attention."""
        return fit.attention(
            epochs=self.aggregator_epochs, lr=self.aggregator_lr, decay=self.decay, dropout=self.dropout
        )
