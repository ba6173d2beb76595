"""ROUGE-L recall of the right answer in what the model writes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from expunge.errors import InputError
from expunge.language.metrics._common import Floats, mean_finding
from expunge.report.scorecard import Finding

if TYPE_CHECKING:
    from expunge.language.evidence import EvidenceStore


def rouge_l_recall(references: Sequence[str], generations: Sequence[str]) -> Floats:
    """ROUGE-L recall (Lin 2004): longest common subsequence over the words of the reference.

    Words are those of the rouge-score package with stemming: runs of a-z and 0-9. A reference without any
    such word (Greek, Chinese...) is compared letter by letter, since every score would be 0 otherwise.

    >>> rouge_l_recall(["She writes novels", "Το όνομα"], ["novels she wrote", "Το όνομα"]).round(3).tolist()
    [0.333, 1.0]

    Args:
        references: [n] right answers.
        generations: [n] what the model wrote; an empty one scores 0.

    Returns:
        [n] in [0, 1].

    Raises:
        InputError: Not one generation per reference.
    """
    return np.array([score.recall for score in _rouge_l(references, generations)], dtype=np.float64)


def rouge_l_f1(references: Sequence[str], generations: Sequence[str], *, stem: bool = True) -> Floats:
    """ROUGE-L F1: the harmonic mean of the subsequence's share of both texts (see `rouge_l_recall`).

    Args:
        references: [n] right answers.
        generations: [n] what the model wrote; an empty one scores 0.
        stem: Whether words are compared by their stems.

    Returns:
        [n] in [0, 1].

    Raises:
        InputError: Not one generation per reference.
    """
    return np.array([score.fmeasure for score in _rouge_l(references, generations, stem)], dtype=np.float64)


def _rouge_l(references: Sequence[str], generations: Sequence[str], stem: bool = True) -> list[Any]:
    if len(references) != len(generations):
        raise InputError(f"ROUGE: {len(references)} answers but {len(generations)} generations.")
    return [
        _scorer(letters=not re.search("[a-z0-9]", r.lower()), stem=stem).score(r, g)["rougeL"]
        for r, g in zip(references, generations, strict=True)
    ]


class _Letters:
    """Splits a text into its letters and digits of any script."""

    def tokenize(self, text: str) -> list[str]:
        return re.findall(r"\w", text.lower())


@cache
def _scorer(*, letters: bool, stem: bool) -> Any:
    from rouge_score import rouge_scorer  # imports nltk, a second that only this metric needs

    tokenizer = _Letters() if letters else None
    return rouge_scorer.RougeScorer(["rougeL"], use_stemmer=stem, tokenizer=tokenizer)


def split_rouge(store: EvidenceStore, split: str) -> Floats:
    """[n] ROUGE-L recall of a split's answers in the greedy generations.

    Raises:
        InputError: No such split.
    """
    return rouge_l_recall([r.answer for r in store.records(split)], store.generations(split))


@dataclass(frozen=True)
class Rouge:
    """ROUGE-L recall, with stemming, of the right answer in the greedy answer.

    Attributes:
        splits: Splits it is measured on. Source: paper.
    """

    paper: ClassVar[str] = "Lin, ROUGE, ACL workshop 2004; as used by Maini et al., TOFU, COLM 2024 (arXiv 2401.06121)"
    needs_gold: ClassVar[bool] = False

    splits: tuple[str, ...] = ("forget", "retain")

    def measure(self, model: EvidenceStore, gold: EvidenceStore | None) -> list[Finding]:
        """One finding ``rouge_l`` for each split.

        Raises:
            InputError: A split is missing or empty.
        """
        return [mean_finding("rouge_l", s, model, split_rouge(model, s)) for s in self.splits]
