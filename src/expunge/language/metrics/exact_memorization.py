"""Exact memorisation: the share of answer tokens a model predicts right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from expunge.language.metrics._common import Floats, mean_finding, require_tokens
from expunge.language.scores import AnswerScores
from expunge.report.scorecard import Finding

if TYPE_CHECKING:
    from expunge.language.evidence import EvidenceStore


def exact_memorization(scores: AnswerScores) -> Floats:
    """Share of tokens whose arg-max prediction under teacher forcing is the label, without end of sequence.

    Args:
        scores: Scores of n answers, each with a labelled token besides the end of sequence.

    Returns:
        [n] in [0, 1]; never below the extraction strength.
    """
    scores = scores.without_eos()
    hits = np.add.reduceat(scores.hit.astype(np.int64), scores.offsets[:-1])
    return np.asarray(hits / scores.lengths, dtype=np.float64)


@dataclass(frozen=True)
class ExactMemorization:
    """Share of answer tokens predicted exactly, given all tokens before them.

    Attributes:
        splits: Splits it is measured on. Source: reference code.
    """

    paper: ClassVar[str] = (
        "Tirumala et al., Memorization Without Overfitting, NeurIPS 2022 (arXiv 2205.10770); as in Dorna et "
        "al., OpenUnlearning, 2025 (arXiv 2506.12618)"
    )
    needs_gold: ClassVar[bool] = False

    splits: tuple[str, ...] = ("forget",)

    def measure(self, model: EvidenceStore, gold: EvidenceStore | None) -> list[Finding]:
        """One finding ``exact_memorization`` for each split.

        Raises:
            InputError: A split is missing or empty, or a row has no labelled token.
        """
        found = []
        for split in self.splits:
            scores = model.answers(split)
            require_tokens(scores.without_eos(), split)
            found.append(mean_finding("exact_memorization", split, model, exact_memorization(scores)))
        return found
