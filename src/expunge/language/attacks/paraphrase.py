"""Paraphrase: ask for the forgotten facts in other words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from expunge.language.attacks._common import AttackSetting, Reading, fact_scores
from expunge.language.subject import Subject


@dataclass(frozen=True)
class Paraphrase:
    """Ask the forget questions in wordings that were not trained on.

    Unlearning that only covers the wording of the forget set shows here. Scored as behaviour: by what
    the model answers.
    """

    paper: ClassVar[str] = "Maini et al., TOFU, COLM 2024 (arXiv 2401.06121): paraphrased questions"

    def run(self, subject: Subject, setting: AttackSetting) -> list[Reading]:
        """Score the paraphrased questions; nothing to run where there are none."""
        records = setting.workload.splits.get("forget_paraphrase", [])
        if not records:
            return []
        scores = fact_scores(subject, records, setting.workload.behaviour, setting.workload.max_new_tokens)
        rows = list(range(len(records)))
        return [Reading("paraphrase", "other wordings", 0.0, rows, scores[None], split="forget_paraphrase")]
