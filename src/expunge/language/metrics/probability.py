"""Probability of the right answer, by itself and among false answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from expunge.language.metrics._common import (
    Floats,
    Ints,
    capped,
    contrast,
    false_answers,
    mean_finding,
    row_nll,
)
from expunge.report.scorecard import Finding

if TYPE_CHECKING:
    from expunge.language.evidence import EvidenceStore


def answer_probability(nll: Floats) -> Floats:
    """Length-normalised probability p = exp(-NLL) = P(answer | question)^(1/T) of T tokens (TOFU).

    The paper's text writes P itself; its code, and every published number, uses p.

    Args:
        nll: [n] mean token NLL in nats.

    Returns:
        [n] in [0, 1].

    Raises:
        RunError: A NaN loss.
    """
    return np.asarray(np.exp(-capped(nll)), dtype=np.float64)


def choice_probability(right_nll: Floats, wrong_nll: Floats, owner: Ints) -> Floats:
    """Probability of the right answer among the offered ones: p / (p + sum_w p_w) (TOFU).

    Chance is 1 / (1 + w) with w false answers. Computed with the largest exponent taken out, so it is defined
    where every p underflows.

    Args:
        right_nll: [n] mean token NLL of the right answers, in nats.
        wrong_nll: [W] the same of all false answers, row after row.
        owner: [W] the row each false answer belongs to.

    Returns:
        [n] in [0, 1].

    Raises:
        InputError: Rows with different numbers of false answers, or none.
        RunError: A NaN loss.
    """
    wrong = false_answers(capped(wrong_nll, "NLL of false answers"), owner, len(right_nll))
    right = capped(right_nll, "NLL of right answers")
    best = np.minimum(right, wrong.min(axis=1))
    p, p_wrong = np.exp(best - right), np.exp(best[:, None] - wrong)
    return np.asarray(p / (p + p_wrong.sum(axis=1)), dtype=np.float64)


def split_probability(store: EvidenceStore, split: str, *, normalised: bool) -> Floats:
    """[n] probability of a split's answers, `normalised` by its false answers or not.

    Raises:
        InputError: No such split, a row without labelled tokens, or false answers missing or uneven.
        RunError: A NaN loss.
    """
    if not normalised:
        return answer_probability(row_nll(store.answers(split), split))
    right, wrong = contrast(store, split, store.answers(split))
    owner = np.repeat(np.arange(len(wrong)), wrong.shape[1])
    return choice_probability(right, wrong.ravel(), owner)


@dataclass(frozen=True)
class Probability:
    """Length-normalised probability of the right answer, where there are options its share among them.

    Attributes:
        splits: Splits measured by p(answer). Source: paper.
        options: Splits measured by p(answer) / (p(answer) + sum of p(false answers)). Source: paper.
    """

    paper: ClassVar[str] = "Maini et al., TOFU, COLM 2024 (arXiv 2401.06121)"
    needs_gold: ClassVar[bool] = False

    splits: tuple[str, ...] = ("forget", "retain")
    options: tuple[str, ...] = ("real_authors", "world_facts")

    def measure(self, model: EvidenceStore, gold: EvidenceStore | None) -> list[Finding]:
        """One finding ``probability`` for each split.

        Raises:
            InputError: A split is missing or empty, a row has no labelled token, or false answers are
                missing or uneven.
            RunError: A NaN loss.
        """
        kinds = [(s, False) for s in self.splits] + [(s, True) for s in self.options]
        return [
            mean_finding("probability", s, model, split_probability(model, s, normalised=normalised))
            for s, normalised in kinds
        ]
