"""Forget quality: can the truth ratios of a model be told from the gold model's?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np

from expunge.errors import InputError
from expunge.language.metrics._common import Floats
from expunge.language.metrics.truth_ratio import Mean, require_mean, truth_ratios
from expunge.report.scorecard import Finding
from expunge.report.statistics import cluster_bootstrap

if TYPE_CHECKING:
    from expunge.language.evidence import EvidenceStore


class ForgetQualityValue(NamedTuple):
    """The p-value of the Kolmogorov-Smirnov test, and the distance it is a function of."""

    p: float
    ks: float


def forget_quality(ratio: Floats, gold_ratio: Floats | None) -> ForgetQualityValue:
    """Two-sample Kolmogorov-Smirnov test between truth ratios on the same rows (TOFU).

    Two-sided, exact up to 10,000 rows (scipy's ``auto``). Unchanged by R -> 1/R and by the order of rows.
    The p-value has few steps on few rows (40 rows: 1, 0.99, 0.919, 0.766...) and sinks with their number
    alone, so the distance belongs beside it. It takes rows as independent, which one author's are not.

    Args:
        ratio: [n] truth ratios of the model.
        gold_ratio: [n] of the gold model on the same rows; None if there is no gold model.

    Raises:
        InputError: No gold model, no rows, or not as many rows.
    """
    if gold_ratio is None:
        raise InputError("Forget quality compares with the gold model, and there is none: give or train one.")
    if len(ratio) != len(gold_ratio) or len(ratio) == 0:
        raise InputError(
            f"Forget quality: {len(ratio)} rows of the model and {len(gold_ratio)} of gold; must be equal."
        )
    from scipy import stats

    test = stats.ks_2samp(ratio, gold_ratio, alternative="two-sided", method="auto")
    return ForgetQualityValue(float(test.pvalue), float(test.statistic))


def ks_distance(ratio: Floats, gold_ratio: Floats) -> float:
    """Largest distance between two empirical distribution functions, in [0, 1].

    >>> ks_distance(np.array([1.0, 2.0, 3.0]), np.array([3.0, 4.0, 5.0])).__round__(6)
    0.666667
    """
    at = np.concatenate([ratio, gold_ratio])
    below = np.searchsorted(np.sort(ratio), at, side="right") / len(ratio)
    gold_below = np.searchsorted(np.sort(gold_ratio), at, side="right") / len(gold_ratio)
    return float(np.abs(below - gold_below).max())


@dataclass(frozen=True)
class ForgetQuality:
    """P-value of the Kolmogorov-Smirnov test between truth ratios of the model and of gold.

    The p-value carries no interval: it is itself a statement about sampling error. The distance's interval
    resamples clusters, the same ones for both models, and is widened to hold the estimate.

    Attributes:
        splits: Splits it is measured on. Source: paper.
        mean: Truth ratio's mean over false answers, ``geometric`` or ``arithmetic``. Source: reference code.
    """

    paper: ClassVar[str] = "Maini et al., TOFU, COLM 2024 (arXiv 2401.06121)"
    needs_gold: ClassVar[bool] = True

    splits: tuple[str, ...] = ("forget",)
    mean: Mean = "geometric"

    def __post_init__(self) -> None:
        require_mean("forget-quality", self.mean)

    def measure(self, model: EvidenceStore, gold: EvidenceStore | None) -> list[Finding]:
        """Findings ``forget_quality`` and ``forget_quality.ks`` for each split.

        Raises:
            InputError: There is no gold model; its rows are others; a split is missing, or its false answers
                are missing or uneven.
            RunError: A NaN loss.
        """
        return [finding for split in self.splits for finding in self._measure(split, model, gold)]

    def _measure(self, split: str, model: EvidenceStore, gold: EvidenceStore | None) -> list[Finding]:
        if gold is not None and model.records(split) != gold.records(split):
            raise InputError(f"Forget quality: split {split!r} of {model.name} and of gold differ; measure one set.")
        ratio = truth_ratios(model, split, self.mean)
        gold_ratio = None if gold is None else truth_ratios(gold, split, self.mean)
        p, ks = forget_quality(ratio, gold_ratio)
        pairs = np.column_stack([ratio, ratio if gold_ratio is None else gold_ratio])
        drawn = cluster_bootstrap(pairs, model.clusters(split), lambda rows: ks_distance(rows[:, 0], rows[:, 1]))
        low, high = np.minimum(drawn.low, ks), np.maximum(drawn.high, ks)
        unknown = float("nan")
        return [
            Finding("forget_quality", split, model.name, p, unknown, unknown, len(ratio), "higher"),
            Finding("forget_quality.ks", split, model.name, ks, float(low), float(high), len(ratio), "lower"),
        ]
