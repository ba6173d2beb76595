"""Whether retained users are recommended what gold recommends them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from expunge.recommend.metrics._common import UNKNOWN
from expunge.recommend.ranking import NOTHING, recommended
from expunge.report.scorecard import Finding
from expunge.report.statistics import cluster_bootstrap

if TYPE_CHECKING:
    from expunge.recommend.evidence import EvidenceStore


@dataclass(frozen=True)
class Overlap:
    """Share of the first k recommendations of users who kept something that gold gives them too.

    Two gold seeds share 82 of 100 on MovieLens, and the target's own weights over the kept graph share 83: by this
    number alone doing nothing cannot be told from retraining.

    Attributes:
        k: Recommendations. Source: ours (20).
    """

    paper: ClassVar[str] = "ours"
    needs_gold: ClassVar[bool] = True

    k: int = 20

    def measure(self, model: EvidenceStore, gold: EvidenceStore | None) -> list[Finding]:
        """Finding ``overlap.gold``, filed under ``retain``."""
        assert gold is not None
        retain = model.interactions("retain")
        users = retain.degrees[0].nonzero()[:, 0]
        a, b = (recommended(store, users, retain, self.k) for store in (model, gold))
        both = ((a[:, :, None] == b[:, None, :]) & (a != NOTHING)[:, :, None]).any(2).sum(1)
        size = (b != NOTHING).sum(1)
        shares = torch.where(size > 0, both / size.clamp_min(1), UNKNOWN).double().numpy()
        ends = cluster_bootstrap(shares[shares == shares], users.numpy()[shares == shares])
        return [Finding("overlap.gold", "retain", model.name, *ends, len(shares), "higher")]
