"""Attacks with reference models on the likelihood of an answer: LiRA, RMIA and their kin.

Each takes the mean log-probability of the answers under the attacked model [n], the same under the reference models,
and which records the attacked model is known not to have seen [n]; it gives [n] scores, higher = more like a member.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from expunge.language.metrics._common import IMPOSSIBLE, Floats
from expunge.language.references import Bools
from expunge.membership import Population, References, model_calibration, model_fpr, model_lira, model_robust

Attack = Callable[[Floats, References, Bools], Floats]
SUREST = 1e-7  # nats; a mean log-probability nearer to 0 is rounding in float32


def rescaled(logprob: Floats) -> Floats:
    """phi = log p - log(1 - p), p = exp(mean token log-probability): LiRA's confidence for a text.

    >>> rescaled(np.log(np.array([0.5, 0.9]))).round(4).tolist()
    [0.0, 2.1972]
    """
    m = np.clip(logprob, -IMPOSSIBLE, -SUREST)
    return np.asarray(m - np.log(-np.expm1(m)), dtype=np.float64)


def likelihood(logprob: Floats) -> Floats:
    """P = exp(mean token log-probability), the length-normalised likelihood: RMIA's signal for a text."""
    return np.exp(logprob)


def with_signal(references: References, change: Callable[[Floats], Floats]) -> References:
    """The same models and masks with another signal, made of the mean log-probability."""
    return References(change(references.values), references.inside, references.paired)


def lira(m: Floats, references: References, unseen: Bools) -> Floats:
    """Likelihood ratio of the rescaled confidence (Carlini et al. 2022)."""
    return model_lira(rescaled(m), with_signal(references, rescaled))


def lira_offline(m: Floats, references: References, unseen: Bools) -> Floats:
    """The same test against models that have not seen the record alone."""
    return model_lira(rescaled(m), with_signal(references, rescaled), mode="offline")


def attack_r(m: Floats, references: References, unseen: Bools) -> Floats:
    """How rare the rescaled confidence is among models that have not seen the record (Ye et al. 2022).

    With the standard deviation of each record's own models; with one for all it is `lira_offline`.
    """
    return model_fpr(rescaled(m), with_signal(references, rescaled), variance="record")


def calibration(m: Floats, references: References, unseen: Bools) -> Floats:
    """Difficulty calibration (Watson et al. 2022) of the loss, which is -m."""
    return model_calibration(-m, with_signal(references, np.negative))


def rmia(m: Floats, references: References, unseen: Bools, gamma: float = 1.0) -> Floats:
    """Share of population answers z that the answer beats: r(x) / r(z) > gamma (Zarifzadeh et al. 2024).

    There are no records but the audited ones that some reference models saw and the attacked model did not, so z are
    the audited non-members, the same for every x. A non-member then meets itself, and with gamma 1 ties: a tie counts
    half, which makes the score of members and non-members the same growing function of r(x), and the AUROC that of
    r(x). Leaving out what x has in common with z (itself, its cluster) would not: the likeliest non-members would
    get the score of a perfect member.
    """
    every = np.arange(len(m))
    p, answers = likelihood(m), with_signal(references, likelihood)
    population = Population(p[unseen], answers.take(unseen), len(m) + every[unseen])  # rows of their own, see above
    strict, lax = (model_robust(p, answers, population, every, gamma=g) for g in (gamma, gamma * (1 - 1e-12)))
    return (strict + lax) / 2


ATTACKS: dict[str, Attack] = {
    "lira": lira,
    "lira_offline": lira_offline,
    "rmia": rmia,
    "calibration": calibration,
    "attack_r": attack_r,
}
