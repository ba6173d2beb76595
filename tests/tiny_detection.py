"""A small image case for all detectors: a network that knows its members by heart, and one that never saw them."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
from torch import nn

from expunge.membership.case import Case, Division, tddbench_case
from expunge.membership.classifier import Records
from expunge.membership.learners import TorchLearner, Training

CLASSES, SIDE, N = 20, 8, 600


def build(outputs: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, 96), nn.ReLU(), nn.Linear(96, outputs))


LEARNER = TorchLearner("tiny", build, CLASSES, Training(epochs=25, lr=0.005, batch=32, weight_decay=0.0))


def images(n: int, seed: int) -> Records:
    """Each class is a faint picture under noise: half of what a model knows of its own images it knows by heart."""
    pictures = np.random.default_rng(0).random((CLASSES, 1, SIDE, SIDE))
    rng = np.random.default_rng([seed, 1])
    labels = rng.integers(CLASSES, size=n)
    return Records(0.3 * pictures[labels] + 0.7 * rng.random((n, 1, SIDE, SIDE)), labels, "image")


@lru_cache(maxsize=1)
def division() -> Division:
    """Eight reference models, eight of the shadow part, one target."""
    return tddbench_case(images(N, 0), LEARNER, Path(mkdtemp()), targets=1, models=8, seed=1)


@lru_cache(maxsize=1)
def memorised() -> Case:
    """The target knows its half of the 300 audited records by heart."""
    return division().case(0)


@lru_cache(maxsize=1)
def never_seen() -> Case:
    """The same records and memberships, and a target that was trained on others."""
    return replace(memorised(), target=LEARNER.fit(images(150, 90), 5))
