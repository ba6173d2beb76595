"""SISA for recommenders: shards drawn at random, answers averaged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from expunge.errors import InputError
from expunge.recommend.aggregation import Aggregator, Owned, Weighted
from expunge.recommend.fitting import Fit
from expunge.recommend.partition import By, Partition, divide, uniform
from expunge.recommend.sharded import Sharded
from expunge.recommend.subject import Subject


@dataclass(frozen=True)
class SISA(Sharded):
    """Train one recommender on each random shard and average their scores; to forget, train few shards again.

    With users dealt out, all but one shard know nothing of a user and add scores of initial vectors: the mean carries
    that noise, and asking the user's own shard alone does not. Slices within a shard, which save part of a shard's
    training, are not offered: the recommender variants have none.

    Attributes:
        by: What is dealt out: each ``user``, each ``item`` or each ``interaction``. Source: CURE4Rec (users); IFRU's
            code (interactions).
        aggregate: ``mean`` of the shards' scores, or ``own``: the user's shard alone (needs by=user). Source:
            SISA (mean); CURE4Rec (own).
    """

    paper: ClassVar[str] = "Bourtoule et al., Machine Unlearning, IEEE S&P 2021 (arXiv 1912.03817)"

    by: By = "user"
    aggregate: Literal["mean", "own"] = "mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.by not in ("user", "item", "interaction"):
            raise InputError(f"sisa: by={self.by!r}; user, item or interaction.")
        if self.aggregate not in ("mean", "own") or (self.aggregate == "own" and self.by != "user"):
            raise InputError(f"sisa: aggregate={self.aggregate!r}; mean, or own with by=user.")

    def partition(self, subject: Subject, seed: int) -> Partition:
        """See `Sharded`: shards of equal size, dealt out at random."""
        return divide(
            subject.served, self.by, self.shards, lambda e: uniform(len(e), self.shards, seed), self.name
        )  # fmt: skip

    def combine(self, fit: Fit) -> Aggregator:
        """See `Sharded`: nothing is fitted."""
        shards = fit.partition.shards
        return Weighted(shards) if self.aggregate == "mean" else Owned(fit.owners(), shards)
