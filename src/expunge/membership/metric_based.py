"""Detectors that need nothing but one query of the model: no reference, no training.

As in TDDBench (Zhu et al. 2025, arXiv 2411.03363). All take the `Signals` of n records and give [n] scores, higher =
more like a member. For two classes all but `metric_corr` and `metric_ent` rank records alike, as far as float64 can
tell their scores apart: `metric_conf` ties records that the model is certain of to 16 digits.
"""

from __future__ import annotations

import numpy as np

from expunge.membership.signals import Floats, Signals


def metric_loss(signals: Signals) -> Floats:
    """-CE in nats: members have a lower loss (Yeom et al. 2018, arXiv 1709.01604).

    Returns:
        [n] scores, at most 0.
    """
    return -signals.ce


def metric_conf(signals: Signals) -> Floats:
    """p_y, the probability of the true class (Song et al. 2019, arXiv 1905.10291).

    TDDBench's wording suggests the largest probability of any class; its code takes the true one, and so does this.

    Returns:
        [n] scores in [0, 1].
    """
    return signals.confidence


def metric_corr(signals: Signals) -> Floats:
    """1[argmax p = y]: members are classified correctly (Leino and Fredrikson 2020, arXiv 1906.11798).

    Returns:
        [n] scores, 0 or 1: nearly all pairs tie, and a tie counts half in the AUROC.
    """
    return signals.correct.astype(np.float64)


def metric_ent(signals: Signals) -> Floats:
    """-H(p) in bits: the model is surer of members, whatever it takes them for (Shokri et al. 2017, arXiv 1610.05820).

    Returns:
        [n] scores in [-log2 C, 0].
    """
    return -signals.entropy


def metric_ment(signals: Signals) -> Floats:
    """-Mentr in nats, entropy that knows the true class (Song and Mittal 2021, arXiv 2003.10595).

    Returns:
        [n] scores, at most 0.
    """
    return -signals.mentr
