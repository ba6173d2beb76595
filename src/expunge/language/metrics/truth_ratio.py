"""Truth ratio: how plausible the false answers are next to the right one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from expunge.errors import InputError
from expunge.language.metrics._common import Floats, capped, contrast, mean_finding
from expunge.report.scorecard import Finding

if TYPE_CHECKING:
    from expunge.language.evidence import EvidenceStore

Mean = Literal["geometric", "arithmetic"]


def truth_ratio(right_nll: Floats, wrong_nll: Floats, mean: Mean = "geometric") -> Floats:
    """Truth ratio R of each row: mean of p over its false answers divided by p of its right answer.

    Geometric, as both public codes and all published numbers: R = exp(NLL(c) - mean_w NLL(w)).
    Arithmetic, as the paper's formula: R = mean_w p(w) / p(c), never below the geometric one.

    >>> R = [truth_ratio(-np.log([0.5]), -np.log([[0.1, 0.4]]), m) for m in ("geometric", "arithmetic")]
    >>> [round(float(r[0]), 6) for r in R]
    [0.4, 0.5]

    Args:
        right_nll: [n] mean token NLL of the right answer c, in nats.
        wrong_nll: [n, w] the same of each false answer.
        mean: How false answers are averaged.

    Returns:
        [n] above 0 and finite (exponents are limited to 700, the range of a double).

    Raises:
        InputError: No false answers.
        RunError: A NaN loss.
    """
    if wrong_nll.ndim != 2 or wrong_nll.shape[1] == 0 or len(wrong_nll) != len(right_nll):
        raise InputError(f"Truth ratio: {len(right_nll)} rows and false answers of shape {wrong_nll.shape}.")
    right, wrong = capped(right_nll, "NLL of right answers"), capped(wrong_nll, "NLL of false answers")
    if mean == "geometric":
        log_wrong = -wrong.mean(axis=1)
    else:
        best = wrong.min(axis=1)
        log_wrong = np.log(np.exp(best[:, None] - wrong).mean(axis=1)) - best
    return np.asarray(np.exp(np.clip(log_wrong + right, -700, 700)), dtype=np.float64)


def closer_to_1(ratio: Floats) -> Floats:
    """min(R, 1/R) [n]: 1 where right and false answers are as plausible. Its mean is the forget aggregate."""
    return np.minimum(ratio, 1 / ratio)


def true_better(ratio: Floats) -> Floats:
    """max(0, 1 - R) [n]: how much more plausible the right answer is. Its mean: the aggregate elsewhere."""
    return np.maximum(0.0, 1 - ratio)


def prob_mean(ratio: Floats) -> Floats:
    """p(c) / (p(c) + p(w)) = 1 / (1 + R) [n] (open-unlearning's third option, arXiv 2506.12618).

    Its mean is the extent of knowledge in that paper's memorisation score: 0.5 knows nothing.
    """
    return 1 / (1 + ratio)


def truth_ratios(store: EvidenceStore, split: str, mean: Mean = "geometric") -> Floats:
    """[n] truth ratio of a split's records; right is the paraphrased answer, or the answer without one.

    Raises:
        InputError: No such split, or false answers missing or not equally many in each row.
        RunError: A NaN loss.
    """
    return truth_ratio(*contrast(store, split, store.paraphrases(split)), mean)


def aggregated(ratio: Floats, split: str) -> Floats:
    """[n] what is averaged: `closer_to_1` on splits named forget..., `true_better` on all others."""
    return closer_to_1(ratio) if split.startswith("forget") else true_better(ratio)


@dataclass(frozen=True)
class TruthRatio:
    """Truth ratio: on the forget side closeness to 1, elsewhere how much better the right answer is.

    On the forget set the ideal is gold's value, about 0.65 in TOFU, not 1.

    Attributes:
        splits: Splits it is measured on. Source: paper.
        mean: ``geometric`` (reference code) or ``arithmetic`` (paper); never compare one with the other.
            Source: reference code.
    """

    paper: ClassVar[str] = "Maini et al., TOFU, COLM 2024 (arXiv 2401.06121)"
    needs_gold: ClassVar[bool] = False

    splits: tuple[str, ...] = ("forget", "retain")
    mean: Mean = "geometric"

    def __post_init__(self) -> None:
        require_mean("truth-ratio", self.mean)

    def measure(self, model: EvidenceStore, gold: EvidenceStore | None) -> list[Finding]:
        """One finding ``truth_ratio`` for each split.

        Raises:
            InputError: A split is missing or empty, or false answers are missing or uneven.
            RunError: A NaN loss.
        """
        return [
            mean_finding("truth_ratio", s, model, aggregated(truth_ratios(model, s, self.mean), s)) for s in self.splits
        ]


def require_mean(metric: str, mean: str) -> None:
    """Refuse a mean that does not exist.

    Raises:
        InputError: Neither geometric nor arithmetic.
    """
    if mean not in ("geometric", "arithmetic"):
        raise InputError(f"{metric}: mean={mean!r} must be 'geometric' or 'arithmetic'.")
