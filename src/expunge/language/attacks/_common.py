"""What every attack on a language model shares: how facts are scored."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from expunge.language.data import Record
from expunge.language.generate import generate
from expunge.language.metrics.exact_memorization import exact_memorization
from expunge.language.metrics.probability import choice_probability
from expunge.language.metrics.rouge import rouge_l_recall
from expunge.language.score import score_answers
from expunge.language.scores import AnswerScores
from expunge.language.subject import Subject
from expunge.language.workload import Score, Workload
from expunge.report.readings import Reading as Reading

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class AttackSetting:
    """What an attack gets besides the model: the data, and how facts are scored."""

    workload: Workload
    seed: int
    groups: dict[str, list[int]] = field(default_factory=dict)

    def score(self, subject: Subject, records: list[Record]) -> Floats:
        """[n] score of each record in [0, 1] (`workload.attack_score`)."""
        return fact_scores(subject, records, self.workload.attack_score, self.workload.max_new_tokens)


def answer_hits(scores: AnswerScores, kind: Score) -> Floats:
    """[n] whether the whole answer is predicted exactly (``exact``), or what share of it is (``token``)."""
    return scores.exact.astype(float) if kind == "exact" else exact_memorization(scores)


def fact_scores(subject: Subject, records: list[Record], kind: Score, max_new_tokens: int) -> Floats:
    """Score facts as `Score` defines it."""
    if kind in ("exact", "token"):
        return answer_hits(score_answers(subject, records, [[r.answer] for r in records]), kind)
    if kind == "rouge":
        answers = generate(subject, records, max_new_tokens=max_new_tokens)
        return rouge_l_recall([r.answer for r in records], answers)
    right = score_answers(subject, records, [[r.paraphrased_answer or r.answer] for r in records])
    wrong = score_answers(subject, records, [list(r.perturbed_answers) for r in records])
    owner = np.repeat(np.arange(len(records)), [len(r.perturbed_answers) for r in records])
    return choice_probability(right.nll, wrong.nll, owner)
