"""Costs are counted and measured, not stated."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from torch import nn

from expunge.membership.classifier import TorchClassifier
from expunge.membership.costs import Cost, Meter
from tiny_shadows import Nearest


def test_every_record_that_is_asked_about_counts() -> None:
    attacked, other = Nearest(np.zeros((2, 2))), Nearest(np.ones((2, 2)))
    with Meter() as meter:
        model, reference = meter.counted(attacked), meter.counted(other, attacked=False)
        for rows in (3, 4):
            model.logits(np.zeros((rows, 2)))
        reference.logits(np.zeros((5, 2)))
    assert (meter.cost.queries, meter.cost.other_queries) == (7, 5)
    np.testing.assert_array_equal(model.logits(np.ones((1, 2))), attacked.logits(np.ones((1, 2))))


def test_modules_are_counted_at_the_module_with_and_without_gradients() -> None:
    classifier = TorchClassifier(nn.Linear(2, 2), classes=2, batch_size=4)
    with Meter() as meter:
        meter.counted(classifier, attacked=False).logits(np.zeros((10, 2)))
        classifier.module(torch.zeros(6, 2)).sum().backward()
    classifier.logits(np.zeros((10, 2)))  # after the meter stopped
    assert (meter.cost.other_queries, meter.cost.gradients, meter.cost.queries) == (10, 6, 0)


def test_time_and_memory_are_those_of_the_block() -> None:
    before = np.ones(2**22)
    with Meter() as meter:
        time.sleep(0.02)
        held = np.ones(2**23)  # 64 MiB
    assert meter.cost.seconds >= 0.02
    assert 60 < meter.cost.peak_mib < 100
    del held, before
    with Meter() as quiet:
        pass
    assert quiet.cost.peak_mib < 30


def test_costs_add_up_and_memory_takes_the_larger() -> None:
    total = Cost(1.0, 5.0, 2, 3, 4, 5, 6.0) + Cost(0.5, 7.0, 1, 1, 1, 1, 1.0)
    assert total == Cost(1.5, 7.0, 3, 4, 5, 6, 7.0)
    with Meter() as meter:
        meter.charge(Cost(queries=9, trainings=2))
    assert (meter.cost.queries, meter.cost.trainings) == (9, 2)
    assert meter.cost.seconds == pytest.approx(0, abs=1)
