"""How far the weights are from gold's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from expunge.recommend.metrics._common import single

if TYPE_CHECKING:
    from expunge.recommend.evidence import EvidenceStore
    from expunge.report.scorecard import Finding


@dataclass(frozen=True)
class ParameterDistance:
    """|theta - theta_gold| / |theta_gold| over all parameters.

    Factors may be rotated together without changing a single score, and two gold models of different seeds are as far
    apart as strangers. The number says something only where target and gold began with the same initial values.
    """

    paper: ClassVar[str] = "ours; used throughout the literature on approximate unlearning"
    needs_gold: ClassVar[bool] = True

    def measure(self, model: EvidenceStore, gold: EvidenceStore | None) -> list[Finding]:
        """Finding ``parameter_distance.gold``; none for a network of another form, such as shards."""
        assert gold is not None
        own, ideal = (dict(store.subject.model.named_parameters()) for store in (model, gold))
        if {k: p.shape for k, p in own.items()} != {k: p.shape for k, p in ideal.items()}:
            return []
        apart = torch.cat([(own[k] - ideal[k]).detach().double().flatten() for k in own])
        size = torch.cat([p.detach().double().flatten() for p in ideal.values()]).norm()
        value = float(apart.norm() / size.clamp_min(1e-12))
        return [single("parameter_distance.gold", "all", model, value, len(apart), "lower")]
