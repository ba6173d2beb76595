"""Full ranking: how much of what a user took is among the first recommendations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from expunge.errors import InputError, nearest
from expunge.recommend.metrics._common import direction
from expunge.recommend.ranking import MEASURES
from expunge.report.scorecard import Finding
from expunge.report.statistics import cluster_bootstrap

if TYPE_CHECKING:
    from expunge.recommend.evidence import EvidenceStore


@dataclass(frozen=True)
class Ranking:
    """Recall, NDCG, precision, MAP and hit rate of the first k recommendations, each a mean over users.

    All items are ranked but those the user kept (for the test also those of validation); for ``retain`` nothing is
    left out. On the forgotten interactions the ideal is gold's value, not 0: collaborative filtering re-infers some
    of what it never saw, and a model that puts the forgotten last can be told from one that never knew.

    Attributes:
        splits: Names of splits. Source: paper (train, valid, test and forget).
        k: Recommendations. Source: paper (20).
        measures: Which of recall, ndcg, precision, map and hit. Source: paper.
    """

    paper: ClassVar[str] = (
        "Recall@K, NDCG@K as in He et al., LightGCN, SIGIR 2020 (arXiv 2002.02126); on the forget set as in Sinha, "
        "Mandal, Kankanhalli, Multi-Modal Recommendation Unlearning, 2024 (arXiv 2405.15328)"
    )
    needs_gold: ClassVar[bool] = False

    splits: Sequence[str] = ("forget", "retain", "valid", "test")
    k: int = 20
    measures: Sequence[str] = ("recall", "ndcg", "precision", "map", "hit")

    def __post_init__(self) -> None:
        for name in self.measures:
            if name not in MEASURES:
                raise InputError(f"ranking: unknown measure {name!r}.{nearest(name, list(MEASURES))}")

    def measure(self, model: EvidenceStore, gold: EvidenceStore | None) -> list[Finding]:
        """Findings ``MEASURE_at_K`` of each split.

        Raises:
            InputError: A split is missing or empty, or k is above the number of items.
        """
        return [finding for split in self.splits for finding in self._split(model, split)]

    def _split(self, model: EvidenceStore, split: str) -> list[Finding]:
        ranking = model.ranking(split, self.k)
        if not len(ranking.users):
            raise InputError(f"Split {split!r} has no interactions, so there is nothing to rank.")
        users, n = ranking.users.numpy(), len(ranking.users)
        found = []
        for measure in self.measures:
            interval = cluster_bootstrap(ranking.per_user(measure, self.k).numpy(), users)
            found.append(Finding(f"{measure}_at_{self.k}", split, model.name, *interval, n, direction(split)))
        return found
