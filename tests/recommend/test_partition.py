"""Shards are disjoint, complete and of limited size, and clusters are found where there are any."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from expunge.errors import InputError
from expunge.recommend.data import Interactions
from expunge.recommend.partition import (
    Partition,
    balanced_kmeans,
    capacity,
    divide,
    element_ids,
    greedy,
    propagation_capacity,
    squared_distances,
    uniform,
)


def world(users: int = 30, items: int = 20, share: float = 0.3, seed: int = 0) -> Interactions:
    drawn = torch.rand(users, items, generator=torch.Generator().manual_seed(seed)) < share
    return Interactions(users, items, drawn.nonzero())


def blobs(each: int = 40, seed: int = 0, d: int = 5) -> tuple[Tensor, Tensor]:
    """Two clusters far apart, shuffled, and which is which."""
    g = torch.Generator().manual_seed(seed)
    which = torch.arange(2 * each)[torch.randperm(2 * each, generator=g)] % 2
    return torch.randn(2 * each, d, generator=g) + 30 * which.unsqueeze(1), which


def greedy_by_definition(costs: Tensor, limit: int) -> Tensor:
    n, shards = costs.shape
    labels, sizes = [-1] * n, [0] * shards
    ordered = sorted(itertools.product(range(n), range(shards)), key=lambda p: (float(costs[p]), p))
    for element, shard in ordered:
        if labels[element] < 0 and sizes[shard] < limit:
            labels[element] = shard
            sizes[shard] += 1
    return torch.tensor(labels)


@pytest.mark.parametrize("limit", [5, 6, 20])
def test_greedy_in_rounds_is_greedy_pair_by_pair(limit: int) -> None:
    for seed in range(20):
        g = torch.Generator().manual_seed(seed)
        costs = torch.randint(12, (20, 4), generator=g).double()  # many ties
        assert torch.equal(greedy(costs, limit), greedy_by_definition(costs, limit))
        costs = torch.rand(20, 4, generator=g).double()
        assert torch.equal(greedy(costs, limit), greedy_by_definition(costs, limit))


def test_greedy_without_a_limit_is_the_cheapest_shard() -> None:
    costs = torch.rand(50, 6, generator=torch.Generator().manual_seed(1))
    assert torch.equal(greedy(costs, 50), costs.argmin(1))
    with pytest.raises(InputError, match="50 elements do not fit into 6 shards of at most 8"):
        greedy(costs, 8)


def test_greedy_of_many_elements_fills_shard_by_shard() -> None:
    """All want the same shards in the same order: the nearest get the first, and so on."""
    costs = torch.arange(30_000).double().unsqueeze(1) * torch.tensor([1.0, 2.0, 3.0, 4.0]) + torch.arange(4)
    assert torch.equal(greedy(costs, 8000), torch.arange(30_000) // 8000)


def test_distances_by_hand_and_over_two_blocks() -> None:
    a, b = torch.randn(7, 3).double(), torch.randn(7, 2).double()
    c, e = torch.randn(4, 3).double(), torch.randn(4, 2).double()
    first = ((a[:, None] - c) ** 2).sum(-1)
    second = ((b[:, None] - e) ** 2).sum(-1)
    torch.testing.assert_close(squared_distances([a, b], [c, e]), first * second)
    assert bool((squared_distances([a * 1e6], [a * 1e6]).diagonal() == 0).all())


def test_limits_of_shards() -> None:
    assert [capacity(n, s) for n, s in ((100, 10), (943, 10), (7, 7), (10, 4))] == [12, 114, 2, 3]
    assert propagation_capacity(943, 10) == 99  # 94.3 + 0.005 * 848.7
    assert propagation_capacity(5, 5) == 2


@pytest.mark.parametrize("shards", [1, 2, 7, 60])
def test_kmeans_covers_within_the_limit(shards: int) -> None:
    points = torch.randn(60, 4, generator=torch.Generator().manual_seed(0)) ** 3  # uneven density
    labels = balanced_kmeans([points], shards, 3)
    sizes = torch.bincount(labels, minlength=shards)
    assert int(labels.min()) >= 0
    assert int(sizes.sum()) == 60
    assert int(sizes.max()) <= capacity(60, shards)
    assert torch.equal(labels, balanced_kmeans([points], shards, 3))


def test_a_tight_limit_makes_equal_shards() -> None:
    points = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    labels = balanced_kmeans([points], 6, 0, limit=10)
    assert torch.bincount(labels).tolist() == [10] * 6


@pytest.mark.parametrize("seed", range(8))
def test_two_blobs_are_recovered(seed: int) -> None:
    """Whichever elements are drawn first: both from one blob too."""
    points, which = blobs(seed=seed)
    labels = balanced_kmeans([points], 2, seed)
    assert bool((labels == which).all()) or bool((labels == 1 - which).all())


def test_centroids_are_mean_vectors() -> None:
    """Clusters that differ in direction alone, which a centroid of one number for all columns cannot tell apart."""
    g = torch.Generator().manual_seed(0)
    which = torch.arange(90) % 3
    points = 5 * torch.eye(3)[which] + 0.1 * torch.randn(90, 3, generator=g)
    spreads = []
    for seed in range(6):
        labels = balanced_kmeans([points], 3, seed, limit=30)
        means = torch.stack([points[labels == s].mean(0) for s in range(3)])
        spreads.append(float((points - means[labels]).square().sum(1).mean()))
    assert min(spreads) < 0.05  # 3 * 0.1^2: the clusters themselves
    assert sum(spreads) / 6 < 0.7 * float((points - points.mean(0)).square().sum(1).mean())


def test_kmeans_ends_at_a_fixed_point() -> None:
    points = torch.randn(80, 3, generator=torch.Generator().manual_seed(2)).double()
    labels = balanced_kmeans([points], 4, 0, rounds=200)
    means = torch.stack([points[labels == s].mean(0) for s in range(4)])
    assert torch.equal(greedy(squared_distances([points], [means]), capacity(80, 4)), labels)


def test_interactions_are_clustered_by_user_and_item() -> None:
    """Two kinds of users, two of items: pairs of four kinds; near its centroid in either block a pair is near."""
    g = torch.Generator().manual_seed(0)
    user, item = torch.arange(80) % 2, torch.arange(80) // 2 % 2
    users = 10 * user.unsqueeze(1) + 0.1 * torch.randn(80, 2, generator=g)
    items = 10 * item.unsqueeze(1) + 0.1 * torch.randn(80, 2, generator=g)
    labels = balanced_kmeans([users, items], 2, 0)
    assert int(torch.bincount(labels).max()) <= capacity(80, 2)
    alone = balanced_kmeans([users], 2, 0)
    assert not torch.equal(labels, alone)
    with pytest.raises(InputError, match="finite vectors of 80 elements"):
        balanced_kmeans([users, items[:-1]], 2, 0)
    with pytest.raises(InputError, match="finite vectors"):
        balanced_kmeans([users / 0], 2, 0)


def test_uniform_shards_differ_by_one_element() -> None:
    labels = uniform(103, 10, 0)
    sizes = torch.bincount(labels, minlength=10)
    assert int(sizes.max()) - int(sizes.min()) == 1
    assert torch.equal(labels, uniform(103, 10, 0))
    assert not torch.equal(labels, uniform(103, 10, 1))
    assert not torch.equal(labels, torch.arange(103) % 10)


@pytest.mark.parametrize("by", ["user", "item", "interaction"])
def test_a_partition_is_a_disjoint_cover(by: str) -> None:
    data = world()
    partition = divide(data, by, 4, lambda e: uniform(len(e), 4, 0))  # type: ignore[arg-type]
    parts = partition.split(data)
    assert torch.equal(torch.cat([p.keys() for p in parts]).sort().values, data.keys().sort().values)
    ids = [set(element_ids(p.pairs, by, data.items).tolist()) for p in parts]  # type: ignore[arg-type]
    assert all(a.isdisjoint(b) for a, b in itertools.combinations(ids, 2))
    assert partition.sizes.tolist() == [len(i) for i in ids]
    assert int(partition.sizes.max()) <= capacity(len(partition.elements), 4)


def test_shards_do_not_depend_on_the_order_or_on_other_requests() -> None:
    data = world()
    partition = divide(data, "interaction", 3, lambda e: uniform(len(e), 3, 0))
    turned = data.take(torch.randperm(len(data), generator=torch.Generator().manual_seed(5)))
    assert [p.digest for p in partition.split(data)] == [p.digest for p in partition.split(turned)]
    gone = data.take([3])
    home = int(partition.of(gone.pairs))
    for s, (before, after) in enumerate(zip(partition.split(data), partition.split(data.without(gone)), strict=True)):
        assert (before.digest == after.digest) == (s != home)


def test_what_was_not_divided_has_a_shard_too() -> None:
    data = Interactions(9, 5, torch.tensor([[2, 1], [3, 0], [8, 4]]))
    partition = divide(data, "user", 2, lambda e: torch.tensor([1, 1, 0]))
    assert partition.of(torch.tensor([[2, 0], [3, 4], [8, 1], [4, 0], [7, 0]])).tolist() == [1, 1, 0, 0, 1]
    empty = Partition("user", torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long), 3, 5)
    assert empty.of(torch.tensor([[4, 0]])).tolist() == [1]


def test_too_many_shards_are_refused() -> None:
    data = world(users=5)
    for by, shards in (("user", 6), ("item", 21), ("interaction", len(data) + 1), ("user", 0)):
        with pytest.raises(InputError, match=rf"sisa: shards={shards} must be from 1 to the number of {by}s \("):
            divide(data, by, shards, lambda e: uniform(len(e), 1, 0), "sisa")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"shards=9 must be from 1 to the number of elements \(8\)"):
        balanced_kmeans([torch.randn(8, 2)], 9, 0)
    with pytest.raises(InputError, match="shards=9"):
        uniform(8, 9, 0)
