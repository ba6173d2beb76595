"""What a bed with known copies can say: is a membership attack calibrated, was a text forgotten, and what else went?

The null of membership inference is known here, because members and non-members come from one draw: a model that read
neither tells them apart with an AUROC of 1/2. And what forgetting should leave is known, because a model without the
texts was trained on the same windows in the same order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from expunge.errors import InputError, RunError
from expunge.membership import auroc
from expunge.report.scorecard import Scorecard

TOLERANCE = 0.2  # in units of what the target knew


def permutation_p(members: ArrayLike, others: ArrayLike, *, draws: int = 999, seed: int = 0) -> float:
    """Share of random divisions of the scores into members and others whose AUROC is at least the observed one.

    One-sided, with the observed division counted: p = (1 + #{AUROC* >= AUROC}) / (1 + draws), so it is never 0 and,
    under the null, at most any alpha with probability alpha.

    Args:
        members: [n] scores, higher = more like a member.
        others: [m] scores.
        draws: Random divisions.
        seed: Draws them.

    Raises:
        InputError: A side is empty, or a score is NaN.
    """
    x, y = np.asarray(members, dtype=float), np.asarray(others, dtype=float)
    observed = auroc(x, y)
    _, inverse, counts = np.unique(np.concatenate([x, y]), return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]  # midranks
    rng = np.random.default_rng(seed)
    drawn = rng.permuted(np.tile(ranks, (draws, 1)), axis=1)[:, : len(x)].sum(axis=1)
    found = (drawn - len(x) * (len(x) + 1) / 2) / (len(x) * len(y))
    return float((1 + (found >= observed - 1e-12).sum()) / (1 + draws))


def null_error(members: int, others: int) -> float:
    """Standard error of the AUROC of two samples of one distribution, sqrt((n + m + 1) / (12 n m)).

    >>> round(null_error(60, 60), 3)
    0.053
    """
    return math.sqrt((members + others + 1) / (12 * members * others))


def require_null(value: float, members: int, others: int, what: str) -> None:
    """Refuse a bed whose members can be told from its non-members by a model that has read neither.

    Args:
        value: AUROC of that model.
        members: Number of members.
        others: Number of non-members.
        what: The attack and the sets, for the message.

    Raises:
        RunError: The AUROC is more than three standard errors away from 1/2.
    """
    error = null_error(members, others)
    if abs(value - 0.5) > 3 * error:
        raise RunError(
            f"{what}: a model that has read neither tells members from non-members with an AUROC of {value:.2f}, more "
            f"than 3 standard errors ({3 * error:.2f}) from 0.5: they do not come from one draw, so nothing measured "
            f"on them would be membership."
        )


def normalised_gap(before: float, after: float, gold: float) -> float:
    """Share of what the target knew that is gone: (before - after) / (before - gold).

    0 for the target, 1 as if never seen, above 1 for over-forgetting, which is a sign of membership itself.

    >>> normalised_gap(0.25, 1.0, 1.0), normalised_gap(0.25, 1.75, 1.0)
    (1.0, 2.0)

    Args:
        before: The target's value.
        after: The value of the model that is judged.
        gold: Gold's value.

    Raises:
        InputError: Target and gold do not differ, so there was nothing to forget.
    """
    if before == gold:
        raise InputError(f"Target and gold both score {gold:.4g}: there was nothing to forget.")
    return (before - after) / (before - gold)


@dataclass(frozen=True)
class BedVerdict:
    """What a bed says about one model.

    Attributes:
        forget: Share of what the target knew about the forget texts that is gone.
        keep: The same share of the texts to be kept, 0 if they were left alone.
        flags: ``not-forgotten``, ``over-forgotten``, ``utility-loss``; none for a model like gold.
    """

    forget: float
    keep: float
    flags: tuple[str, ...]


def judge_bed(forget: float, keep: float, tolerance: float = TOLERANCE) -> BedVerdict:
    """Judge the two gaps of a model.

    >>> judge_bed(1.02, 0.01).flags, judge_bed(0.0, 0.0).flags, judge_bed(3.0, 2.8).flags
    ((), ('not-forgotten',), ('over-forgotten', 'utility-loss'))
    """
    flags = {
        "not-forgotten": forget < 1 - tolerance,
        "over-forgotten": forget > 1 + tolerance,
        "utility-loss": keep > tolerance,
    }
    return BedVerdict(forget, keep, tuple(name for name, raised in flags.items() if raised))


def judge_run(card: Scorecard, model: str, measure: str = "nll", tolerance: float = TOLERANCE) -> BedVerdict | None:
    """The verdict of the bed on one model of a run, from its findings; None where it has none."""
    gaps = [card.value(f"hubble.gap.{measure}", split, model) for split in ("forget", "retain")]
    return None if gaps[0] is None or gaps[1] is None else judge_bed(gaps[0], gaps[1], tolerance)
