"""BLEU of an answer against the answer the original model gave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from expunge.language.metrics._common import mean_finding
from expunge.language.metrics.rouge import rouge_l_f1
from expunge.report.scorecard import Finding

if TYPE_CHECKING:
    from expunge.language.evidence import EvidenceStore


def bleu(reference: str, answer: str) -> float:
    """Sentence BLEU over words split at white space, with smoothing method 3 of Chen and Cherry (2014).

    N-grams up to four, fewer where the reference is shorter: a one-word answer repeated has BLEU 1.

    >>> bleu("Paris", "Paris"), bleu("in the city of Paris", "")
    (1.0, 0.0)
    """
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    wanted, given = reference.split(), answer.split()
    if not wanted or not given:
        return float(wanted == given)
    order = min(4, len(wanted))
    return float(
        sentence_bleu([wanted], given, weights=[1 / order] * order, smoothing_function=SmoothingFunction().method3)
    )


@dataclass(frozen=True)
class Bleu:
    """How close answers stay to those of the target, by BLEU and ROUGE-L F1: 1 is the same answer.

    Any change lowers it: gibberish, refusal and forgetting look alike, and a wrong answer of the target counts as
    knowledge.

    Attributes:
        splits: Splits whose questions are asked. Source: paper (questions, completions, unrelated questions).
    """

    paper: ClassVar[str] = (
        "Hong, Yu, Yang, Ravfogel, Geva, Intrinsic Test of Unlearning Using Parametric Knowledge Traces, EMNLP 2025 "
        "(arXiv 2406.11614)"
    )
    needs_gold: ClassVar[bool] = False

    splits: Sequence[str] = ("forget", "retain")

    def measure(self, model: EvidenceStore, gold: EvidenceStore | None) -> list[Finding]:
        """Nothing: the measurement is a comparison."""
        return []

    def compare(self, model: EvidenceStore, target: EvidenceStore) -> list[Finding]:
        """``bleu_to_target`` and ``rouge_l_to_target`` of each split."""
        found = []
        for split in self.splits:
            before, now = target.generations(split), model.generations(split)
            same = np.array([bleu(a, b) for a, b in zip(before, now, strict=True)])
            found.append(mean_finding("bleu_to_target", split, model, same))
            found.append(mean_finding("rouge_l_to_target", split, model, rouge_l_f1(before, now)))
        return found
