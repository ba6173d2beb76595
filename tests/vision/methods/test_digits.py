"""A class of handwritten digits: what forgets it at little cost to the others, and what does not."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from expunge.engine.training import Training
from expunge.vision.classes import divide_by_class
from expunge.vision.data import Images, concatenate
from expunge.vision.digits import digits
from expunge.vision.methods.boundary_expand import BoundaryExpand
from expunge.vision.methods.boundary_shrink import BoundaryShrink
from expunge.vision.methods.fine_tune import FineTune
from expunge.vision.methods.ga import GA
from expunge.vision.methods.pseudo_label import PseudoLabel
from expunge.vision.methods.random_labels import RandomLabels
from expunge.vision.methods.retrain import Retrain
from expunge.vision.methods.salun import SalUn
from expunge.vision.methods.scrub import SCRUB
from expunge.vision.methods.unsir import UNSIR
from expunge.vision.subject import Subject, own_module
from expunge.vision.unlearn import UnlearnJob, unlearn

TARGET = Training(
    epochs=8, batch_size=64, lr=6e-3, schedule="cosine", warmup=0.05, weight_decay=0.0, clip=None
)  # fmt: skip
ADAM = Training(epochs=1, batch_size=32, lr=1e-3, schedule="constant", warmup=0.0, weight_decay=0.0, clip=None)
SGD = replace(ADAM, optimizer="sgd", momentum=0.9)


class Perceptron(nn.Module):
    """Two hidden layers on the pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.head(self.second(self.first(2 * images.flatten(1) - 1).relu()).relu())
        return out


def base() -> Subject:
    torch.manual_seed(0)
    return own_module(Perceptron(), 10)


@cache
def splits() -> dict[str, Images]:
    return divide_by_class(digits(), 10, [3], 0)


@cache
def target() -> Subject:
    found, subject = splits(), base()
    everything = concatenate([found["forget"], found["retain"]])
    UnlearnJob(subject, found["forget"].take([]), everything, TARGET).train(FineTune(), subject)
    return subject


def accuracy(subject: Subject, split: str) -> float:
    images = splits()[split]
    return float((subject.outputs(images)[0].argmax(1) == images.labels).double().mean())


def forgotten(method: Any, training: Training) -> Subject:
    found = splits()
    subject = target().with_model(copy.deepcopy(target().model))
    job = UnlearnJob(subject, found["forget"], found["retain"], training, base=base, base_training=TARGET)
    return unlearn(method, job)


TUNED = {
    "retrain": (Retrain(), ADAM),
    "ga": (GA(), replace(ADAM, epochs=2)),
    "random-labels": (RandomLabels(), ADAM),
    "salun": (SalUn(), ADAM),
    "boundary-shrink": (BoundaryShrink(), replace(ADAM, epochs=2)),
    "boundary-expand": (BoundaryExpand(), replace(SGD, lr=2e-3, epochs=2)),
    "pseudo-label": (PseudoLabel(), replace(ADAM, epochs=2)),
    "scrub": (SCRUB(), replace(ADAM, epochs=2)),
    "unsir": (UNSIR(noise=64, copies=4), ADAM),
}


@pytest.mark.parametrize("name", TUNED)
def test_the_class_goes_and_the_others_stay(name: str) -> None:
    subject = forgotten(*TUNED[name])
    kept = accuracy(target(), "retain")
    assert accuracy(target(), "forget") > 0.95
    assert kept > 0.95
    assert accuracy(subject, "forget") < (0.001 if name == "retrain" else 0.1)
    assert accuracy(subject, "retain") > kept - 0.05
    assert accuracy(subject, "forget_test") < 0.15  # the class, not its training images alone


def test_fine_tuning_does_not_forget_it() -> None:
    for training in (ADAM, replace(ADAM, lr=3e-4, epochs=2)):
        assert accuracy(forgotten(FineTune(), training), "forget") > 0.5
