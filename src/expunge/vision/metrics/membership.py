"""Membership inference on images: can forgotten ones be told from ones no model has seen?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from expunge.errors import InputError, nearest
from expunge.membership import (
    Signals,
    auroc_interval,
    metric_conf,
    metric_corr,
    metric_ent,
    metric_loss,
    metric_ment,
    tpr_at_fpr_interval,
)
from expunge.report.scorecard import Finding
from expunge.vision.metrics._common import Floats

if TYPE_CHECKING:
    from expunge.vision.evidence import EvidenceStore

SCORES: dict[str, Callable[[Signals], Floats]] = {
    "loss": metric_loss,
    "confidence": metric_conf,
    "correctness": metric_corr,
    "entropy": metric_ent,
    "modified_entropy": metric_ment,
}


@dataclass(frozen=True)
class Membership:
    """The detectors that need one query: AUROC and TPR at 1% FPR of forgotten images against unseen ones.

    The ideal is gold's value: forgotten and unseen people may differ in more than training, and a value below gold's
    is over-forgetting, which can be detected as well. The TPR is left out below 100 unseen images.

    Attributes:
        members: Images whose training is to be detected. Source: ours.
        non_members: Images no model was trained on. Source: ours.
        detectors: Names of detectors. Source: paper (its metric-based ones).
        seed: Seeds the bootstrap. Source: ours.
        draws: Bootstrap draws. Source: ours.
    """

    paper: ClassVar[str] = "the metric-based detectors of Zhu et al., TDDBench, ICLR 2025 (arXiv 2411.03363)"
    needs_gold: ClassVar[bool] = False

    members: str = "forget"
    non_members: str = "holdout"
    detectors: tuple[str, ...] = ("loss", "confidence", "correctness", "entropy", "modified_entropy")
    seed: int = 0
    draws: int = 1000

    def __post_init__(self) -> None:
        for name in self.detectors:
            if name not in SCORES:
                raise InputError(f"membership: unknown detector {name!r}.{nearest(name, list(SCORES))}")

    def measure(self, model: EvidenceStore, gold: EvidenceStore | None) -> list[Finding]:
        """Findings ``membership.DETECTOR.auroc`` and ``.tpr_at_1_fpr``, filed under the members' split.

        Raises:
            InputError: A split is missing or empty, or logits that are not finite.
        """
        sides = (self.members, self.non_members)
        if model.labels(self.members).ndim == 2:
            losses = [-model.losses(split) for split in sides]  # independent labels have no common softmax
            return self._findings("loss", model, losses[0], losses[1])
        signals = [Signals(model.logits(split), model.labels(split)) for split in sides]
        return [
            finding
            for name in self.detectors
            for finding in self._findings(name, model, *(SCORES[name](s) for s in signals))
        ]

    def _findings(self, detector: str, model: EvidenceStore, x: Floats, y: Floats) -> list[Finding]:
        a, b = (model.clusters(split) for split in (self.members, self.non_members))
        found = {"auroc": auroc_interval(x, y, a, b, seed=self.seed, draws=self.draws)}
        if len(y) >= 100:
            found["tpr_at_1_fpr"] = tpr_at_fpr_interval(x, y, a, b, 0.01, seed=self.seed, draws=self.draws)
        n = len(x) + len(y)
        return [
            Finding(f"membership.{detector}.{name}", self.members, model.name, *ends, n, "match-gold")
            for name, ends in found.items()
        ]
