"""Where the forgotten items stand among everything their users have not kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from expunge.report.scorecard import Finding
from expunge.report.statistics import cluster_bootstrap

if TYPE_CHECKING:
    from expunge.recommend.evidence import EvidenceStore


@dataclass(frozen=True)
class ForgottenRank:
    """Mean place of the forgotten items, from 1, in the rankings of those who took them.

    Recall sees the first places only. A model that pushed the forgotten to the very end has a recall of 0 like many an
    honest one, and a mean place that gives it away. The ideal is gold's value.
    """

    paper: ClassVar[str] = "ours"
    needs_gold: ClassVar[bool] = False

    def measure(self, model: EvidenceStore, gold: EvidenceStore | None) -> list[Finding]:
        """Finding ``mean_rank``, with its interval over users."""
        values = model.places("forget").astype(np.float64)
        ends = cluster_bootstrap(values, model.users("forget"))
        return [Finding("mean_rank", "forget", model.name, *ends, len(values), "match-gold")]
