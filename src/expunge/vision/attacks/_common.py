"""What every attack on a classifier shares: how facts are scored."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from expunge.vision.data import Images
from expunge.vision.evidence import hits
from expunge.vision.subject import Subject
from expunge.vision.workload import Workload

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class AttackSetting:
    """What an attack gets besides the model: the images, and how the forgotten identities are divided."""

    workload: Workload
    seed: int
    groups: dict[str, list[int]] = field(default_factory=dict)


def right(subject: Subject, images: Images) -> Floats:
    """[n] whether each image gets its label (the share of its labels, where there are several)."""
    return hits(subject.outputs(images)[0], images)
