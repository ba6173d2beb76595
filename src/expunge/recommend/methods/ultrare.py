"""UltraRE: shards by optimal transport, joined linearly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from expunge.errors import InputError
from expunge.recommend.aggregation import Aggregator, Weighted, logistic_weights
from expunge.recommend.fitting import Fit
from expunge.recommend.partition import Partition, divide
from expunge.recommend.sharded import Sharded
from expunge.recommend.subject import Subject
from expunge.recommend.transport import Solver, optimal_balanced


@dataclass(frozen=True)
class UltraRE(Sharded):
    """RecEraser with optimal balanced clusters and a linear combination of the shards' scores.

    Clusters: users of equal mass are transported to S centroids of equal mass at least squared distance of the
    target's vectors; each goes where most of it goes, centroids move to their means, and again. Aggregation:
    s = sum_k w_k s_k with the w of least mean softplus(-(s_ui - s_uj)) + ridge |w|^2 / 2.

    Attributes:
        by: ``user`` or ``item``. Source: paper (users).
        rounds: Most rounds of clustering. Source: paper (10).
        solver: ``exact`` or ``sinkhorn`` (with an entropy; faster). Source: paper (entropic); ours (exact, which has no
            further setting).
        epsilon: Weight of the entropy, as a share of the mean cost. Source: ours.
        ridge: Penalty on the weights of the shards. Source: ours.
    """

    paper: ClassVar[str] = "Li et al., UltraRE: Enhancing RecEraser for Recommendation Unlearning, NeurIPS 2023"

    by: Literal["user", "item"] = "user"
    rounds: int = 10
    solver: Solver = "exact"
    epsilon: float = 0.05
    ridge: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        rules = {
            "by": self.by in ("user", "item"), "rounds": self.rounds >= 1,
            "solver": self.solver in ("exact", "sinkhorn"), "epsilon": self.epsilon > 0, "ridge": self.ridge > 0,
        }  # fmt: skip
        for setting, holds in rules.items():
            if not holds:
                raise InputError(f"ultrare: {setting}={getattr(self, setting)!r} is out of range.")

    def partition(self, subject: Subject, seed: int) -> Partition:
        """See `Sharded`: optimal balanced clusters of users or items."""
        vectors = subject.embeddings()[0 if self.by == "user" else 1]
        return divide(
            subject.served, self.by, self.shards,
            lambda e: optimal_balanced(
                vectors[e], self.shards, seed, rounds=self.rounds, solver=self.solver, epsilon=self.epsilon
            ),
            self.name,
        )  # fmt: skip

    def combine(self, fit: Fit) -> Aggregator:
        """See `Sharded`: the linear combination."""
        aggregator = Weighted(fit.partition.shards)
        aggregator.weights.data = logistic_weights(fit.margins(), ridge=self.ridge)
        return aggregator
