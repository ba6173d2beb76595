"""UltraRE: balanced clusters of least cost, and the best linear combination."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from expunge.errors import InputError
from expunge.recommend.fitting import Fit
from expunge.recommend.methods.receraser import RecEraser
from expunge.recommend.methods.ultrare import UltraRE
from expunge.recommend.partition import Partition
from recommend.tiny import job_of, trained, world


@pytest.mark.parametrize("solver", ["exact", "sinkhorn"])
def test_shards_are_equal_and_follow_taste(solver: Any) -> None:
    for shards in (2, 4, 7):
        partition = UltraRE(shards=shards, solver=solver).partition(trained(), 0)
        assert int(partition.sizes.max()) <= -(-60 // shards)
    partition = UltraRE(shards=2, solver=solver).partition(trained(), 0)
    agree = float((partition.labels == partition.elements % 2).float().mean())
    assert max(agree, 1 - agree) > 0.85


def test_clusters_cost_no_more_than_greedy_ones_of_the_same_size() -> None:
    vectors = trained().embeddings()[0]

    def spread(labels: torch.Tensor) -> float:
        means = torch.stack([vectors[labels == k].mean(0) for k in range(4)])
        return float((vectors - means[labels]).square().sum())

    pairs = [
        (UltraRE(shards=4).partition(trained(), seed).labels,
         RecEraser(shards=4, by="user", slack=1.0).partition(trained(), seed).labels)
        for seed in range(5)
    ]  # fmt: skip
    assert sum(spread(a) for a, _ in pairs) < sum(spread(b) for _, b in pairs)


def test_the_combination_is_the_best_linear_one() -> None:
    """Of the target and of noise: no other weights rank the very same pairs better, the mean is far behind."""
    z_user, z_item = trained().embeddings()
    g = torch.Generator().manual_seed(0)
    vectors = (
        torch.stack([z_user, torch.randn(60, 8, generator=g)]), torch.stack([z_item, torch.randn(40, 8, generator=g)])
    )  # fmt: skip
    none = torch.zeros(0, dtype=torch.long)
    fit = Fit(job_of(), world().train, None, Partition("user", none, none, 2, 40), vectors, "original")
    weights = UltraRE(ridge=1e-6).combine(fit).get_parameter("weights").detach()
    margins = fit.margins()
    assert margins.shape == (len(world().train), 2)
    assert abs(float(weights[1])) < 0.1 * float(weights[0])

    def loss(w: torch.Tensor) -> float:
        return float(F.softplus(-(margins @ w)).mean())

    assert all(loss(weights) <= loss(weights + d) + 1e-6 for d in 0.05 * torch.randn(20, 2, generator=g))
    assert loss(weights) < loss(torch.full((2,), 0.5))


def test_settings() -> None:
    wrong = {"by": "interaction", "rounds": 0, "solver": "greedy", "epsilon": 0.0, "ridge": 0.0}
    for name, value in wrong.items():
        with pytest.raises(InputError, match=f"ultrare: {name}="):
            UltraRE(**{name: value})  # type: ignore[arg-type]
