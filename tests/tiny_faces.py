"""A handful of drawn people and networks small enough for every test of the vision wing."""

from __future__ import annotations

import copy
from functools import cache

from expunge.engine.training import Training
from expunge.vision.data import Images, concatenate
from expunge.vision.faces import GROUPS, Faces
from expunge.vision.methods.fine_tune import FineTune
from expunge.vision.networks import Shape
from expunge.vision.subject import Subject, small_cnn
from expunge.vision.unlearn import UnlearnJob

SHAPE = Shape(3, GROUPS, (8, 16, 32), 32)
TRAINING = Training(epochs=20, batch_size=32, lr=1e-2, schedule="cosine", warmup=0.05, weight_decay=0.0, clip=None)


@cache
def splits() -> dict[str, Images]:
    """forget, retain, test and unseen: 6, 14, 4 and 6 people with 6 pictures each, 16 pixels a side."""
    return Faces(forget=6, retain=14, test=4, unseen=6, images=6, side=16).splits


def untrained(seed: int = 0) -> Subject:
    """A fresh network with batch normalisation."""
    return small_cnn(SHAPE, seed)


@cache
def _trained() -> Subject:
    found = splits()
    subject = untrained()
    everything = concatenate([found["forget"], found["retain"]])
    UnlearnJob(subject, found["forget"].take([]), everything, TRAINING).train(FineTune(), subject)
    subject.model.eval()
    return subject


def trained() -> Subject:
    """A copy of a network that knows every picture of forget and retain by heart; trained once in a session."""
    subject = _trained()
    return subject.with_model(copy.deepcopy(subject.model))
