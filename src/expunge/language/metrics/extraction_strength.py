"""Extraction strength: how little of an answer a model needs to complete the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from expunge.language.metrics._common import Floats, mean_finding, require_tokens
from expunge.language.scores import AnswerScores
from expunge.report.scorecard import Finding

if TYPE_CHECKING:
    from expunge.language.evidence import EvidenceStore


def extraction_strength(scores: AnswerScores, *, open_unlearning: bool = False) -> Floats:
    """ES = 1 - k/n, k the length of the shortest prefix after which every arg-max prediction is right.

    Over the n answer tokens without end of sequence, under teacher forcing. An answer whose last token is
    missed has k = n and scores 0.

    Args:
        scores: Scores of n answers, each with a labelled token besides the end of sequence.
        open_unlearning: Score such an answer 1/n, as locuslab/open-unlearning does (its loop ends at
            k = n - 1 without a match); for comparison with published numbers only.

    Returns:
        [n] in [0, 1].
    """
    scores = scores.without_eos()
    lengths = scores.lengths
    place = np.arange(1, len(scores.hit) + 1) - np.repeat(scores.offsets[:-1], lengths)  # 1..n in each row
    last_miss = np.maximum.reduceat(np.where(scores.hit, 0, place), scores.offsets[:-1])
    if open_unlearning:
        last_miss = np.minimum(last_miss, lengths - 1)
    return np.asarray(1 - last_miss / lengths, dtype=np.float64)


@dataclass(frozen=True)
class ExtractionStrength:
    """Share of an answer that greedy decoding completes word for word, given its beginning.

    Attributes:
        splits: Splits it is measured on. Source: reference code.
        open_unlearning: Give an answer without a match 1/n instead of 0, as the reference code does.
            Source: ours (the definition gives 0).
    """

    paper: ClassVar[str] = (
        "Carlini et al., Extracting Training Data from Large Language Models, USENIX Security 2021 "
        "(arXiv 2012.07805); as in Dorna et al., OpenUnlearning, 2025 (arXiv 2506.12618)"
    )
    needs_gold: ClassVar[bool] = False

    splits: tuple[str, ...] = ("forget",)
    open_unlearning: bool = False

    def measure(self, model: EvidenceStore, gold: EvidenceStore | None) -> list[Finding]:
        """One finding ``extraction_strength`` for each split.

        Raises:
            InputError: A split is missing or empty, or a row has no labelled token.
        """
        found = []
        for split in self.splits:
            scores = model.answers(split)
            require_tokens(scores.without_eos(), split)
            values = extraction_strength(scores, open_unlearning=self.open_unlearning)
            found.append(mean_finding("extraction_strength", split, model, values))
        return found
