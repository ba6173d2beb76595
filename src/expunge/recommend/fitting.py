"""Fitting what combines the models of shards; the models themselves stay as they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from expunge.engine.method import Intention, Step, Trained
from expunge.engine.sampling import generator
from expunge.engine.training import Training
from expunge.recommend.aggregation import Attention, shard_margins
from expunge.recommend.data import Interactions
from expunge.recommend.graph import Graph
from expunge.recommend.models.base import Recommender, Rows, Vectors
from expunge.recommend.partition import Partition
from expunge.recommend.sampling import Negatives
from expunge.recommend.subject import Subject
from expunge.recommend.unlearn import UnlearnJob


@dataclass(frozen=True)
class Fit:
    """What an aggregation is fitted on.

    Attributes:
        job: The request: seed, folder, logs.
        served: Interactions the shards were trained on.
        catalogue: Bool [items] that are drawn as negatives; None for all.
        partition: Which shard each belongs to.
        vectors: Of the shards, [S, users, d] and [S, items, d].
        stage: Name of the fit, for its checkpoints.
    """

    job: UnlearnJob
    served: Interactions
    catalogue: Tensor | None
    partition: Partition
    vectors: Vectors
    stage: str

    def margins(self, share: float = 1.0) -> Tensor:
        """[n, S] how much each shard prefers served items to a random other one, on a share of the interactions."""
        draws = generator(self.job.seed, "aggregator pairs")
        count = max(1, round(share * len(self.served)))
        pairs = self.served.pairs[torch.randperm(len(self.served), generator=draws)[:count]]
        drawn = Negatives(self.served, self.catalogue).draw(pairs[:, 0], draws)
        return shard_margins(*self.vectors, pairs, drawn)

    def owners(self) -> Tensor:
        """int64 [users] the shard of each user."""
        users = torch.arange(self.served.users)
        return self.partition.of(torch.stack([users, torch.zeros_like(users)], 1))

    def attention(self, *, epochs: float, lr: float, decay: float, dropout: float) -> Attention:
        """RecEraser's attention, trained with the ranking loss over the shards' fixed vectors."""
        shards, _, d = self.vectors[0].shape
        model = Frozen(self.vectors, Attention(shards, d, self.job.seed))
        recipe = self.job.base_training or Training()
        training = Training(
            epochs=epochs, batch_size=recipe.batch_size, micro_batch=recipe.micro_batch, lr=lr, weight_decay=0.0,
            schedule="constant", warmup=0.0, clip=None,
        )  # fmt: skip
        none = self.served.take(torch.zeros(0, dtype=torch.long))
        job = UnlearnJob(
            Subject(model, self.served, "shards", {}, self.catalogue), none, self.served, training,
            self.job.seed, self.job.folder, self.job.observers, logs=self.job.logs,
        )  # fmt: skip
        job.train(RankTogether(decay, dropout), job.subject, part=f"{self.stage}-aggregator", quiet=True)
        return model.aggregator


class Frozen(Recommender):
    """Fixed vectors of several shards under an attention that is being trained."""

    kind: ClassVar[str] = "frozen-shards"
    z_user: Tensor
    z_item: Tensor

    def __init__(self, vectors: Vectors, aggregator: Attention) -> None:
        """Bind the vectors."""
        super().__init__(vectors[0].shape[1], vectors[1].shape[1], reg=0.0)
        self.aggregator = aggregator
        self.register_buffer("z_user", vectors[0], persistent=False)
        self.register_buffer("z_item", vectors[1], persistent=False)

    def embeddings(self, graph: Graph) -> Vectors:
        """See `Recommender`; the graph is in the vectors already."""
        found: Vectors = self.aggregator(self.z_user, self.z_item)
        return found

    def penalty(self, users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        """[b] zeros: the shards are not trained."""
        return torch.zeros(len(users))

    @property
    def node_rows(self) -> Mapping[str, Rows]:
        """None."""
        return {}

    def origin(self) -> dict[str, Any]:
        """Only ever a step on the way; it is not saved."""
        return {}


@dataclass(frozen=True)
class RankTogether(Trained):
    """Ranking loss of the aggregated vectors, those of users with dropout.

    Attributes:
        decay: Weight of |W|^2 + |b|^2.
        dropout: Share of the numbers of users' vectors that a step leaves out, the same for all its micro-batches.
    """

    paper: ClassVar[str] = "Chen, Sun, Zhang, Ding, Recommendation Unlearning, WWW 2022 (arXiv 2201.06820)"
    intention: ClassVar[Intention] = "removal"

    decay: float
    dropout: float

    def retain_loss(self, step: Step) -> Tensor:
        """L = mean softplus(-(s_ui - s_uj)) + decay (|W|^2 + |b|^2)."""
        view = step.retain
        z_user, z_item = view.embeddings
        kept = torch.rand(z_user.shape, generator=generator(step.seed, "dropout", step.index)) >= self.dropout
        z_user = z_user * kept.to(z_user) / (1 - self.dropout)
        margin = (z_user[view.users] * (z_item[view.positives] - z_item[view.negatives])).sum(1)
        share = len(view.users) / view.total
        loss: Tensor = view.per_row(F.softplus(-margin)) + share * self.decay * view.model.aggregator.square()
        return loss
