"""Detectors that compare the target with reference models: what would it say had it (not) seen the record?

As in TDDBench (Zhu et al. 2025, arXiv 2411.03363), which takes medians over reference models, record by record. All
scores are [n], higher = more like a member. ``ce`` is the cross entropy in nats and ``phi`` the rescaled logit, both
from `Signals`; the references hold the same signal.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from expunge.errors import InputError
from expunge.membership.references import Floats, References, Side
from expunge.membership.robust import PUBLISHED_A, ChosenA, Population, choose_a, model_robust

__all__ = [
    "PUBLISHED_A", "ChosenA", "Mode", "Population", "References", "Variance", "choose_a", "model_calibration",
    "model_fpr", "model_lira", "model_loss", "model_population", "model_robust",
]  # fmt: skip

Variance = Literal["safe", "pooled", "record"]
Mode = Literal["online", "offline", "offline-density"]
ENOUGH = 64  # reference models from which a record's own variance is worth more than the pooled one (Carlini et al.)
FLOOR = 0.05  # of the pooled standard deviation: least one of a single record, so that agreement is no certainty
LEAST = 1e-6  # nats
TINY = 1e-30  # what the published code adds to a standard deviation


def model_loss(ce: ArrayLike, references: References) -> Floats:
    """Attack with a threshold of its own for each record, halfway between IN and OUT (Sablayrolles et al. 2019).

    (med_in CE + med_out CE) / 2 - CE (arXiv 1908.11229, MALT with per-sample thresholds). Online.

    Args:
        ce: [n] under the target.
        references: CE under the reference models; an IN and an OUT model for each record.

    Returns:
        [n] scores in nats; above 0 the target is nearer to the IN models.
    """
    values = references.target(ce)
    inside, outside = references.both
    return (inside.median + outside.median) / 2 - values


def model_calibration(ce: ArrayLike, references: References) -> Floats:
    """Difficulty calibration (Watson et al. 2022, arXiv 2111.08440): med_out CE - CE.

    Args:
        ce: [n] under the target.
        references: CE under the reference models; an OUT model for each record.

    Returns:
        [n] scores in nats.
    """
    return references.outside.median - references.target(ce)


def model_lira(phi: ArrayLike, references: References, *, mode: Mode = "online", variance: Variance = "safe") -> Floats:
    """Likelihood-ratio attack LiRA (Carlini et al. 2022, arXiv 2112.03570).

    ``online``: log N(phi; med_in, s_in) - log N(phi; med_out, s_out) (Algorithm 1). ``offline``: the one-sided test
    against OUT models alone, 1 - P[N(med_out, s_out) > phi] (eq. 4); given as -log P, which ranks alike and does not
    round to 1. ``offline-density``: -log N(phi; med_out, s_out), what the published code computes: it takes a phi far
    *below* the OUT models for a sign of membership too.

    s is a standard deviation over reference models. ``pooled``: one for all records, of all their IN (OUT) values, the
    published default; differences between records are part of it. ``record``: a record's own; where models agree it
    explodes. ``safe``: pooled below 64 models, then a record's own, at least 5% of the pooled one.

    Adding a constant to all phi changes nothing, and records whose IN and OUT values are equal score exactly 0.

    Args:
        phi: [n] under the target.
        references: phi under the reference models; an OUT model for each record, online also an IN model.
        mode: See above.
        variance: See above.

    Returns:
        [n] log likelihood ratios, or -log of a p-value, in nats.
    """
    if mode not in get_args(Mode):
        raise InputError(f"LiRA: mode {mode!r}; it must be one of {', '.join(get_args(Mode))}.")
    values, outside = references.target(phi), references.outside
    s_out = _deviation(outside, len(references), variance)
    z_out = (values - outside.median) / s_out
    if mode == "offline":
        return _upper_tail(z_out)
    if mode == "offline-density":
        return np.asarray(z_out**2 / 2 + np.log(s_out) + np.log(2 * np.pi) / 2)
    inside, _ = references.both
    s_in = _deviation(inside, len(references), variance)
    z_in = (values - inside.median) / s_in
    return np.asarray(np.log(s_out / s_in) - z_in**2 / 2 + z_out**2 / 2)


def model_fpr(phi: ArrayLike, references: References, *, variance: Variance = "safe") -> Floats:
    """Attack R: how rare is such a value among models that have not seen the record (Ye et al. 2022, 2111.09679).

    1 - FPR(x) = Phi((phi - med_out) / s_out(x)) with the normal distribution TDDBench takes; ``variance="record"`` is
    its choice, ``safe`` is ours (see `model_lira`). Handed over as -log FPR(x), which ranks alike: Phi itself rounds
    to 1 from 8.3 standard deviations on and would tie just the records an attacker is surest of.

    Args:
        phi: [n] under the target.
        references: phi under the reference models; an OUT model for each record.
        variance: See `model_lira`.

    Returns:
        [n] -log of the false positive rate at which a record is called a member, nats; Phi is 1 - exp(-score).
    """
    values, outside = references.target(phi), references.outside
    return _upper_tail((values - outside.median) / _deviation(outside, len(references), variance))


def model_population(phi: ArrayLike, population: ArrayLike) -> Floats:
    """Attack P: how rare is such a value among records the target has not seen (Ye et al. 2022, arXiv 2111.09679).

    Phi((phi - med) / s) with one median and one standard deviation of the population, as -log(1 - Phi). It needs no
    reference model, and ranks records as phi does.

    Args:
        phi: [n] under the target.
        population: [z] phi of population records under the *target*; at least 2.

    Returns:
        [n] scores in nats, see `model_fpr`.

    Raises:
        InputError: Fewer than two population records, or a value that is not finite.
    """
    others = np.asarray(population, dtype=np.float64)
    if others.ndim != 1 or len(others) < 2:
        raise InputError(f"Attack P needs a list of at least 2 population values; found shape {others.shape}.")
    for name, array in (("audited", np.asarray(phi, dtype=np.float64)), ("population", others)):
        if not np.isfinite(array).all():
            raise InputError(f"The value of {name} record {int((~np.isfinite(array)).argmax()) + 1} is not finite.")
    values = np.asarray(phi, dtype=np.float64)
    return _upper_tail((values - np.median(others)) / max(float(others.std()), LEAST))


def _deviation(side: Side, models: int, variance: Variance) -> Floats:
    """[n] standard deviations, above 0."""
    if variance not in get_args(Variance):
        raise InputError(f"variance {variance!r}: must be one of {', '.join(get_args(Variance))}.")
    if variance == "record":
        return side.deviation + TINY
    pooled = np.full(len(side.models), side.spread)
    if variance == "pooled":
        return pooled + TINY
    return np.maximum(pooled if models < ENOUGH else np.maximum(side.deviation, FLOOR * pooled), LEAST)


def _upper_tail(z: Floats) -> Floats:
    """-log P[N(0, 1) > z]."""
    from scipy.special import log_ndtr

    return np.asarray(-log_ndtr(-z), dtype=np.float64)
