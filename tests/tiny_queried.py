"""Models for the tests of query-based detectors: a line with a known boundary, and networks that know their data."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
import torch

from expunge.membership.classifier import Floats, Inputs, Records, TorchClassifier
from expunge.membership.learners import TorchLearner, Training
from expunge.membership.shadows import Bools

CLASSES = 4


class Line:
    """Class 1 where w.x + b is above 0; its logit is that value. Counts the records it is asked about."""

    classes = 2

    def __init__(self, w: Floats, b: float) -> None:
        self.w, self.b, self.asked = w, b, 0

    def logits(self, x: Inputs) -> Floats:
        rows = np.asarray(x).reshape(len(x), -1)
        self.asked += len(rows)
        return np.stack([np.zeros(len(rows)), rows @ self.w + self.b], axis=1)

    def distance(self, x: Floats) -> Floats:
        return np.abs(x.reshape(len(x), -1) @ self.w + self.b) / np.linalg.norm(self.w)


class Constant:
    """Gives every record the same logits."""

    classes = CLASSES

    def __init__(self, *logits: float) -> None:
        self.row = np.array(logits)

    def logits(self, x: Inputs) -> Floats:
        return np.tile(self.row, (len(x), 1))


def images(n: int, seed: int) -> Records:
    """Random 6 x 6 images with random labels: nothing to learn, only to memorise."""
    rng = np.random.default_rng(seed)
    return Records(rng.uniform(0, 1, (n, 1, 6, 6)), rng.integers(0, CLASSES, n), "image")


def network(classes: int) -> torch.nn.Module:
    from torch import nn

    return nn.Sequential(nn.Flatten(), nn.Linear(36, 64), nn.ReLU(), nn.Linear(64, classes))


def learner(epochs: int = 60) -> TorchLearner:
    return TorchLearner("tiny", network, CLASSES, Training(epochs=epochs, lr=1e-2, batch=60, weight_decay=0.0))


class World(NamedTuple):
    """Networks that memorised.

    Attributes:
        records: 240 records.
        masks: [8, 240] what each of the models was trained on, in pairs.
        models: The models; model 0 is the target of the tests.
        stranger: A model that saw none of the records.
        population: Records that no model saw.
    """

    records: Records
    masks: Bools
    models: list[TorchClassifier]
    stranger: TorchClassifier
    population: Records


@cache
def world() -> World:
    """Trained once in a session."""
    records, rng = images(240, 0), np.random.default_rng(1)
    masks = []
    for _ in range(4):
        half = np.zeros(240, dtype=bool)
        half[rng.permutation(240)[:120]] = True
        masks += [half, ~half]
    models = [learner().fit(records.take(mask), seed) for seed, mask in enumerate(masks)]
    stranger = learner().fit(images(120, 2), 99)
    return World(records, np.stack(masks), models, stranger, images(240, 3))
