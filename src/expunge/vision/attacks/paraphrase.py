"""Paraphrase: other pictures of the forgotten."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from expunge.report.readings import Reading
from expunge.vision.attacks._common import AttackSetting, right
from expunge.vision.subject import Subject


@dataclass(frozen=True)
class Paraphrase:
    """Ask about pictures of the forgotten that were not trained on: forgetting a file is not forgetting a face."""

    paper: ClassVar[str] = "ours; after the paraphrased questions of TOFU (arXiv 2401.06121)"

    def run(self, subject: Subject, setting: AttackSetting) -> list[Reading]:
        """Score them; nothing to run where there are none."""
        images = setting.workload.splits.get("forget_paraphrase")
        if images is None or not len(images):
            return []
        rows = list(range(len(images)))
        scores = right(subject, images)[None]
        return [Reading("paraphrase", "other pictures", 0.0, rows, scores, split="forget_paraphrase")]
