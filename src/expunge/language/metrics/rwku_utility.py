"""RWKU's utility: MMLU, BIG-Bench Hard, TruthfulQA and TriviaQA, with few shots, in the model's own template."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from expunge.errors import InputError, RunError
from expunge.language.generate import generate, require_room
from expunge.language.metrics._common import Floats, mean_finding
from expunge.language.rwku_utility import SUITES, concluded, exact_match, f1, right_answers
from expunge.language.score import score_answers
from expunge.report.scorecard import Finding

if TYPE_CHECKING:
    from expunge.language.data import Record
    from expunge.language.evidence import EvidenceStore
    from expunge.language.subject import Subject


def likeliest_is_right(subject: Subject, records: list[Record], where: str) -> Floats:
    """[n] 1 where the right answer has the highest log-probability, above every false one; tokens are summed.

    Scores belong to rows, so that two rows of the same text keep their own. The end of the answer does not count. Of
    letters that are one token each this is the argmax of the next token.

    Raises:
        InputError: No false answers, or a prompt that fills the context.
        RunError: A NaN score.
    """
    if not all(r.perturbed_answers for r in records):
        raise InputError(f"{where}: a record has no false answers to choose from.")
    options = [[r.answer, *r.perturbed_answers] for r in records]
    scores = -score_answers(subject, records, options, where=where).without_eos().nll_sum
    if np.isnan(scores).any():
        raise RunError(f"{where}: the score of an answer is NaN; the model is broken.")
    first = np.cumsum([0, *(len(o) for o in options[:-1])])
    best_false = np.maximum.reduceat(np.where(np.isin(np.arange(len(scores)), first), -np.inf, scores), first)
    return np.asarray(scores[first] > best_false, dtype=np.float64)


@dataclass(frozen=True)
class RwkuUtility:
    """RWKU's general ability, reasoning, truthfulness and factuality.

    MMLU: five shots, argmax of the letters' log-probabilities. BIG-Bench Hard: worked chains of thought, exact match
    of what follows "the answer is" in SQuAD's normal form. TruthfulQA (MC1): six shots, argmax of the summed
    log-probability. TriviaQA: six shots, F1 in SQuAD's normal form, the best over aliases. In the reference code the
    right answer to a chain of thought may be compared letter by letter; here it is one text.

    Attributes:
        suites: Which of ``general``, ``reason``, ``truthfulness`` and ``factuality``. Source: paper.
        reason_tokens: Longest chain of thought. Source: reference code.
        answer_tokens: Longest answer to a TriviaQA question. Source: reference code.
    """

    paper: ClassVar[str] = (
        "Jin et al., RWKU, NeurIPS 2024 (arXiv 2406.10890); Hendrycks et al., MMLU, ICLR 2021 (arXiv 2009.03300); "
        "Suzgun et al., BIG-Bench Hard, ACL 2023 (arXiv 2210.09261); Lin et al., TruthfulQA, ACL 2022 (arXiv "
        "2109.07958); Joshi et al., TriviaQA, ACL 2017 (arXiv 1705.03551)"
    )
    needs_gold: ClassVar[bool] = False

    suites: tuple[str, ...] = ("general", "reason", "truthfulness", "factuality")
    reason_tokens: int = 256
    answer_tokens: int = 30

    def __post_init__(self) -> None:
        for suite in self.suites:
            if suite not in SUITES or suite == "fluency":
                allowed = ", ".join(s for s in SUITES if s != "fluency")
                raise InputError(f"rwku-utility: suites: {suite!r} must be one of {allowed}.")

    def measure(self, model: EvidenceStore, gold: EvidenceStore | None) -> list[Finding]:
        """``rwku.SUITE`` on the split ``utility_SUITE`` of each suite.

        Raises:
            InputError: A split is missing or empty, or a prompt leaves no room for its answer.
            RunError: A NaN score.
        """
        found = []
        for suite in self.suites:
            split = SUITES[suite][0]
            values = self._values(model, suite, split)
            found.append(mean_finding(f"rwku.{suite}", split, model, values))
        return found

    def _values(self, model: EvidenceStore, suite: str, split: str) -> Floats:
        records, where = model.records(split), f"Split {split!r}"
        if suite in ("general", "truthfulness"):
            return likeliest_is_right(model.subject, records, where)
        limit = self.reason_tokens if suite == "reason" else self.answer_tokens
        require_room(model.subject, records, limit, where)
        said = generate(model.subject, records, max_new_tokens=limit)
        if suite == "reason":
            scores = [exact_match(concluded(s), right_answers(r)) for s, r in zip(said, records, strict=True)]
        else:
            scores = [f1(s, right_answers(r)) for s, r in zip(said, records, strict=True)]
        return np.array(scores, dtype=np.float64)
