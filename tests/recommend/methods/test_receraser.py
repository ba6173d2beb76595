"""RecEraser: balanced clusters of what the target knows, and the attention's training."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from expunge.errors import InputError
from expunge.recommend.aggregation import Attention
from expunge.recommend.fitting import Fit, Frozen
from expunge.recommend.graph import Graph
from expunge.recommend.methods.receraser import RecEraser
from expunge.recommend.partition import Partition
from expunge.recommend.unlearn import UnlearnJob
from recommend.tiny import TRAINING, job_of, trained, world


def spread(vectors: Tensor, labels: Tensor) -> float:
    means = torch.stack([vectors[labels == k].mean(0) for k in range(int(labels.max()) + 1)])
    return float((vectors - means[labels]).square().sum())


@pytest.mark.parametrize("by", ["user", "item"])
def test_clusters_are_tighter_than_chance_and_those_of_the_world(by: str) -> None:
    subject = trained()
    partition = RecEraser(shards=2, by=by).partition(subject, 0)  # type: ignore[arg-type]
    vectors = subject.embeddings()[0 if by == "user" else 1]
    g = torch.Generator().manual_seed(0)
    by_chance = spread(vectors, partition.labels[torch.randperm(len(vectors), generator=g)])
    assert spread(vectors, partition.labels) < 0.8 * by_chance
    block = partition.elements % 2  # the two groups of taste the world was drawn with
    agree = float((partition.labels == block).float().mean())
    assert max(agree, 1 - agree) > 0.85


def test_interactions_of_a_kind_share_a_shard() -> None:
    partition = RecEraser(shards=4).partition(trained(), 0)
    assert int(partition.sizes.max()) <= -(-6 * len(world().train) // 20)
    pairs = world().train.pairs
    together = partition.of(pairs)
    taste = (pairs[:, 1] % 2).float()
    shares = torch.stack([taste[together == k].mean() for k in range(4)])
    assert float((shares - 0.5).abs().mean()) > 0.3  # random shards: below 0.1


def fit(job: UnlearnJob, good: float = 1.0) -> Fit:
    """Two shards: the trained target, turned, and noise."""
    z_user, z_item = trained().embeddings()
    g = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(8, 8, generator=g)).Q
    vectors = (
        torch.stack([good * z_user @ turn, torch.randn(60, 8, generator=g)]),
        torch.stack([z_item @ turn, torch.randn(40, 8, generator=g)]),
    )
    none = torch.zeros(0, dtype=torch.long)
    return Fit(job, world().train, None, Partition("user", none, none, 2, 40), vectors, "original")


def test_attention_learns_which_shard_to_ask() -> None:
    job = job_of(base_training=TRAINING)
    found = fit(job)

    def loss(attention: Attention) -> float:
        with torch.no_grad():
            z_user, z_item = attention(*found.vectors)
        pairs = world().train.pairs
        negatives = torch.randint(40, (len(pairs),), generator=torch.Generator().manual_seed(1))
        gap = (z_user[pairs[:, 0]] * (z_item[pairs[:, 1]] - z_item[negatives])).sum(1)
        return float(F.softplus(-gap).mean())

    start = Attention(2, 8, job.seed)
    end = found.attention(epochs=30, lr=1e-2, decay=1e-5, dropout=0.1)
    assert loss(end) < 0.7 * loss(start)
    assert sum(len(log.steps) for log in job.logs) == 30 * -(-len(world().train) // 128)
    again = fit(job_of(base_training=TRAINING)).attention(epochs=30, lr=1e-2, decay=1e-5, dropout=0.1)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), end.parameters(), strict=True))


def test_decay_keeps_the_maps_small() -> None:
    norms = []
    for decay in (0.0, 1.0):
        attention = fit(job_of(base_training=TRAINING)).attention(epochs=10, lr=1e-2, decay=decay, dropout=0.0)
        norms.append(float(attention.square().detach()))
    assert norms[1] < 0.5 * norms[0]


def test_the_shards_stay_as_they_are_while_the_attention_learns() -> None:
    found = fit(job_of(base_training=TRAINING))
    before = found.vectors[0].clone(), found.vectors[1].clone()
    found.attention(epochs=2, lr=1e-2, decay=1e-5, dropout=0.5)
    assert torch.equal(found.vectors[0], before[0])
    assert torch.equal(found.vectors[1], before[1])
    model = Frozen(found.vectors, Attention(2, 8))
    assert {n.split(".")[0] for n, _ in model.named_parameters()} == {"aggregator"}
    assert model.embeddings(Graph(world().train))[0].shape == (60, 8)


def test_settings() -> None:
    wrong = {"by": "edge", "slack": 0.9, "rounds": 0, "aggregator_epochs": 0.0, "aggregator_lr": 0.0, "decay": -1.0,
             "dropout": 1.0}  # fmt: skip
    for name, value in wrong.items():
        with pytest.raises(InputError, match=f"receraser: {name}="):
            RecEraser(**{name: value})  # type: ignore[arg-type]
    with pytest.raises(InputError, match="receraser: shards=0"):
        replace(RecEraser(), shards=0)
