"""NoMUS and its forgetting score (Choi and Na 2023), beside what shows where they mislead."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from expunge.errors import InputError
from expunge.report.scorecard import Finding
from expunge.report.statistics import cluster_bootstrap
from expunge.vision.metrics._common import Floats, mean_finding

if TYPE_CHECKING:
    from expunge.vision.evidence import EvidenceStore


SMALLEST = 10  # images on a side that the attack needs


def nomus(accuracy: float, attack: float, weight: float = 0.5) -> float:
    """NoMUS = w accuracy + (1 - w) (1 - 2 |attack - 0.5|), in [0, 1] (Choi and Na 2023, section 4).

    >>> round(nomus(0.5951, 0.7136), 4)
    0.5839

    Args:
        accuracy: On unseen people.
        attack: Accuracy of the membership attack; 0.5 is guessing.
        weight: w.

    Raises:
        InputError: A weight outside [0, 1].
    """
    if not 0 <= weight <= 1:
        raise InputError(f"nomus: weight={weight} must lie in [0, 1].")
    return weight * accuracy + (1 - weight) * (1 - 2 * abs(attack - 0.5))


def attack_accuracy(members: ArrayLike, others: ArrayLike, *, seed: int = 42, splits: int = 10) -> float:
    """Accuracy of a logistic regression that tells members from others by their loss alone, as published.

    The members' losses are shuffled and cut to the number of the others'; the regression is fitted on 90% and scored
    on 10%, in `splits` stratified draws, and their mean is returned. It is one threshold on the loss, and a weak one
    on heavy-tailed losses; `Membership` has the detectors without training.

    Args:
        members: [n] losses of forgotten images.
        others: [m] losses of unseen images.
        seed: Shuffles the members.
        splits: Draws.

    Raises:
        InputError: Fewer than ten on a side, a loss that is not finite, or scikit-learn is missing.
    """
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import StratifiedShuffleSplit, cross_val_score
    except ImportError:
        raise InputError("nomus needs the extra 'vision': pip install 'expunge[vision]'.") from None

    x, y = np.asarray(members, dtype=np.float64), np.asarray(others, dtype=np.float64)
    x = np.random.default_rng(seed).permutation(x)[: len(y)]
    if too_few(len(x), len(y)):
        raise InputError(f"nomus: {len(x)} forgotten and {len(y)} unseen images; the attack needs {SMALLEST} of each.")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise InputError("nomus: a loss is not finite; the model is broken.")
    losses = np.concatenate([x, y])[:, None]
    labels = np.repeat([1, 0], [len(x), len(y)])
    draws = StratifiedShuffleSplit(n_splits=splits, random_state=0)
    return float(cross_val_score(LogisticRegression(), losses, labels, cv=draws).mean())


def too_few(members: int, others: int) -> bool:
    """Whether there are not enough images for the attack.

    >>> too_few(9, 100), too_few(10, 10)
    (True, False)
    """
    return min(members, others) < SMALLEST


@dataclass(frozen=True)
class NoMUS:
    """Utility on unseen people, the forgetting score, and NoMUS, their mean.

    The forgetting score is |attack - 0.5|, 0 the best; gold's own is the honest ideal, because forgotten and unseen
    people differ. NoMUS has trivial winners: an untrained network of C classes scores about (1/C + 1)/2, and a
    network that has collapsed often beats an honest one. So accuracy and score are given on their own, with the
    *signed* difference of losses (above 0: forgotten images are harder than unseen ones, over-forgotten), and every
    one of them beside gold's. All are left out where forgotten or unseen images are fewer than ten.

    Attributes:
        members: Forgotten images. Source: paper.
        non_members: Unseen images of other people. Source: paper.
        test: Images of people who show utility. Source: paper.
        weight: Of utility. Source: paper.
        seed: Shuffles the forgotten losses. Source: reference code.
    """

    paper: ClassVar[str] = (
        "Choi, Na, Towards Machine Unlearning Benchmarks: Forgetting the Personal Identities in Facial Recognition "
        "Systems, 2023 (arXiv 2311.02240)"
    )
    needs_gold: ClassVar[bool] = False

    members: str = "forget"
    non_members: str = "holdout"
    test: str = "test"
    weight: float = 0.5
    seed: int = 42

    def __post_init__(self) -> None:
        nomus(0.5, 0.5, self.weight)

    def measure(self, model: EvidenceStore, gold: EvidenceStore | None) -> list[Finding]:
        """Findings ``nomus``, ``forgetting_score``, ``membership.choi.accuracy`` and ``loss_difference``.

        Raises:
            InputError: A split is missing, or a loss is not finite.
        """
        if too_few(len(model.labels(self.members)), len(model.labels(self.non_members))):
            return []
        losses = model.losses(self.members), model.losses(self.non_members)
        attack = attack_accuracy(*losses, seed=self.seed)
        utility = mean_finding("accuracy", self.test, model, model.hits(self.test))
        n, unknown = sum(map(len, losses)), float("nan")
        value = nomus(utility.value, attack, self.weight)
        low, high = (nomus(end, attack, self.weight) for end in (utility.low, utility.high))
        gap = self._difference(model, *losses)
        return [
            Finding("nomus", "all", model.name, value, low, high, n + utility.n, "match-gold"),
            Finding("forgetting_score", self.members, model.name, abs(attack - 0.5), unknown, unknown, n, "match-gold"),
            Finding("membership.choi.accuracy", self.members, model.name, attack, unknown, unknown, n, "match-gold"),
            Finding("loss_difference", self.members, model.name, *gap, n, "match-gold"),
        ]

    def _difference(self, model: EvidenceStore, x: Floats, y: Floats) -> tuple[float, float, float]:
        """Mean loss of forgotten minus mean loss of unseen images, nats, with its interval."""
        sides = model.clusters(self.members), model.clusters(self.non_members)
        clusters = np.concatenate([sides[0], sides[1] + sides[0].max() + 1])
        rows = np.stack([np.concatenate([x, y]), np.repeat([1.0, 0.0], [len(x), len(y)])], 1)

        def statistic(drawn: Floats) -> float:
            ours = drawn[:, 1] == 1
            if ours.all() or not ours.any():
                return float("nan")
            return float(drawn[ours, 0].mean() - drawn[~ours, 0].mean())

        found = cluster_bootstrap(rows, clusters, statistic)
        return found.value, found.low, found.high
