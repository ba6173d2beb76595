"""The aggregate scores of OpenUnlearning: memorisation, privacy and utility in one number each, and all in one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from expunge.errors import InputError
from expunge.language.metrics._common import Floats, Ints, require_tokens, row_nll
from expunge.language.metrics.exact_memorization import exact_memorization
from expunge.language.metrics.extraction_strength import extraction_strength
from expunge.language.metrics.membership import membership_scores, require_strangers
from expunge.language.metrics.model_utility import ModelUtility, harmonic_mean, utility_interval
from expunge.language.metrics.probability import answer_probability
from expunge.language.metrics.truth_ratio import prob_mean, truth_ratios
from expunge.membership import auroc
from expunge.membership.curves import _compact, _multiplicities, _wins
from expunge.report.scorecard import Finding
from expunge.report.statistics import Interval

if TYPE_CHECKING:
    from expunge.language.evidence import EvidenceStore

DETECTORS = ("loss", "zlib", "min_k", "min_k_plus_plus")


def nearness(auroc: Floats, gold_auroc: Floats) -> Floats:
    """s = 1 - |A_u - A_r| / max(A_r, 1 - A_r): 1 at gold's AUROC, 0 as far from it as an AUROC can be.

    The paper does not print how an AUROC becomes a score, and its code was not released; this is our reading.

    >>> nearness(np.array([0.5, 0.75, 1.0]), np.array(0.5)).tolist()
    [1.0, 0.5, 0.0]

    Args:
        auroc: AUROC of the unlearned model.
        gold_auroc: AUROC of the gold model.
    """
    return np.asarray(1 - np.abs(auroc - gold_auroc) / np.maximum(gold_auroc, 1 - gold_auroc), dtype=np.float64)


def unmemorised(store: EvidenceStore, split: str) -> Floats:
    """[n, 4] of each record: 1 - ES, 1 - EM, 1 - p(paraphrased answer), 1 - p(c) / (p(c) + p(w)).

    ES is the extraction strength and EM the exact memorisation of the answer; c is the paraphrased answer and
    p(w) the geometric mean over its false versions. Without a paraphrase the answer stands in for it.

    Raises:
        InputError: No such split, a row without tokens, or false answers missing or uneven.
        RunError: A NaN loss.
    """
    answers = store.answers(split)
    require_tokens(answers.without_eos(), split)
    known = [
        extraction_strength(answers),
        exact_memorization(answers),
        answer_probability(row_nll(store.paraphrases(split), split, "paraphrased answer")),
        prob_mean(truth_ratios(store, split)),
    ]
    return np.column_stack([1 - part for part in known])


@dataclass(frozen=True)
class OpenUnlearningScores:
    """Memorisation, privacy and utility as harmonic means of their parts, each in [0, 1], and all in one.

    Memorisation is the harmonic mean of 1 - extraction strength, 1 - exact memorisation, 1 - probability of the
    paraphrased answer and 1 - extent of knowledge (`prob_mean` of the truth ratio): 1 says that nothing of the
    forget set is left, which gold need not reach. Privacy is the harmonic mean of how near four detectors' AUROCs
    are to gold's (`nearness`, our reading), and is left out without gold or non-members. Utility is the model
    utility: the paper joins it with a fluency that a classifier from a hub judges, which is left out.

    Attributes:
        members: The forget set; its records need false answers. Source: paper.
        non_members: Records no model was trained on. Source: paper.
        stays: What the model utility is measured on. Source: paper.
        k: Share of tokens for Min-K% and Min-K%++. Source: reference code.
        seed: Seeds the bootstrap. Source: ours.
        draws: Bootstrap draws. Source: ours.
    """

    paper: ClassVar[str] = (
        "Dorna et al., OpenUnlearning: Accelerating LLM Unlearning via Unified Benchmarking of Methods and Metrics, "
        "2025 (arXiv 2506.12618)"
    )
    needs_gold: ClassVar[bool] = False

    members: str = "forget"
    non_members: str = "holdout"
    stays: tuple[str, ...] = ("retain", "real_authors", "world_facts")
    k: float = 0.4
    seed: int = 0
    draws: int = 1000

    def __post_init__(self) -> None:
        if not 0 < self.k <= 1:
            raise InputError(f"open-unlearning-scores: k={self.k} must lie in (0, 1].")

    def measure(self, model: EvidenceStore, gold: EvidenceStore | None) -> list[Finding]:
        """Findings ``open_unlearning.memorization``, ``.privacy``, ``.utility`` and ``.overall``.

        The last one carries no interval: its three parts, whose splits differ, do.

        Raises:
            InputError: A split is missing or empty, a row has no labelled token, or false answers are missing.
            RunError: A NaN loss.
        """
        left = unmemorised(model, self.members)
        clusters = model.clusters(self.members)
        utility = ModelUtility(self.stays, seed=self.seed, draws=self.draws).measure(model, gold)[0]
        found = {
            "memorization": utility_interval([left], [clusters], seed=self.seed, draws=self.draws),
            "utility": Interval(utility.value, utility.low, utility.high),
        }
        rows = {"memorization": len(left), "utility": utility.n}
        if gold is not None and self.non_members in model.splits:
            found["privacy"], rows["privacy"] = self._privacy(model, gold)
            overall = float(harmonic_mean(np.array([interval.value for interval in found.values()])))
            found["overall"], rows["overall"] = Interval(overall, float("nan"), float("nan")), sum(rows.values())
        return [
            Finding(
                f"open_unlearning.{name}",
                "all" if name in ("utility", "overall") else self.members,
                model.name,
                *ends,
                n=rows[name],
                direction="higher",
            )
            for name, ends in found.items()
        ]

    def _privacy(self, model: EvidenceStore, gold: EvidenceStore) -> tuple[Interval, int]:
        """The harmonic mean over the detectors, and how many records stand behind it."""
        splits = (self.members, self.non_members)
        require_strangers(model.records(splits[0]), model.records(splits[1]), splits)
        if any(model.records(s) != gold.records(s) for s in splits):
            raise InputError(f"Privacy: the splits of {model.name} and of gold differ; measure one set.")
        scores = {
            (store.name, d): [membership_scores(d, store, s, k=self.k) for s in splits]
            for store in (model, gold)
            for d in DETECTORS
        }

        def mean(values: dict[tuple[str, str], Floats]) -> Floats:
            each = [nearness(values[model.name, d], values[gold.name, d]) for d in DETECTORS]
            return harmonic_mean(np.stack(np.broadcast_arrays(*each), axis=-1))

        value = float(mean({key: np.asarray(auroc(*sides)) for key, sides in scores.items()}))
        drawn = resampled_aurocs(scores, *(model.clusters(s) for s in splits), seed=self.seed, draws=self.draws)
        n = sum(len(model.records(s)) for s in splits)
        if drawn is None:
            return Interval(value, float("nan"), float("nan")), n
        low, high = np.quantile(mean(drawn), [0.025, 0.975])
        return Interval(value, float(low), float(high)), n


def resampled_aurocs(
    scores: dict[tuple[str, str], list[Floats]], a: Ints, b: Ints, *, seed: int, draws: int
) -> dict[tuple[str, str], Floats] | None:
    """[draws] AUROC of each pair of sides under the same resampled clusters; None if a side is a single cluster."""
    (a_of, n), (b_of, m) = _compact(a, len(a)), _compact(b, len(b))
    if len(n) == 1 or len(m) == 1:
        return None
    take_a, take_b = _multiplicities(len(n), len(m), seed, draws)
    pairs = (take_a @ n) * (take_b @ m)
    return {key: ((take_a @ _wins(x, y, a_of, b_of)) * take_b).sum(1) / pairs for key, (x, y) in scores.items()}
