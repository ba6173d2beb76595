"""How far the scores of the forgotten are from gold's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from expunge.recommend.metrics._common import by_users, weighted_ks
from expunge.report.scorecard import Finding

if TYPE_CHECKING:
    from expunge.recommend.evidence import EvidenceStore


@dataclass(frozen=True)
class ScoreDistance:
    """Kolmogorov-Smirnov distance between the scores of the forgotten under this model and under gold.

    0 is gold itself. A second gold seed shows how much of a distance is nothing but chance.

    Attributes:
        seed: Seeds the bootstrap over users. Source: ours.
        draws: Bootstrap draws. Source: ours.
    """

    paper: ClassVar[str] = "ours; the Kolmogorov-Smirnov distance to gold as in Maini et al., TOFU (arXiv 2401.06121)"
    needs_gold: ClassVar[bool] = True

    seed: int = 0
    draws: int = 1000

    def measure(self, model: EvidenceStore, gold: EvidenceStore | None) -> list[Finding]:
        """Finding ``ks.gold``."""
        assert gold is not None
        own, ideal, users = model.scores("forget"), gold.scores("forget"), model.users("forget")
        ends = by_users(weighted_ks(own, ideal), (users, users), seed=self.seed, draws=self.draws)
        return [Finding("ks.gold", "forget", model.name, *ends, len(own), "lower")]
