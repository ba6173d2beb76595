"""Paraphrase preference: of two wordings of one fact, does a model find the one it has read likelier?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from expunge.errors import InputError, RunError
from expunge.language.continuations import continuation_scores
from expunge.language.metrics._common import Floats
from expunge.language.metrics._whole_texts import mean_matched
from expunge.language.subject import Subject
from expunge.report.scorecard import Finding

if TYPE_CHECKING:
    from expunge.language.evidence import EvidenceStore


def preference(inserted: Floats, other: Floats) -> Floats:
    """[n] 1 where the inserted wording is likelier, 0 where the other one is, 1/2 where they are equal.

    >>> preference(np.array([-1.0, -2.0, -3.0]), np.array([-2.0, -1.0, -3.0])).tolist()
    [1.0, 0.0, 0.5]
    """
    return np.asarray((inserted > other) + 0.5 * (inserted == other), dtype=np.float64)


def pair_likelihoods(subject: Subject, pairs: Sequence[tuple[str, str]], *, batch_tokens: int = 4096) -> Floats:
    """[n, 2] log-likelihood of both wordings with nothing in front of them, in nats."""
    asked = [("", wording) for pair in pairs for wording in pair]
    return continuation_scores(subject, asked, batch_tokens=batch_tokens)[0].reshape(len(pairs), 2)


@dataclass(frozen=True)
class ParaphrasePreference:
    """How often the wording that was inserted is likelier than the one that was not; chance is 1/2.

    A coin decided which of the two was inserted, so a model that has read neither scores 1/2 whatever it thinks of the
    wordings, and any distance from 1/2 is memorisation. Records are the inserted wording as plain text, with the
    other one as their only false answer.

    Attributes:
        splits: Splits of such records. Source: paper.
    """

    paper: ClassVar[str] = (
        "Wei, Godbole, Khan et al., Hubble: a Model Suite to Advance the Study of LLM Memorization, 2025 (arXiv "
        "2510.19811)"
    )
    needs_gold: ClassVar[bool] = False

    splits: tuple[str, ...] = ("forget", "holdout")

    def measure(self, model: EvidenceStore, gold: EvidenceStore | None) -> list[Finding]:
        """``hubble.paraphrase_preference`` by log-likelihood, and ``.per_byte``, of each split.

        Raises:
            InputError: A split is missing or empty, or a record is no pair of wordings.
            RunError: A NaN likelihood.
        """
        found = []
        for split in self.splits:
            records = model.records(split)
            if not records:
                raise InputError(f"Split {split!r} has no records, so there is no paraphrase preference.")
            odd = next((i for i, r in enumerate(records, 1) if r.question or len(r.perturbed_answers) != 1), None)
            if odd is not None:
                raise InputError(
                    f"Split {split!r}, record {odd}: a pair of wordings is a plain text with exactly one false answer."
                )
            pairs = [(r.answer, r.perturbed_answers[0]) for r in records]
            scores = pair_likelihoods(model.subject, pairs, batch_tokens=model.batch_tokens)
            if np.isnan(scores).any():
                raise RunError(f"Split {split!r}: the likelihood of a wording is NaN; the model is broken.")
            sizes = np.array([[len(text.encode()) for text in pair] for pair in pairs])
            for name, value in (("", scores), (".per_byte", scores / sizes)):
                chosen = preference(value[:, 0], value[:, 1])
                clusters = model.clusters(split)
                found.append(mean_matched(f"hubble.paraphrase_preference{name}", split, model, chosen, clusters))
        return found
