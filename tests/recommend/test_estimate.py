"""Estimates: arithmetic on one timed step, which leaves the model as it was."""

from __future__ import annotations

import pytest
import torch

from expunge.engine.training import Training
from expunge.recommend.estimate import PairEstimate
from expunge.recommend.models.lightgcn import LightGCN
from recommend.fixed import pairs
from recommend.tiny import KINDS, forget_of, state, trained, world


def test_costs_are_proportional_to_steps_and_sides_and_not_to_the_batch() -> None:
    """Vectors of all nodes are computed in every step, whatever the batch."""
    found = PairEstimate(parameters=1000, seconds=0.5, attacked=40)
    rows = world().train  # 540 interactions: 5 steps of 128 a pass
    once = found.training(Training(epochs=2, batch_size=128), rows, 1)
    assert once.seconds == pytest.approx(10 * 0.5)
    assert once.memory == 16_000  # weights, gradient, two moments, four bytes each
    assert found.training(Training(epochs=2, batch_size=128), rows, 2).seconds == pytest.approx(2 * once.seconds)
    for batch in (8, 128):
        assert found.training(Training(steps=7, batch_size=batch), rows, 1).seconds == pytest.approx(3.5)
    assert found.audit() == pytest.approx(20.0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_timed_step_changes_nothing(kind: str) -> None:
    subject = trained(kind)
    before = state(subject.model)
    found = PairEstimate.of(subject, 7)
    assert all(torch.equal(value, before[name]) for name, value in subject.model.state_dict().items())
    assert all(p.grad is None for p in subject.model.parameters())
    assert not subject.model.training
    assert (found.parameters, found.attacked) == (sum(p.numel() for p in subject.model.parameters()), 7)
    assert found.seconds > 0


def test_the_step_goes_over_the_graph_that_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    original = LightGCN.embeddings

    def watched(self, graph):  # type: ignore[no-untyped-def]
        seen.append(int(graph.degree.sum()) // 2)
        return original(self, graph)

    monkeypatch.setattr(LightGCN, "embeddings", watched)
    retain = world().train.without(forget_of())
    PairEstimate.of(trained().with_served(retain), 0)
    assert set(seen) == {len(retain)}


def test_users_are_counted_who_have_something() -> None:
    found = PairEstimate(1, 1.0, 0)
    assert found.describe(pairs(9, 4, (2, 0), (2, 1), (5, 0))) == "3, of 2 users"
    assert found.describe(forget_of()) == "54, of 6 users"
