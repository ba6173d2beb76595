"""Estimates: arithmetic on one timed step, which leaves the model as it was."""

from __future__ import annotations

import pytest

from expunge.engine.training import Training
from expunge.vision.data import Images
from expunge.vision.estimate import ImageEstimate
from expunge.vision.workload import Workload
from tiny_faces import splits, trained


def workload() -> Workload:
    found = splits()
    named = {"forget": found["forget"], "retain": found["retain"]}
    return Workload(found["forget"], found["retain"], named, (), 4)


def test_costs_are_proportional_to_images_sides_and_passes() -> None:
    found = ImageEstimate(parameters=1000, seconds=0.5, images=60, attacked=40)
    rows = splits()["retain"]  # 84 images: 3 steps of 32 a pass
    once = found.training(Training(epochs=2, batch_size=32), rows, 1)
    assert once.seconds == pytest.approx(6 * 32 * 0.5)
    assert once.memory == 16_000  # weights, gradient, two moments, four bytes each
    assert found.training(Training(epochs=2, batch_size=32), rows, 2).seconds == pytest.approx(2 * once.seconds)
    assert found.training(Training(steps=5, batch_size=8), rows, 1).seconds == pytest.approx(5 * 8 * 0.5)
    assert found.audit() == pytest.approx((60 / 3 + 40) * 0.5)


def test_the_timed_step_changes_nothing() -> None:
    subject = trained()
    before = subject.weights_hash()
    found = ImageEstimate.of(subject, workload(), 7)
    assert subject.weights_hash() == before
    assert all(p.grad is None for p in subject.model.parameters())
    assert not subject.model.training
    assert (found.parameters, found.images, found.attacked) == (subject.parameters, 36 + 84, 7)
    assert found.seconds > 0


def test_people_are_counted_where_there_are_some() -> None:
    found = ImageEstimate(1, 1.0, 1, 0)
    forget = splits()["forget"]
    assert found.describe(forget) == "36, of 6 identities"
    assert found.describe(Images(forget.source, forget.rows, forget.labels, ("",) * 36, forget.names)) == "36"
