"""Membership with reference models: would a model that saw the record, or one that did not, say what this one says?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from expunge.errors import InputError
from expunge.language.metrics._common import IMPOSSIBLE, Floats, Ints
from expunge.language.metrics._reference_attacks import ATTACKS, Attack, rmia
from expunge.language.metrics.membership import detection, require_strangers
from expunge.language.references import SIGNALS, Bools, ReferenceEvidence, audited_scores
from expunge.membership import Calibration, References, calibrated_threshold, one_run_bound, used_share
from expunge.report.scorecard import Direction, Finding
from expunge.report.statistics import Interval

if TYPE_CHECKING:
    from expunge.language.evidence import EvidenceStore
    from expunge.language.workload import Metric


@dataclass(frozen=True)
class ReferenceMembership:
    """LiRA, RMIA and their kin, the share of the forget set still in use, and a lower bound on epsilon.

    Works on the scores of reference models (`expunge.language.references`): models that the target's recipe made of
    the retain set and known halves of the forget and holdout clusters. A recipe asks for them with
    ``audit.references``; without them this metric measures nothing. All detectors read the mean token log-probability
    of an answer, the end of sequence included.

    Thresholds come from the reference models: each stands in for the audited model in turn, is attacked with all but
    itself and its partner, and the threshold with the largest TPR - FPR over all of them decides. No membership of
    an audited record is looked at. At it, ``balanced_accuracy`` is (TPR + TNR) / 2 on forget and holdout records, and
    ``membership.usage`` is the share of the forget set that the model still uses (DUCI, with RMIA).

    ``membership.epsilon`` speaks of a training that draws who is in it: each forget cluster (in) and each holdout
    cluster (out) is one canary, guessed by its mean LiRA score. It is measured only where `random_split` says that the
    two sets are one random draw of equal parts; exactly half are in, which is close to fair coins, not the same.

    Attributes:
        members: Records whose training is to be detected. Source: reference code.
        non_members: Records no model was trained on. Source: reference code.
        detectors: Attacks. Source: ours.
        gamma: By how much RMIA must beat a population answer. Source: reference code (Privacy Meter).
        k: Share of tokens for Min-K% and Min-K%++. Source: reference code.
        random_split: Whether a random draw divided forget and holdout clusters. Source: ours.
        guesses: Share of the canaries guessed on, half of them in, half out; fixed in advance. Source: ours.
        delta: Of the guarantee (epsilon, delta) that is refuted. Source: ours.
        seed: Seeds the bootstrap. Source: ours.
        draws: Bootstrap draws. Source: ours.
    """

    paper: ClassVar[str] = (
        "Carlini et al. 2022 (LiRA, arXiv 2112.03570); Zarifzadeh et al. 2024 (RMIA, arXiv 2312.03262); Watson et al. "
        "2022 (calibration, arXiv 2111.08440); Ye et al. 2022 (attack R, arXiv 2111.09679); Tong et al. 2025 (DUCI, "
        "ICLR); Steinke et al. 2023 (one-run audit, arXiv 2305.08846)"
    )
    needs_gold: ClassVar[bool] = False

    members: str = "forget"
    non_members: str = "holdout"
    detectors: tuple[str, ...] = ("lira", "lira_offline", "rmia", "calibration", "attack_r")
    gamma: float = 1.0
    k: float = 0.4
    random_split: bool = False
    guesses: float = 1.0
    delta: float = 0.0
    seed: int = 0
    draws: int = 1000

    def __post_init__(self) -> None:
        wrong = [name for name in self.detectors if name not in ATTACKS]
        if wrong:
            raise InputError(f"reference-membership: unknown detector {wrong[0]!r}; {', '.join(ATTACKS)}.")
        rules = {
            "k": 0 < self.k <= 1,
            "gamma": 0 < self.gamma < np.inf,
            "guesses": 0 < self.guesses <= 1,
            "delta": 0 <= self.delta < 1,
        }
        broken = [f"{name}={getattr(self, name)}" for name, holds in rules.items() if not holds]
        if broken:
            raise InputError(f"reference-membership: out of range: {', '.join(broken)}.")

    def measure(self, model: EvidenceStore, gold: EvidenceStore | None) -> list[Finding]:
        """Nothing: see `refer`."""
        return []

    def notes(self, references: ReferenceEvidence) -> list[str]:
        """What cannot be measured with these reference models, and why."""
        return [] if (why := self._powerless(references)) is None else [why]

    def refer(self, model: EvidenceStore, references: ReferenceEvidence) -> list[Finding]:
        """Findings ``membership.DETECTOR.auroc``, ``.tpr_at_1_fpr``, ``.tpr_at_0_1_fpr`` and ``.balanced_accuracy``.

        The last one also of the detectors that need no reference models; and ``membership.usage`` and
        ``membership.epsilon``, filed under the members' split. What the reference models cannot carry is left out
        (`notes` says why).

        Args:
            model: Evidence of the model under audit.
            references: Scores of the reference models on the same splits.

        Raises:
            InputError: A record on both sides, or a row without tokens.
            RunError: A NaN loss.
        """
        splits = references.sides
        require_strangers(model.records(splits[0]), model.records(splits[1]), splits)
        count = len(model.records(splits[0]))
        unseen = np.arange(references.inside.shape[1]) >= count
        clusters = [model.clusters(s) for s in splits]
        calibrated = len(references.inside) >= 4
        found = []
        for name in (*self.detectors, *SIGNALS):
            m = _finite(audited_scores(model, _signal(name), splits, self.k))
            scores = self._attack(name)(m, references_on(references, _signal(name)), unseen)
            sides = scores[:count], scores[count:]
            if name in self.detectors:
                found += detection(name, model, splits, sides, seed=self.seed, draws=self.draws)
            if calibrated:
                called = self._calibrated(name, references).decide(scores)
                ends = balanced_accuracy(called[:count], called[count:], *clusters, seed=self.seed, draws=self.draws)
                found.append(self._finding(model, f"{name}.balanced_accuracy", ends, len(scores)))
            if name == "rmia" and self._powerless(references) is None:
                usage = used_share(
                    sides[0], self._calibrated(name, references), clusters[0], seed=self.seed, draws=self.draws
                )
                ends = Interval(usage.share, *np.clip([usage.low, usage.high], 0, 1).tolist())
                found.append(self._finding(model, "usage", ends, count))
            if name == "lira" and self.random_split:
                found.append(self._epsilon(model, sides, clusters))
        return found

    def _attack(self, name: str) -> Attack:
        """A detector as a function of the attacked model's scores; those without references return the scores."""
        if name == "rmia":
            return lambda m, references, unseen: rmia(m, references, unseen, self.gamma)
        return ATTACKS.get(name, lambda m, references, unseen: m)

    def _calibrated(self, name: str, references: ReferenceEvidence) -> Calibration:
        """The threshold with the largest TPR - FPR on reference models in the place of the audited one."""
        attack, stand_ins = self._attack(name), list(references_on(references, _signal(name)).stand_ins())
        scores = [attack(s.values, s.others, ~s.inside) for s in stand_ins]
        return calibrated_threshold(np.stack(scores), np.stack([s.inside for s in stand_ins]))

    def _powerless(self, references: ReferenceEvidence) -> str | None:
        """Why the share of records in use cannot be told; None where it can, or is not asked for."""
        if "rmia" not in self.detectors:
            return None
        if len(references.inside) < 4:
            return (
                f"Membership: {len(references.inside)} reference models leave none to set thresholds on: calibrated "
                f"accuracy and the share of the forget set in use need at least 4 (audit.references)."
            )
        try:  # neither depends on the audited model: any scores will do
            used_share(np.zeros(2), self._calibrated("rmia", references), seed=self.seed, draws=self.draws)
        except InputError as error:
            return f"Membership: {error}"
        return None

    def _epsilon(self, model: EvidenceStore, sides: Sequence[Floats], clusters: Sequence[Ints]) -> Finding:
        """The one-run bound over clusters; of the larger side as many are drawn as the smaller one has."""
        means = [_cluster_means(s, c) for s, c in zip(sides, clusters, strict=True)]
        size, rng = min(map(len, means)), np.random.default_rng(self.seed)
        scores = np.concatenate([rng.permutation(m)[:size] for m in means])
        guesses = max(1, round(self.guesses * len(scores)))
        bound = one_run_bound(
            scores, np.arange(len(scores)) < size, guesses, delta=self.delta, seed=self.seed
        )  # fmt: skip
        unknown = float("nan")
        return self._finding(model, "epsilon", Interval(bound.epsilon, unknown, unknown), len(scores), "lower")

    def _finding(
        self, model: EvidenceStore, name: str, ends: Interval, n: int, direction: Direction = "match-gold"
    ) -> Finding:
        return Finding(f"membership.{name}", self.members, model.name, *ends, n, direction)


def references_on(references: ReferenceEvidence, signal: str) -> References:
    """Reference models' scores of one of the `SIGNALS` in the form the detectors take."""
    return References(_finite(references.signals[signal]), references.inside, paired=True)


def balanced_accuracy(
    called_members: Bools, called_others: Bools, a: Ints, b: Ints, *, seed: int = 0, draws: int = 1000
) -> Interval:
    """(TPR + TNR) / 2 with its 95% interval, clusters of both sides resampled.

    Args:
        called_members: [n] whether each member is called one.
        called_others: [m] whether each non-member is called a member.
        a: [n] clusters of the members.
        b: [m] clusters of the non-members.
        seed: Seeds the resampling.
        draws: Number of resamples.
    """
    value = float((1 + called_members.mean() - called_others.mean()) / 2)
    if len(np.unique(a)) == 1 or len(np.unique(b)) == 1:
        return Interval(value, float("nan"), float("nan"))
    rng = np.random.default_rng(seed)
    tpr, fpr = (_resampled(c, of, rng, draws) for c, of in ((called_members, a), (called_others, b)))
    low, high = np.quantile((1 + tpr - fpr) / 2, [0.025, 0.975])
    return Interval(value, float(low), float(high))


def reference_metric(metrics: Sequence[Metric]) -> ReferenceMembership:
    """The one among a benchmark's metrics, or one with the default settings."""
    return next((m for m in metrics if isinstance(m, ReferenceMembership)), ReferenceMembership())


def _signal(detector: str) -> str:
    return detector if detector in SIGNALS else "loss"


def _finite(scores: Floats) -> Floats:
    """An answer that is impossible under a model is a very unlikely one, so that differences are defined."""
    return np.maximum(scores, -IMPOSSIBLE)


def _cluster_means(values: Floats, clusters: Ints) -> Floats:
    _, index, sizes = np.unique(clusters, return_inverse=True, return_counts=True)
    return np.asarray(np.bincount(index, weights=values) / sizes, dtype=np.float64)


def _resampled(called: Bools, clusters: Ints, rng: np.random.Generator, draws: int) -> Floats:
    """[draws] share of rows called members among resampled clusters."""
    _, index, sizes = np.unique(clusters, return_inverse=True, return_counts=True)
    counts = rng.multinomial(len(sizes), np.full(len(sizes), 1 / len(sizes)), size=draws)
    return np.asarray((counts @ np.bincount(index, weights=called)) / (counts @ sizes), dtype=np.float64)
