"""GraphEraser: communities along shared items, and weights on the simplex."""

from __future__ import annotations

import pytest
import torch

from expunge.errors import InputError
from expunge.recommend.data import Interactions
from expunge.recommend.ensemble import ShardEnsemble
from expunge.recommend.methods.grapheraser import GraphEraser
from expunge.recommend.models.lightgcn import BPRMF
from expunge.recommend.partition import propagation_capacity
from expunge.recommend.subject import fresh
from expunge.recommend.unlearn import unlearn
from recommend.tiny import job_of, trained


def two_towns() -> Interactions:
    """Users 0..9 take items 0..5, users 10..19 items 6..11, all of them but a few."""
    drawn = torch.zeros(20, 12, dtype=torch.bool)
    drawn[:10, :6] = drawn[10:, 6:] = True
    drawn[torch.arange(20), torch.arange(20) % 6 + 6 * (torch.arange(20) > 9)] = False
    return Interactions(20, 12, drawn.nonzero())


@pytest.mark.parametrize("by", ["user", "item"])
def test_towns_become_shards(by: str) -> None:
    data = two_towns()
    limit = propagation_capacity(20 if by == "user" else 12, 2)
    apart = 0
    for seed in range(6):
        method = GraphEraser(shards=2, by=by)  # type: ignore[arg-type]
        partition = method.partition(fresh(BPRMF(20, 12, d=4), data), seed)
        assert int(partition.sizes.max()) <= limit
        half = len(partition.labels) // 2
        apart += int(partition.labels[:half].float().mean() - partition.labels[half:].float().mean() != 0)
    assert apart >= 5


@pytest.mark.parametrize("strategy", ["blpa", "bekm"])
def test_shards_stay_below_the_papers_limit(strategy: str) -> None:
    for shards in (2, 5, 10):
        partition = GraphEraser(shards=shards, strategy=strategy).partition(trained(), 0)  # type: ignore[arg-type]
        assert int(partition.sizes.max()) <= propagation_capacity(60, shards)
        assert int(partition.sizes.sum()) == 60


def test_weights_are_shares_and_not_all_alike() -> None:
    result = unlearn(GraphEraser(shards=4, epochs=4, fitted_on=1.0), job_of())
    assert isinstance(result.model, ShardEnsemble)
    weights = result.model.aggregator.get_parameter("weights").detach()
    assert float(weights.sum()) == pytest.approx(1, abs=1e-5)
    assert bool((weights >= 0).all())
    assert float((weights - 0.25).abs().max()) > 1e-3


def test_settings() -> None:
    wrong = {"strategy": "kmeans", "by": "interaction", "rounds": 0, "fitted_on": 0.0, "aggregator_epochs": 0,
             "aggregator_lr": 0.0}  # fmt: skip
    for name, value in wrong.items():
        with pytest.raises(InputError, match=f"grapheraser: {name}="):
            GraphEraser(**{name: value})  # type: ignore[arg-type]
