"""What every attack on a recommender shares: how forgotten interactions are scored."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from expunge.recommend.data import Interactions
from expunge.recommend.ranking import places
from expunge.recommend.subject import Subject
from expunge.recommend.workload import Workload

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class AttackSetting:
    """What an attack gets besides the model: the interactions, and how the forgotten users or items are divided."""

    workload: Workload
    seed: int
    groups: dict[str, list[int]] = field(default_factory=dict)


def found(subject: Subject, interactions: Interactions, retain: Interactions, k: int) -> Floats:
    """[n] 1 where an interaction's item is among its user's first k of all items they have not kept."""
    place = places(subject, interactions, retain, served=False)
    return np.asarray((place <= k).double().numpy())
