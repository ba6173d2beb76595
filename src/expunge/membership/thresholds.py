"""From scores to decisions: a threshold found without the answers, and the published way, which looks at them.

A real audit does not know who is a member. Reference models stand in for the target: what they were trained on is
known, so the threshold is chosen on them, and the rates it then gives on the audited records are honest ones.
`published_rates` chooses it on the very labels it is judged by; papers compare such numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expunge.errors import InputError
from expunge.membership.curves import auroc, by_membership, roc_steps
from expunge.membership.references import References
from expunge.membership.resolution import resolution

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Detector: TypeAlias = Callable[[Floats, References], Floats]


class StandInScores(NamedTuple):
    """Attacks on K reference models in the place of the target.

    Attributes:
        scores: [K, n] higher = more like a member.
        inside: [K, n] whether the stand-in was trained on the record.
    """

    scores: Floats
    inside: Bools


class DecisionRates(NamedTuple):
    """What calling records members from a threshold on gives; all but the threshold lie in [-1, 1].

    Attributes:
        threshold: A record is called a member when its score reaches it.
        accuracy: Balanced: (TPR + TNR) / 2.
        precision: Members among the records called so, on the audited mix; 0 where nobody is.
        recall: TPR, the members called so.
        f1: 2 TP / (2 TP + FP + FN).
        fnr: 1 - TPR.
        fpr: Non-members called members.
        advantage: TPR - FPR.
    """

    threshold: float
    accuracy: float
    precision: float
    recall: float
    f1: float
    fnr: float
    fpr: float
    advantage: float


class PublishedRates(NamedTuple):
    """One row of a paper's table; see `published_rates`."""

    auroc: float
    best: DecisionRates
    tpr_at_1_fpr: float
    tpr_at_10_fpr: float


@dataclass(frozen=True, eq=False)
class Calibration:
    """A threshold chosen on K stand-ins, and what it does there.

    Attributes:
        threshold: A record is called a member when its score reaches it; infinity: none is.
        caught: [K] members of each stand-in called so.
        members: [K] members of each stand-in.
        false_alarms: [K] its non-members called members.
        nonmembers: [K] its non-members.
        note: What limits it, empty if nothing does.
    """

    threshold: float
    caught: Ints
    members: Ints
    false_alarms: Ints
    nonmembers: Ints
    note: str = ""

    @property
    def tpr(self) -> float:
        """On the stand-ins, pooled."""
        return float(self.caught.sum() / self.members.sum())

    @property
    def fpr(self) -> float:
        """On the stand-ins, pooled."""
        return float(self.false_alarms.sum() / self.nonmembers.sum())

    def decide(self, scores: ArrayLike) -> Bools:
        """[n] whether each record is called a member."""
        return np.asarray(_finite(scores) >= self.threshold)


def stand_in_scores(detector: Detector, references: References, count: int | None = None) -> StandInScores:
    """Attack reference models with the others, as `References.stand_ins` says.

    Args:
        detector: A model-based detector: [n] values of the attacked model and the references left, to [n] scores.
        references: Of the audited records, or others that models were trained on.
        count: How many models are attacked; None for all.
    """
    attacked = [(detector(s.values, s.others), s.inside) for s in references.stand_ins(count)]
    scores, inside = zip(*attacked, strict=True)
    return StandInScores(np.stack(scores), np.stack(inside))


def calibrated_threshold(scores: ArrayLike, inside: ArrayLike, *, fpr: float | None = None) -> Calibration:
    """Choose a threshold on stand-ins, all their records pooled (the paired-model trick).

    The stand-ins must be attacked as the target will be, with about as many references. One threshold for all records,
    so the scores have to be comparable between models.

    Args:
        scores: [K, n] scores of attacks on K models whose training data is known.
        inside: [K, n] whether that model was trained on the record; both kinds in each row.
        fpr: The false positive rate wanted: the lowest threshold that does not exceed it. None for the best balanced
            accuracy, which is the largest TPR - FPR; the highest threshold of equals.

    Raises:
        InputError: Shapes that differ, a score that is not finite, a stand-in with members or non-members only, or a
            rate that the pooled non-members cannot show.
    """
    values, labels = _finite(scores), np.asarray(inside)
    if values.ndim != 2 or labels.shape != values.shape or labels.dtype != np.bool_:
        raise InputError(f"Scores of shape {values.shape} need a boolean mask of the same; found {labels.shape}.")
    for k, one in enumerate(labels):
        if one.all() or not one.any():
            raise InputError(f"Stand-in {k + 1} has members or non-members only: no threshold can be chosen on it.")
    members, others = by_membership(values.ravel(), labels.ravel())
    steps, note = roc_steps(members, others), ""
    if fpr is None:
        chosen = int(np.argmax(steps.true_positives / len(members) - steps.false_positives / len(others)))
    else:
        limits = resolution(len(others), fpr)
        if fpr < limits.least - 1e-12:
            raise InputError(limits.note)
        note = limits.note
        chosen = int(np.flatnonzero(steps.false_positives <= fpr * len(others) + 1e-9)[-1])
    threshold = float(steps.threshold[chosen])
    called = values >= threshold
    return Calibration(
        threshold, (called & labels).sum(1), labels.sum(1), (called & ~labels).sum(1), (~labels).sum(1), note
    )  # fmt: skip


def rates_at(threshold: float, scores: ArrayLike, member: ArrayLike) -> DecisionRates:
    """What a threshold from elsewhere gives on the audited records.

    Args:
        threshold: From `calibrated_threshold`.
        scores: [n] of the audited records.
        member: [n] the truth.

    Raises:
        InputError: As `by_membership`; a score that is not finite.
    """
    members, others = by_membership(_finite(scores), member)
    called = [int((side >= threshold).sum()) for side in (members, others)]
    return _rates(threshold, called[0], called[1], len(members), len(others))


def published_rates(scores: ArrayLike, member: ArrayLike) -> PublishedRates:
    """The numbers of TDDBench, chosen the published way: with the answers on the table.

    The threshold is the one with the best balanced accuracy on these very labels (the strictest of equals), and
    precision, recall, F1, FNR, FPR and advantage are those at it. TPR@1%FPR and TPR@10%FPR are read at the last ROC
    point with an FPR strictly below the level, so they never exceed `tpr_at_fpr`, and are 0 where the non-members
    do not resolve the level. Counts are exact; the reference code rounds TP and FP down before dividing.

    Args:
        scores: [n] higher = more like a member.
        member: [n] the truth.

    Raises:
        InputError: As `by_membership`; a score that is not finite.
    """
    members, others = by_membership(_finite(scores), member)
    steps = roc_steps(members, others)
    tpr, fpr = steps.true_positives / len(members), steps.false_positives / len(others)
    k = int(np.argmax(tpr - fpr))
    counts = int(steps.true_positives[k]), int(steps.false_positives[k])
    best = _rates(float(steps.threshold[k]), *counts, len(members), len(others))
    low, tenth = (float(tpr[np.flatnonzero(fpr < level)[-1]]) for level in (0.01, 0.1))
    return PublishedRates(auroc(members, others), best, low, tenth)


def _rates(threshold: float, tp: int, fp: int, members: int, others: int) -> DecisionRates:
    tpr, fpr = tp / members, fp / others
    precision = tp / (tp + fp) if tp + fp else 0.0
    f1 = 2 * tp / (tp + fp + members)  # TP + FN = members
    return DecisionRates(threshold, (1 + tpr - fpr) / 2, precision, tpr, f1, 1 - tpr, fpr, tpr - fpr)


def _finite(scores: ArrayLike) -> Floats:
    values = np.asarray(scores, dtype=np.float64)
    if not np.isfinite(values).all():
        row = int((~np.isfinite(values.ravel())).argmax()) % max(1, values.shape[-1])
        raise InputError(f"The score of record {row + 1} is not finite, so no threshold can be compared with it.")
    return values
