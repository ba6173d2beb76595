"""Share of questions whose answer greedy decoding reproduces token by token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from expunge.language.metrics._common import mean_finding, require_tokens
from expunge.report.scorecard import Finding

if TYPE_CHECKING:
    from expunge.language.evidence import EvidenceStore


@dataclass(frozen=True)
class Accuracy:
    """Share of answers that greedy decoding reproduces exactly; for short answers from a closed set.

    An answer counts when the arg-max prediction equals the label at every labelled token, end of sequence
    included: the same as generating greedily and comparing token by token.

    Attributes:
        splits: Splits it is measured on. Source: ours.
    """

    paper: ClassVar[str] = "Exact match, as in Rajpurkar et al., SQuAD, EMNLP 2016 (arXiv 1606.05250)"
    needs_gold: ClassVar[bool] = False

    splits: tuple[str, ...] = ("forget", "forget_paraphrase", "retain", "retain_paraphrase", "places")

    def measure(self, model: EvidenceStore, gold: EvidenceStore | None) -> list[Finding]:
        """One finding ``accuracy`` for each split.

        Raises:
            InputError: A split is missing or empty, or a row has no labelled token.
        """
        found = []
        for split in self.splits:
            scores = model.answers(split)
            require_tokens(scores, split)
            found.append(mean_finding("accuracy", split, model, scores.exact.astype(float)))
        return found
