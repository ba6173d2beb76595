"""Ranking against numbers worked out by hand, ties, masks, and what is refused."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from expunge.errors import InputError
from expunge.recommend.data import Interactions
from expunge.recommend.ranking import evaluate, places, rank, recommended


@dataclass
class Fixed:
    """Scores that are given: items are the axes of the embedding."""

    table: Tensor
    catalogue: Tensor | None = None
    blocked: Interactions | None = None

    def embeddings(self) -> tuple[Tensor, Tensor]:
        return self.table, torch.eye(self.table.shape[1])


# Users 0 to 2 over five items. Rankings without masks: 0: 4 3 2 1 0; 1: 0 1 2 3 4; 2: 2 0 4 1 3.
TABLE = torch.tensor([[1.0, 2, 3, 4, 5], [5, 4, 3, 2, 1], [4, 2, 5, 1, 3]])
NOTHING = Interactions(3, 5, torch.zeros(0, 2, dtype=torch.long))


def pairs(*of: tuple[int, int]) -> Interactions:
    return Interactions(3, 5, torch.tensor(of))


def test_measures_equal_those_worked_out_by_hand_and_a_user_without_truth_is_skipped() -> None:
    # user 0: masked 4, so 3 2 1 0; truth 2 and 0: at k=2 the hits are no, yes
    # user 1: 0 1 ...; truth 0: yes, no. User 2 has nothing to be found.
    found = evaluate(Fixed(TABLE), pairs((0, 2), (0, 0), (1, 0)), pairs((0, 4)), (1, 2))
    assert found.users.tolist() == [0, 1]
    assert found.top.tolist() == [[3, 2], [0, 1]]
    assert found.per_user("recall", 2).tolist() == [0.5, 1.0]
    assert found.per_user("precision", 2).tolist() == [0.5, 0.5]
    assert found.per_user("hit", 1).tolist() == [0.0, 1.0]
    second = 1 / math.log2(3)
    assert found.per_user("ndcg", 2).tolist() == pytest.approx([second / (1 + second), 1.0])
    assert found.per_user("map", 2).tolist() == [0.25, 1.0]  # precision 1/2 at the hit, over min(2, 2)
    assert found.mean("recall", 1) == 0.5


def test_the_ideal_is_cut_at_k() -> None:
    found = evaluate(Fixed(TABLE), pairs((0, 4), (0, 3), (0, 2)), NOTHING, (2,))
    assert found.per_user("ndcg", 2).tolist() == [1.0]
    assert found.per_user("map", 2).tolist() == [1.0]
    assert found.per_user("recall", 2).tolist() == pytest.approx([2 / 3])


def test_a_perfect_ranking_scores_1() -> None:
    truth = pairs((0, 4), (0, 3), (1, 0), (2, 2))
    found = evaluate(Fixed(TABLE), truth, NOTHING, (3,))
    for measure in ("recall", "ndcg", "map", "hit"):
        assert found.per_user(measure, 3).tolist() == [1.0, 1.0, 1.0]


def test_equal_scores_come_by_item_id_wherever_they_stand() -> None:
    scores = torch.tensor([[1.0, 1, 1, 1, 1], [0, 2, 1, 2, 1], [3, 1, 1, 1, 2]])
    free = torch.zeros(3, 5, dtype=torch.bool)
    assert rank(scores, free, 3).tolist() == [[0, 1, 2], [1, 3, 2], [0, 4, 1]]
    wide = torch.randint(0, 4, (50, 200), generator=torch.Generator().manual_seed(0)).float()
    full = wide.sort(dim=1, descending=True, stable=True).indices
    assert rank(wide, torch.zeros_like(wide, dtype=torch.bool), 20).equal(full[:, :20])


def test_a_row_with_too_few_items_ends_in_nothing_and_nothing_is_no_hit() -> None:
    mask = torch.tensor([[True, True, True, False, True]])
    assert rank(TABLE[:1], mask, 3).tolist() == [[3, -1, -1]]
    masked = pairs((0, 1), (0, 2), (0, 3), (0, 4))
    found = evaluate(Fixed(TABLE), pairs((0, 0)), masked, (3,))
    assert found.hits.tolist() == [[True, False, False]]


def test_items_that_are_no_longer_offered_are_left_out_only_of_what_is_served() -> None:
    scorer = Fixed(TABLE, catalogue=torch.tensor([True, True, True, True, False]))
    truth = pairs((0, 4), (1, 0))
    assert evaluate(scorer, truth, NOTHING, (1,)).per_user("hit", 1).tolist() == [0.0, 1.0]
    assert evaluate(scorer, truth, NOTHING, (1,), served=False).per_user("hit", 1).tolist() == [1.0, 1.0]
    assert places(scorer, truth, NOTHING).tolist() == [5, 1]
    assert places(scorer, truth, NOTHING, served=False).tolist() == [1, 1]


def test_what_is_held_back_from_one_user_is_left_out_for_them_alone() -> None:
    scorer = Fixed(TABLE, blocked=pairs((0, 4), (1, 3)))
    truth = pairs((0, 4), (0, 3), (1, 0), (2, 4))
    assert places(scorer, truth, NOTHING).tolist() == [5, 1, 1, 3]
    assert places(scorer, truth, NOTHING, served=False).tolist() == [1, 2, 1, 3]
    assert evaluate(scorer, truth, NOTHING, (1,)).top.tolist() == [[3], [0], [2]]
    assert recommended(scorer, torch.tensor([2, 0]), pairs((2, 2)), 2).tolist() == [[0, 4], [3, 2]]


def test_places_are_where_the_ranking_puts_each_item(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(1)
    table = torch.randint(0, 6, (30, 25), generator=generator).float()
    chosen = torch.rand(30, 25, generator=generator)
    truth = Interactions(30, 25, (chosen < 0.1).nonzero())
    masked = Interactions(30, 25, (chosen > 0.8).nonzero())
    for block in (1024, 7):
        monkeypatch.setattr("expunge.recommend.ranking.USERS_TOGETHER", block)
        order = rank(table, masked.mask(), 25)
        found = places(Fixed(table), truth, masked)
        assert order[truth.pairs[:, 0], found - 1].equal(truth.pairs[:, 1])
        top = evaluate(Fixed(table), truth, masked, (5,))
        assert int((found <= 5).sum()) == int(top.hits.sum())


def test_truth_that_is_masked_k_too_large_and_broken_scores_are_refused() -> None:
    with pytest.raises(InputError, match=r"1 interactions .* \(0, 2\)"):
        evaluate(Fixed(TABLE), pairs((0, 2)), pairs((0, 2)), (1,))
    with pytest.raises(InputError, match="k=6 must lie between 1 and the number of items, 5"):
        evaluate(Fixed(TABLE), pairs((0, 2)), NOTHING, (6,))
    with pytest.raises(InputError, match="not a number"):
        evaluate(Fixed(TABLE * torch.nan), pairs((0, 2)), NOTHING, (1,))
    with pytest.raises(InputError, match="not a number"):
        places(Fixed(TABLE * torch.nan), pairs((0, 2)), NOTHING)
