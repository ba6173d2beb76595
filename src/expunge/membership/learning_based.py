"""Detectors that learn what members look like from one reference model, as in TDDBench (arXiv 2411.03363).

The five differ in the features alone. Features of the reference model's answers, whose training data is known, train
the network of `attack_network`; the same features of the attacked model's answers are scored by it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from expunge.membership.attack_network import AttackNetwork, AttackSettings, train_attack
from expunge.membership.signals import Bools, Floats, Signals

Features = Callable[[Signals], Floats]


def original(signals: Signals) -> Floats:
    """[n, C] the probabilities p (Shokri et al. 2017, arXiv 1610.05820)."""
    return signals.probabilities


def top3(signals: Signals) -> Floats:
    """[n, min(3, C)] the three largest probabilities, falling (Salem et al. 2019, arXiv 1806.01246)."""
    return in_order(signals)[:, :3]


def in_order(signals: Signals) -> Floats:
    """[n, C] all probabilities, falling (Salem et al. 2019, arXiv 1806.01246)."""
    return -np.sort(-signals.probabilities, axis=1)


def with_label(signals: Signals) -> Floats:
    """[n, 2C] the probabilities and the one-hot true class (Nasr et al. 2018, arXiv 1807.05852)."""
    return np.hstack([signals.probabilities, one_hot(signals)])


def merged(signals: Signals) -> Floats:
    """[n, C + 5] one-hot y, CE, Mentr, max_{j != y} z_j - z_y, -phi, argmax (Amit et al. 2024, arXiv 2403.08481).

    The largest other logit is found by masking the true one out. TDDBench's code puts -1 in its place, which is
    the largest of all wherever the other logits lie below -1.
    """
    rows = np.arange(len(signals))
    others = signals.logits.copy()
    others[rows, signals.labels] = -np.inf
    margin = others.max(1) - signals.logits[rows, signals.labels]
    columns = [signals.ce, signals.mentr, margin, -signals.rescaled, signals.predicted.astype(np.float64)]
    return np.hstack([one_hot(signals), np.stack(columns, axis=1)])


def one_hot(signals: Signals) -> Floats:
    """[n, C] 1 in the column of the true class."""
    return np.asarray(np.eye(signals.logits.shape[1])[signals.labels], dtype=np.float64)


FEATURES: dict[str, Features] = {
    "Learn-original": original,
    "Learn-top3": top3,
    "Learn-sorted": in_order,
    "Learn-label": with_label,
    "Learn-merge": merged,
}


def learn(
    features: Features, reference: Signals, inside: Bools, *, seed: int, settings: AttackSettings | None = None
) -> AttackNetwork:
    """Train the network on a reference model's answers.

    Args:
        features: One of `FEATURES`.
        reference: The reference model's answers on records of its pool.
        inside: [n] which of these it was trained on.
        seed: Fixes the training.
        settings: See `AttackSettings`.

    Raises:
        InputError: As `train_attack`.
    """
    return train_attack(features(reference), inside, seed=seed, settings=settings)


def learning_score(features: Features, network: AttackNetwork, target: Signals) -> Floats:
    """[n] P(member) of records from the attacked model's answers."""
    return network.score(features(target))
