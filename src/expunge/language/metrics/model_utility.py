"""Model utility: one number for what a model must still be able to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from expunge.errors import InputError
from expunge.language.metrics._common import Floats, Ints
from expunge.language.metrics.probability import split_probability
from expunge.language.metrics.rouge import split_rouge
from expunge.language.metrics.truth_ratio import Mean, require_mean, true_better, truth_ratios
from expunge.report.scorecard import Finding
from expunge.report.statistics import Interval

if TYPE_CHECKING:
    from expunge.language.evidence import EvidenceStore


def harmonic_mean(parts: Floats) -> Floats:
    """Harmonic mean over the last axis, [..., m] -> [...]; 0 wherever a part is 0.

    >>> harmonic_mean(np.array([[1.0, 0.5], [1.0, 0.0]])).round(4).tolist()
    [0.6667, 0.0]

    Raises:
        InputError: No parts, or one that is negative or NaN.
    """
    if parts.shape[-1] == 0 or not (parts >= 0).all():
        raise InputError("A harmonic mean needs parts, none of them negative or NaN.")
    dead = np.asarray(parts == 0).any(axis=-1)
    inverse = (1 / np.where(parts == 0, 1.0, parts)).mean(axis=-1)
    return np.asarray(np.where(dead, 0.0, 1 / inverse), dtype=np.float64)


def utility_parts(store: EvidenceStore, split: str, mean: Mean = "geometric") -> Floats:
    """[n, 3] ROUGE-L recall, probability and max(0, 1 - truth ratio) of each record of a split.

    Probability is p(answer) on splits named retain..., and normalised by the false answers on all others.

    Raises:
        InputError: No such split, or false answers missing or uneven.
        RunError: A NaN loss.
    """
    probability = split_probability(store, split, normalised=not split.startswith("retain"))
    better = true_better(truth_ratios(store, split, mean))
    return np.column_stack([split_rouge(store, split), probability, better])


@dataclass(frozen=True)
class ModelUtility:
    """Harmonic mean of ROUGE, probability and truth ratio over what must stay: 9 numbers on TOFU's 3 sets.

    A single 0 among them makes it 0.

    Attributes:
        splits: What must stay. Source: paper.
        mean: Truth ratio's mean over false answers: ``geometric`` (reference code) or ``arithmetic`` (paper),
            about 0.04 apart on the same model. Source: reference code.
        seed: Seeds the bootstrap. Source: ours.
        draws: Bootstrap draws. Source: ours.
    """

    paper: ClassVar[str] = "Maini et al., TOFU, COLM 2024 (arXiv 2401.06121)"
    needs_gold: ClassVar[bool] = False

    splits: tuple[str, ...] = ("retain", "real_authors", "world_facts")
    mean: Mean = "geometric"
    seed: int = 0
    draws: int = 1000

    def __post_init__(self) -> None:
        require_mean("model-utility", self.mean)
        if not self.splits:
            raise InputError("model-utility: splits is empty; name at least one.")

    def measure(self, model: EvidenceStore, gold: EvidenceStore | None) -> list[Finding]:
        """One finding ``model_utility``, filed under split ``all``.

        Raises:
            InputError: A split is missing or empty, or its false answers are missing or uneven.
            RunError: A NaN loss.
        """
        parts = [utility_parts(model, split, self.mean) for split in self.splits]
        clusters = [model.clusters(split) for split in self.splits]
        found = utility_interval(parts, clusters, seed=self.seed, draws=self.draws)
        return [Finding("model_utility", "all", model.name, *found, sum(map(len, parts)), "higher")]


def utility_interval(parts: list[Floats], clusters: list[Ints], *, seed: int = 0, draws: int = 1000) -> Interval:
    """Harmonic mean of all column means, with a 95% interval that resamples clusters within each split.

    Args:
        parts: For each split, [n, m] components of each record.
        clusters: For each split, [n] cluster index 0..k-1.
        seed: Seeds the resampling.
        draws: Number of resamples.

    Returns:
        The estimate and its interval; NaN ends if every split is a single cluster.
    """
    value = float(harmonic_mean(np.concatenate([p.mean(axis=0) for p in parts])))
    if all(len(np.unique(c)) < 2 for c in clusters):
        return Interval(value, float("nan"), float("nan"))
    rng = np.random.default_rng(seed)
    means = [_resampled_means(p, c, rng, draws) for p, c in zip(parts, clusters, strict=True)]
    low, high = np.quantile(harmonic_mean(np.concatenate(means, axis=1)), [0.025, 0.975])
    return Interval(value, float(low), float(high))


def _resampled_means(values: Floats, clusters: Ints, rng: np.random.Generator, draws: int) -> Floats:
    """[draws, m] column means after resampling whole clusters."""
    _, index, sizes = np.unique(clusters, return_inverse=True, return_counts=True)
    k = len(sizes)
    sums = np.zeros((k, values.shape[1]))
    np.add.at(sums, index, values)
    counts = rng.multinomial(k, np.full(k, 1 / k), size=draws)
    return np.asarray((counts @ sums) / (counts @ sizes)[:, None], dtype=np.float64)
