"""Accuracy: share of images that get their label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from expunge.vision.metrics._common import mean_finding

if TYPE_CHECKING:
    from expunge.report.scorecard import Finding
    from expunge.vision.evidence import EvidenceStore


@dataclass(frozen=True)
class Accuracy:
    """Share of images classified right; with several labels an image, the mean share of its labels.

    On the forgotten images 1 - accuracy is the UA of the literature, on the retained ones accuracy is RA, on unseen
    ones TA. The ideal on the forgotten is gold's value: near chance for a forgotten class, near the accuracy on
    strangers for forgotten people.

    Attributes:
        splits: Names of splits. Source: ours.
    """

    paper: ClassVar[str] = "UA, RA, TA as in Fan et al., SalUn, ICLR 2024 (arXiv 2310.12508)"
    needs_gold: ClassVar[bool] = False

    splits: Sequence[str] = ("forget", "retain", "test")

    def measure(self, model: EvidenceStore, gold: EvidenceStore | None) -> list[Finding]:
        """Findings ``accuracy`` of each split.

        Raises:
            InputError: A split is missing or empty.
        """
        return [mean_finding("accuracy", split, model, model.hits(split)) for split in self.splits]
