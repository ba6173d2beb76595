"""Interactions: ids that stay, set operations, what is refused, and the division of each user's pairs."""

from __future__ import annotations

import pytest
import torch

from expunge.errors import InputError
from expunge.recommend.data import Interactions, check_features, require_subset, split_per_user
from expunge.recommend.synthetic import World

PAIRS = torch.tensor([[0, 1], [2, 0], [2, 3], [1, 1]])


def some(pairs: torch.Tensor = PAIRS, **named: tuple[str, ...]) -> Interactions:
    return Interactions(3, 4, pairs, **named)


def test_taking_pairs_away_leaves_every_id_as_it_was() -> None:
    left = some().without(some(PAIRS[1:3]))
    assert left.pairs.tolist() == [[0, 1], [1, 1]]
    assert (left.users, left.items) == (3, 4)
    assert left.degrees[0].tolist() == [1, 1, 0]
    assert left.degrees[1].tolist() == [0, 2, 0, 0]


def test_keys_mask_and_contains_speak_of_the_same_pairs() -> None:
    it = some()
    assert it.keys().tolist() == [1, 8, 11, 5]
    assert it.mask().nonzero().tolist() == sorted(PAIRS.tolist())
    every = torch.cartesian_prod(torch.arange(3), torch.arange(4))
    assert torch.equal(it.contains(every).view(3, 4), it.mask())


def test_take_accepts_rows_and_a_mask_and_keeps_whose_erasure_each_pair_belongs_to() -> None:
    it = some(about=("item:1", "item:0", "item:3", "item:1"))
    rows = it.take([2, 0])
    assert rows.pairs.tolist() == [[2, 3], [0, 1]]
    assert rows.clusters == ("item:3", "item:1")
    chosen = it.take(torch.tensor([True, False, False, True]))
    assert chosen.pairs.tolist() == [[0, 1], [1, 1]]
    assert some().clusters == ("user:0", "user:2", "user:2", "user:1")


def test_union_is_one_of_sets_and_remembers_the_first_owner() -> None:
    planted = some(torch.tensor([[2, 0], [0, 3]]), about=("user:2", "attack"))
    both = some().union(planted)
    assert both.pairs.tolist() == [*PAIRS.tolist(), [0, 3]]
    assert both.clusters == ("user:0", "user:2", "user:2", "user:1", "attack")
    assert both.without(planted).union(planted).mask().equal(both.mask())


def test_digest_depends_on_the_pairs_their_order_their_owner_and_the_catalogue() -> None:
    others = [some(PAIRS.flip(0)), some(PAIRS[:3]), some(about=("a", "b", "c", "d")), Interactions(3, 5, PAIRS)]
    assert len({it.digest for it in (some(), *others)}) == 5
    assert some().digest == some(PAIRS.clone(), user_names=("x", "y", "z")).digest


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (torch.tensor([[0, 1], [3, 0]]), "Interaction 2: user 3 is outside 0 to 2"),
        (torch.tensor([[0, -1]]), "item -1 is outside 0 to 3"),
        (torch.tensor([[0, 1], [1, 0], [0, 1], [1, 0], [0, 1]]), r"3 interactions .* \(0, 1\), \(1, 0\), \(0, 1\)\."),
        (torch.tensor([[0.0, 1.0]]), "int64 pairs"),
        (torch.tensor([0, 1]), "int64 pairs"),
    ],
)
def test_malformed_pairs_are_refused_in_words(pairs: torch.Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        some(pairs)


def test_a_pair_given_twice_is_named_as_its_file_names_it() -> None:
    with pytest.raises(InputError, match=r"1 interaction given more than once \(user, item\): \(ann, film 3\)"):
        some(
            torch.tensor([[1, 3], [1, 3]]), user_names=("bob", "ann", "cy"),
            item_names=tuple(f"film {i}" for i in range(4)),
        )  # fmt: skip


def test_names_and_owners_must_be_as_many_as_what_they_name() -> None:
    with pytest.raises(InputError, match="2 user names for 3 users"):
        some(user_names=("a", "b"))
    with pytest.raises(InputError, match="1 subjects of erasure for 4"):
        some(about=("a",))


def test_another_catalogue_is_refused() -> None:
    other = Interactions(3, 5, PAIRS)
    for combine in (some().without, some().union):
        with pytest.raises(InputError, match="3 users and 4 items cannot be combined"):
            combine(other)


def test_a_subset_is_required_with_number_and_first_three() -> None:
    require_subset(some(PAIRS[:2]), some(), "forget")
    strangers = torch.tensor([[0, 1], [0, 0], [0, 2], [0, 3], [1, 0]])
    with pytest.raises(InputError, match=r"forget: 4 of 5 interactions .*: \(0, 0\), \(0, 2\), \(0, 3\)\."):
        require_subset(some(strangers), some(), "forget")


def test_features_need_a_finite_row_for_each_item() -> None:
    good = torch.zeros(4, 2)
    check_features({"text": good}, 4)
    broken = good.clone()
    broken[2, 1] = torch.inf
    for table, message in (
        (good[:3], "3 rows of 2 numbers for 4 items"),
        (good.double(), "float32"),
        (broken, "item 2 has a number that is not finite"),
    ):
        with pytest.raises(InputError, match=message):
            check_features({"text": table}, 4)


def test_each_users_pairs_are_divided_by_floors_and_nobody_is_left_without() -> None:
    pairs = torch.cat([torch.stack([torch.full((n,), u), torch.arange(n)], 1) for u, n in enumerate((1, 4, 5, 10, 23))])
    whole = Interactions(5, 30, pairs[torch.randperm(len(pairs), generator=torch.Generator().manual_seed(3))])
    train, valid, test = split_per_user(whole, 0)
    assert test.degrees[0].tolist() == [0, 0, 1, 2, 4]
    assert valid.degrees[0].tolist() == [0, 0, 0, 1, 2]
    assert (train.degrees[0] + valid.degrees[0] + test.degrees[0]).equal(whole.degrees[0])
    joined = torch.cat([train.keys(), valid.keys(), test.keys()])
    assert joined.sort().values.equal(whole.keys().sort().values)
    assert split_per_user(whole, 0)[2].digest == test.digest != split_per_user(whole, 1)[2].digest
    with pytest.raises(InputError, match="less than 1"):
        split_per_user(whole, 0, valid=0.5, test=0.5)


def test_the_division_takes_every_place_of_a_user_equally_often() -> None:
    whole = Interactions(400, 5, torch.cartesian_prod(torch.arange(400), torch.arange(5)))
    asked = split_per_user(whole, 7)[2].degrees[1]  # 400 draws of one of five: 80 expected, standard deviation 8
    assert asked.sum() == 400
    assert int((asked - 80).abs().max()) < 32


def test_the_worlds_users_take_what_suits_them_and_features_tell_of_the_items() -> None:
    world = World(users=80, items=40, seed=3, sharpness=6.0, spread=0.1, noise=0.05)
    taken = world.all.mask()
    assert taken.sum(1).tolist() == [12] * 80
    assert world.preferences[taken].mean() > world.preferences[~taken].mean() + 0.3
    same = (torch.arange(80)[:, None] % 2) == (torch.arange(40)[None] % 2)
    assert taken[same].float().mean() > 5 * taken[~same].float().mean()
    for table in world.features.values():
        check_features(world.features, 40)
        near = torch.cdist(table, table)
        apart = torch.arange(40) % 2
        across, within = near[apart == 0][:, apart == 1], near[apart == 0][:, apart == 0]
        assert across.min() > within.max()
    assert World(seed=4).all.digest == World(seed=4).all.digest != World(seed=5).all.digest


def test_a_world_without_taste_takes_items_at_random_and_refuses_the_impossible() -> None:
    counts = World(users=600, items=20, per_user=10, sharpness=0.0).all.degrees[1]
    assert int((counts - 300).abs().max()) < 5 * 12.3  # sqrt(600 / 4) = 12.2
    with pytest.raises(InputError, match="per_user=12"):
        World(items=10)
    with pytest.raises(InputError, match="noise=-1"):
        World(noise=-1)
