"""How low a false positive rate so many non-members can show, and how low one they can be trusted on."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from expunge.errors import InputError
from expunge.membership.curves import tpr_at_fpr_interval


class Resolution(NamedTuple):
    """What so many non-members say about a false positive rate.

    Attributes:
        least: The smallest rate they can show at all, 1/m: one false positive.
        trusted: The smallest rate whose threshold rests on ten of them, 10/m.
        note: What a reader has to know about the rate asked for; empty if it is trusted.
    """

    least: float
    trusted: float
    note: str


class LowRate(NamedTuple):
    """A true positive rate at a low false positive rate, its interval, and what limits it (empty: nothing)."""

    value: float
    low: float
    high: float
    note: str


def resolution(nonmembers: int, fpr: float) -> Resolution:
    """Whether a true positive rate at `fpr` can be measured on so many non-members, and whether it can be trusted.

    >>> resolution(1000, 0.01)
    Resolution(least=0.001, trusted=0.01, note='')
    >>> resolution(200, 0.01).note
    'At FPR 0.01 the threshold rests on 2 of 200 non-members; 1000 are needed to trust it.'
    >>> resolution(50, 0.01).note
    'FPR 0.01 cannot be measured on 50 non-members: 1/50 = 0.02 is the least; 100 are needed.'

    Args:
        nonmembers: Number of records the model was not trained on, at least 1.
        fpr: The false positive rate wanted, in (0, 1].

    Raises:
        InputError: A number or rate outside these.
    """
    if nonmembers < 1 or not 0 < fpr <= 1:
        raise InputError(
            f"A false positive rate of {fpr} on {nonmembers} non-members: must lie in (0, 1], on at least 1."
        )
    expected, least, note = fpr * nonmembers + 1e-9, 1 / nonmembers, ""
    if expected < 1:
        note = (
            f"FPR {fpr:g} cannot be measured on {nonmembers} non-members: 1/{nonmembers} = {least:.3g} is the least; "
            f"{math.ceil(1 / fpr - 1e-9)} are needed."
        )
    elif expected < 10:
        note = (
            f"At FPR {fpr:g} the threshold rests on {int(expected)} of {nonmembers} non-members; "
            f"{math.ceil(10 / fpr - 1e-9)} are needed to trust it."
        )
    return Resolution(least, min(1.0, 10 / nonmembers), note)


def tpr_at_low_fpr(
    member_scores: ArrayLike,
    nonmember_scores: ArrayLike,
    fpr: float = 0.001,
    member_clusters: ArrayLike | None = None,
    nonmember_clusters: ArrayLike | None = None,
    *,
    seed: int = 0,
    draws: int = 1000,
) -> LowRate:
    """`tpr_at_fpr_interval` that says in words what its non-members cannot carry; without clusters rows are resampled.

    Raises:
        InputError: As `tpr_at_fpr`: a rate below 1/m is refused.
    """
    members, others = np.asarray(member_scores), np.asarray(nonmember_scores)
    a = np.arange(members.size) if member_clusters is None else member_clusters
    b = np.arange(others.size) if nonmember_clusters is None else nonmember_clusters
    found = tpr_at_fpr_interval(members, others, a, b, fpr, seed=seed, draws=draws)
    return LowRate(*found, resolution(others.size, fpr).note)
