"""Memorisation accuracy: the share of a text's tokens, but the first, that a model predicts right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from expunge.language.metrics._common import Floats, mean_finding, require_tokens
from expunge.language.metrics.exact_memorization import exact_memorization
from expunge.language.metrics.extraction_likelihood import leading
from expunge.language.scores import AnswerScores
from expunge.report.scorecard import Finding

if TYPE_CHECKING:
    from expunge.language.evidence import EvidenceStore


def memorization_accuracy(scores: AnswerScores, first: NDArray[np.bool_], *, where: str = "records") -> Floats:
    """MA(x) = 1/(T - 1) sum over t = 1 .. T - 1 of 1[argmax p(.|x_<t) = x_t] (Jang et al., ACL 2023, equation 4).

    Exact memorisation (`exact_memorization`) without the prediction of x_0, which MA leaves out also where
    something stands before x to predict it from.

    Args:
        scores: Scores of n texts; an end of sequence does not count.
        first: [n] bool, whether the row's first label is x_0 (a prompt or a begin-of-sequence token stands before).
        where: Name of the set in errors.

    Returns:
        [n] in [0, 1].

    Raises:
        InputError: A text of one token: it has nothing to predict.
    """
    scores = scores.without_eos()
    keep = np.ones(len(scores.hit), dtype=bool)
    keep[scores.offsets[:-1][first & (scores.lengths > 0)]] = False
    lengths = scores.lengths - (first & (scores.lengths > 0))
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    columns = {name: getattr(scores, name)[keep] for name in ("logprob", "hit", "mean", "variance")}
    rest = AnswerScores(offsets, **columns, has_eos=False)
    require_tokens(rest, where, "text after its first token")
    return exact_memorization(rest)


@dataclass(frozen=True)
class MemorizationAccuracy:
    """Share of a text's T - 1 next tokens predicted exactly, given all tokens before them.

    Attributes:
        splits: Splits it is measured on. Source: paper (the forget set, and unseen text for the threshold).
    """

    paper: ClassVar[str] = (
        "Tirumala et al., Memorization Without Overfitting, NeurIPS 2022 (arXiv 2205.10770); as in Jang et al., ACL "
        "2023 (arXiv 2210.01504)"
    )
    needs_gold: ClassVar[bool] = False

    splits: tuple[str, ...] = ("forget",)

    def measure(self, model: EvidenceStore, gold: EvidenceStore | None) -> list[Finding]:
        """One finding ``memorization_accuracy`` for each split.

        Raises:
            InputError: A split is missing or empty, or a text has a single token.
        """
        found = []
        for split in self.splits:
            before = leading(model.subject) > 0
            first = np.array([before or bool(r.question) for r in model.records(split)], dtype=bool)
            values = memorization_accuracy(model.answers(split), first, where=split)
            found.append(mean_finding("memorization_accuracy", split, model, values))
        return found
