"""Requests: who is drawn, what is planted, and non-members that nobody ever took."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from expunge.errors import InputError
from expunge.recommend.data import Interactions
from expunge.recommend.requests import adversarial_edges, edge_request, item_request, non_interactions, user_request
from expunge.recommend.synthetic import World


@pytest.fixture(scope="module")
def world() -> World:
    return World(seed=1)


def test_whole_users_go_and_ids_stay(world: World) -> None:
    forget = user_request(world.train, 0.1, 0)
    users = forget.pairs[:, 0].unique()
    assert len(users) == 6
    left = world.train.without(forget)
    assert len(left) + len(forget) == len(world.train)
    assert left.degrees[0][users].sum() == 0
    assert (left.users, left.items) == (60, 40)
    assert set(forget.clusters) == {f"user:{u}" for u in users.tolist()}


def test_whole_items_go(world: World) -> None:
    forget = item_request(world.train, 0.1, 0)
    items = forget.pairs[:, 1].unique()
    assert len(items) == 4
    assert world.train.without(forget).degrees[1][items].sum() == 0
    assert forget.clusters == tuple(f"item:{i}" for i in forget.pairs[:, 1].tolist())


def test_core_and_edge_are_the_most_and_the_least_active_and_skip_those_without_any() -> None:
    pairs = torch.tensor([[u, i] for u, n in enumerate((3, 0, 5, 1, 5, 2)) for i in range(n)])
    train = Interactions(6, 5, pairs)
    assert user_request(train, 0.4, 0, "core").pairs[:, 0].unique().tolist() == [2, 4]
    assert user_request(train, 0.4, 0, "edge").pairs[:, 0].unique().tolist() == [3, 5]
    assert user_request(train, 0.01, 0, "core").pairs[:, 0].unique().tolist() == [2]  # at least one, ties by id
    assert item_request(train, 0.2, 0, "core").pairs[:, 1].unique().tolist() == [0]
    drawn = {u for seed in range(30) for u in user_request(train, 0.2, seed).pairs[:, 0].tolist()}
    assert drawn == {0, 2, 3, 4, 5}


def test_edges_are_a_share_of_the_interactions_and_depend_on_the_seed(world: World) -> None:
    forget = edge_request(world.train, 0.05, 0)
    assert len(forget) == round(0.05 * len(world.train))
    assert bool(world.train.contains(forget.pairs).all())
    assert forget.clusters == tuple(f"user:{u}" for u in forget.pairs[:, 0].tolist())
    assert forget.digest == edge_request(world.train, 0.05, 0).digest != edge_request(world.train, 0.05, 1).digest


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1])
def test_a_share_is_between_nothing_and_everything(world: World, share: float) -> None:
    for request in (user_request, item_request, edge_request):
        with pytest.raises(InputError, match=f"share={share}"):
            request(world.train, share, 0)
    with pytest.raises(InputError, match="pick='top'"):
        user_request(world.train, 0.1, 0, "top")  # type: ignore[arg-type]


def test_planted_edges_are_the_lowest_scored_ones_that_nobody_took() -> None:
    scores = torch.tensor([[0.0, 1.0, 2.0], [5.0, 4.0, 3.0], [1.0, 1.0, 9.0]])
    train, known = Interactions(3, 3, torch.tensor([[0, 1]])), Interactions(3, 3, torch.tensor([[0, 1], [0, 0]]))

    def of(users: Tensor) -> Tensor:
        return scores[users]

    planted = adversarial_edges(train, known, of, 0.99, 0)
    # users: 0 has taken 0 and 1 and gets 2; 1 gets 2; 2 ties between 0 and 1 and gets 0
    # items: 0 is lowest for user 2 (user 0 took it), 1 for user 2, 2 for user 0
    assert planted.pairs.tolist() == [[0, 2], [1, 2], [2, 0], [2, 1]]
    assert planted.clusters == ("user:0", "user:1", "user:2", "user:2")


def test_a_user_who_took_everything_gets_nothing_planted() -> None:
    full = Interactions(2, 2, torch.tensor([[0, 0], [0, 1]]))
    planted = adversarial_edges(full, full, lambda users: torch.zeros(len(users), 2), 0.99, 0)
    assert planted.pairs.tolist() == [[1, 0], [1, 1]]


def test_half_of_the_users_and_items_are_attacked_and_blocks_of_users_change_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = torch.randn(60, 40, generator=torch.Generator().manual_seed(0))
    planted = adversarial_edges(world.train, world.all, table.__getitem__, 0.5, 4)
    assert 30 <= len(planted) <= 50
    assert not bool(world.all.contains(planted.pairs).any())
    monkeypatch.setattr("expunge.recommend.requests.SCORED_TOGETHER", 7)
    again = adversarial_edges(world.train, world.all, table.__getitem__, 0.5, 4)
    assert again.digest == planted.digest
    nobody = Interactions(20, 3, torch.zeros(0, 2, dtype=torch.long))
    equal = adversarial_edges(nobody, nobody, lambda users: torch.zeros(len(users), 3), 0.9, 0)
    assert bool((equal.pairs == 0).any(1).all())  # item 0 for every user, and user 0 for every item
    assert len(equal.pairs[:, 1].unique()) > 1


def test_non_members_are_as_many_as_each_users_forgotten_and_never_taken(world: World) -> None:
    forget = edge_request(world.train, 0.2, 0)
    others = non_interactions(forget, world.all, 0)
    assert others.degrees[0].equal(forget.degrees[0])
    assert not bool(world.all.contains(others.pairs).any())
    assert (
        others.digest == non_interactions(forget, world.all, 0).digest != non_interactions(forget, world.all, 1).digest
    )
    crowded = Interactions(2, 3, torch.tensor([[0, 0], [0, 1], [1, 2]]))
    assert non_interactions(crowded, crowded, 0).pairs.tolist()[0] == [0, 2]  # one item is left for two forgotten ones
    assert non_interactions(crowded, crowded, 0).degrees[0].tolist() == [1, 1]
