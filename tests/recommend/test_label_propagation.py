"""Communities follow the edges, within their limit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from expunge.errors import InputError
from expunge.recommend.data import Interactions
from expunge.recommend.label_propagation import _move, label_propagation, shared_neighbours
from expunge.recommend.partition import propagation_capacity
from recommend.test_partition import world


def two_cliques(each: int, bridge: bool = True) -> Tensor:
    block = torch.ones(each, each) - torch.eye(each)
    a = torch.block_diag(block, block).double()
    if bridge:
        a[0, each] = a[each, 0] = 1
    return a


@pytest.mark.parametrize("seed", range(5))
def test_two_cliques_are_found(seed: int) -> None:
    a = two_cliques(20)
    labels = label_propagation(lambda x: a @ x, 40, 2, seed, limit=24)
    assert len(labels[:20].unique()) == 1
    assert len(labels[20:].unique()) == 1
    assert int(labels[0]) != int(labels[-1])


@pytest.mark.parametrize("shards", [1, 3, 7, 40])
def test_limits_hold_and_every_node_has_a_community(shards: int) -> None:
    a = (torch.rand(40, 40, generator=torch.Generator().manual_seed(0)) < 0.2).double().triu(1)
    a = a + a.T
    labels = label_propagation(lambda x: a @ x, 40, shards, 0)
    sizes = torch.bincount(labels, minlength=shards)
    assert int(sizes.sum()) == 40
    assert int(sizes.max()) <= propagation_capacity(40, shards)
    assert torch.equal(labels, label_propagation(lambda x: a @ x, 40, shards, 0))


def test_more_edges_stay_inside_than_by_chance() -> None:
    data = world(users=60, items=40, share=0.15)
    votes = shared_neighbours(data, 0, torch.arange(60))
    start = label_propagation(votes, 60, 4, 0, rounds=0)
    end = label_propagation(votes, 60, 4, 0)

    def inside(labels: Tensor) -> float:
        onehot = torch.nn.functional.one_hot(labels, 4).double()
        return float((votes(onehot) * onehot).sum())

    assert inside(end) > 1.1 * inside(start)


def test_a_place_that_becomes_free_is_taken() -> None:
    """Both communities are full: nobody can move first, and a wish alone changes nothing."""
    assert _move([0, 0, 1, 1], [(0, 1), (2, 0)], 2, 2) == [0, 0, 1, 1]
    # With one place in 1: node 0 moves there, which lets 2, waiting since before, into 0, and so 1 into 1.
    assert _move([0, 0, 1], [(2, 0), (0, 1), (1, 1)], 2, 2) == [1, 1, 0]
    # The first in the queue goes first.
    assert _move([0, 0, 1, 1, 2], [(2, 0), (3, 0), (0, 2)], 3, 2) == [2, 0, 0, 1, 2]


def test_votes_are_the_square_of_the_interactions() -> None:
    data = Interactions(6, 5, torch.tensor([[0, 0], [0, 1], [2, 0], [2, 1], [2, 4], [5, 4]]))
    users = torch.tensor([0, 2, 5])
    onehot = torch.eye(3).double()
    full = data.mask().double()
    for side, elements in ((0, users), (1, torch.tensor([0, 1, 4]))):
        matrix = full if side == 0 else full.T
        square = (matrix @ matrix.T)[elements][:, elements]
        square.fill_diagonal_(0)
        torch.testing.assert_close(shared_neighbours(data, side, elements)(onehot), square)


def test_bad_limits_are_refused() -> None:
    a = two_cliques(3)
    with pytest.raises(InputError, match="6 nodes do not fit into 2 communities of at most 2"):
        label_propagation(lambda x: a @ x, 6, 2, 0, limit=2)
    with pytest.raises(InputError, match="shards=7"):
        label_propagation(lambda x: a @ x, 6, 7, 0)
