"""Negatives: never seen, always in the catalogue, uniform, and by lookup as by matrix."""

from __future__ import annotations

import pytest
import torch

from expunge.errors import InputError
from expunge.recommend import sampling
from expunge.recommend.data import Interactions
from expunge.recommend.sampling import Negatives
from recommend.tiny import world


def draw(negatives: Negatives, users: torch.Tensor, seed: int = 0) -> torch.Tensor:
    return negatives.draw(users, torch.Generator().manual_seed(seed))


def test_negatives_are_uniform_over_what_is_left() -> None:
    seen = Interactions(2, 6, torch.tensor([[0, 1], [0, 4], [1, 0]]))
    catalogue = torch.tensor([True, True, True, False, True, True])
    users = torch.tensor([0, 1]).repeat_interleave(30_000)
    items = draw(Negatives(seen, catalogue), users)
    for user, left in ((0, [0, 2, 5]), (1, [1, 2, 4, 5])):
        counts = torch.bincount(items[users == user], minlength=6)
        assert counts.nonzero()[:, 0].tolist() == left
        share = counts[left] / 30_000
        assert float((share - 1 / len(left)).abs().max()) < 0.012  # four standard deviations


def test_a_sorted_list_draws_what_the_matrix_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    users = torch.arange(60).repeat(50)
    train = world().train
    by_matrix = draw(Negatives(train), users)
    assert torch.equal(draw(Negatives(train.mask()), users), by_matrix)
    monkeypatch.setattr(sampling, "MATRIX", 0)
    assert torch.equal(draw(Negatives(train), users), by_matrix)
    assert not torch.equal(draw(Negatives(train), users, seed=1), by_matrix)
    assert not train.contains(torch.stack([users, by_matrix], 1)).any()


def test_nobody_seen_anything() -> None:
    nothing = Interactions(3, 4, torch.zeros(0, 2, dtype=torch.long))
    assert set(draw(Negatives(nothing), torch.zeros(200, dtype=torch.long)).tolist()) == {0, 1, 2, 3}


def test_who_has_seen_nearly_all_gets_what_is_left() -> None:
    items = 2000
    pairs = torch.stack([torch.zeros(items - 2, dtype=torch.long), torch.arange(items - 2)], 1)
    found = draw(Negatives(Interactions(1, items, pairs)), torch.zeros(64, dtype=torch.long))
    assert set(found.tolist()) == {items - 2, items - 1}


def test_nothing_left_is_an_error() -> None:
    seen = Interactions(2, 3, torch.tensor([[1, 0], [1, 1]]))
    catalogue = torch.tensor([True, True, False])
    assert len(draw(Negatives(seen), torch.tensor([1, 0]))) == 2
    with pytest.raises(InputError, match="User 1 has every item of the catalogue"):
        draw(Negatives(seen, catalogue), torch.tensor([0, 1]))
    with pytest.raises(InputError, match="User 1 has every item of the catalogue"):
        draw(Negatives(seen.mask(), catalogue), torch.tensor([0, 1]))
    with pytest.raises(InputError, match="marks 2 items; there are 3"):
        Negatives(seen, catalogue[:2])
