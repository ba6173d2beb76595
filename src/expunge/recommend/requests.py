"""What is to be forgotten: users, items, single interactions, or planted ones; ids are never renumbered.

A request may leave a user or an item without any interaction. Their row stays where it is, and evaluation skips users
who have nothing left to be evaluated on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import Literal

import torch
from torch import Tensor

from expunge.engine.training import derive_seed
from expunge.errors import InputError
from expunge.recommend.data import Interactions

Pick = Literal["random", "core", "edge"]
Scores = Callable[[Tensor], Tensor]  # users [b] -> scores [b, items]
SCORED_TOGETHER = 1024  # users


def user_request(train: Interactions, share: float, seed: int, pick: Pick = "random") -> Interactions:
    """All interactions of some users.

    Args:
        train: Training interactions.
        share: Of the users who have any.
        seed: Draws the users of ``random``.
        pick: ``random``, ``core`` (the most active) or ``edge`` (the least active); equally active ones by id.

    Raises:
        InputError: A share outside (0, 1) or an unknown pick.
    """
    chosen = _pick(train.degrees[0], share, seed, pick, "users")
    found = train.take(torch.isin(train.pairs[:, 0], chosen))
    return replace(found, about=tuple(f"user:{u}" for u in found.pairs[:, 0].tolist()))


def item_request(train: Interactions, share: float, seed: int, pick: Pick = "random") -> Interactions:
    """All interactions with some items.

    Args:
        train: Training interactions.
        share: Of the items that have any.
        seed: Draws the items of ``random``.
        pick: ``random``, ``core`` (the most popular) or ``edge`` (the least popular); equally popular ones by id.

    Raises:
        InputError: A share outside (0, 1) or an unknown pick.
    """
    chosen = _pick(train.degrees[1], share, seed, pick, "items")
    found = train.take(torch.isin(train.pairs[:, 1], chosen))
    return replace(found, about=tuple(f"item:{i}" for i in found.pairs[:, 1].tolist()))


def edge_request(train: Interactions, share: float, seed: int) -> Interactions:
    """Single interactions at random; whose erasure each is, is its user's.

    Raises:
        InputError: A share outside (0, 1).
    """
    count = _count(len(train), share, "interactions")
    rows = _order(len(train), seed, "edges")[:count].sort().values
    found = train.take(rows)
    return replace(found, about=tuple(f"user:{u}" for u in found.pairs[:, 0].tolist()))


def named_request(train: Interactions, kind: Literal["users", "items", "edges"], who: Sequence[str]) -> Interactions:
    """The interactions somebody asks for by name.

    Args:
        train: Training interactions.
        kind: What the names are of.
        who: Users or items as the data call them (their numbers where it has no names), or pairs ``user,item``.

    Raises:
        InputError: A user or an item who is not there or has no training interaction, a pair that is none, a name
            given twice.
    """
    twice = [name for i, name in enumerate(who) if name in who[:i]]
    if twice:
        raise InputError(f"request: {twice[0]!r} is named twice.")
    if kind == "edges":
        rows = torch.cat([_edge(train, name) for name in who])
        found = train.take(rows.sort().values)
        return replace(found, about=tuple(f"user:{u}" for u in found.pairs[:, 0].tolist()))
    column, word = (0, "user") if kind == "users" else (1, "item")
    ids = torch.tensor([_id(train, column, name) for name in who])
    for name, number in zip(who, ids.tolist(), strict=True):
        if not int(train.degrees[column][number]):
            raise InputError(f"request: {word} {name!r} has no training interactions; there is nothing to forget.")
    found = train.take(torch.isin(train.pairs[:, column], ids))
    return replace(found, about=tuple(f"{word}:{n}" for n in found.pairs[:, column].tolist()))


def _id(train: Interactions, column: int, name: str) -> int:
    """Number of a user (column 0) or an item (1) by name."""
    word, names, count = (
        ("user", train.user_names, train.users) if column == 0 else ("item", train.item_names, train.items)
    )
    known = names or tuple(map(str, range(count)))
    if name not in known:
        close = get_close_matches(name, known, 1) if names else []
        hint = f" Did you mean {close[0]!r}?" if close else "" if names else f" They are numbered 0 to {count - 1}."
        raise InputError(f"request: there is no {word} {name!r} among the {count}.{hint}")
    return known.index(name)


def _edge(train: Interactions, name: str) -> Tensor:
    """Row of one interaction, written ``user,item``."""
    user, comma, item = name.partition(",")
    if not comma:
        raise InputError(f"request: {name!r} is no interaction; write it as user,item.")
    pair = torch.tensor([_id(train, 0, user.strip()), _id(train, 1, item.strip())])
    rows = (train.pairs == pair).all(1).nonzero()[:, 0]
    if not len(rows):
        raise InputError(f"request: user {user.strip()!r} has no training interaction with item {item.strip()!r}.")
    return rows


def adversarial_edges(
    train: Interactions, known: Interactions, scores: Scores, share: float, seed: int
) -> Interactions:
    """Planted interactions nobody would expect, as a clean model sees them (UnlearnRec's protocol).

    A random `share` of the users is given the item a clean model scores lowest for them, and a random `share` of the
    items is given the user who scores lowest; ties go to the lower id. The model to be attacked is then trained on
    `train` and these, and asked to forget these.

    Args:
        train: Training interactions.
        known: Every real interaction, of validation and test too: none of them is planted.
        scores: Of the clean model.
        share: Of users and of items.
        seed: Draws them.

    Returns:
        The planted interactions, none of which is in `known`.

    Raises:
        InputError: A share outside (0, 1).
    """
    users = _order(train.users, seed, "planted users")[: _count(train.users, share, "users")].sort().values
    items = _order(train.items, seed, "planted items")[: _count(train.items, share, "items")].sort().values
    taken, unreachable = known.mask() | train.mask(), float("inf")
    lowest_item = torch.full((train.users,), unreachable), torch.zeros(train.users, dtype=torch.long)
    lowest_user = torch.full((train.items,), unreachable), torch.zeros(train.items, dtype=torch.long)
    for block in torch.arange(train.users).split(SCORED_TOGETHER):
        found = scores(block).float().cpu().masked_fill(taken[block], unreachable)  # [b, items]
        lowest_item[0][block], lowest_item[1][block] = found.min(1).values, found.argmin(1)
        values, rows = found.min(0).values, found.argmin(0)
        lower = values < lowest_user[0]
        lowest_user[0][lower], lowest_user[1][lower] = values[lower], block[rows][lower]
    users = users[lowest_item[0][users] < unreachable]  # who has taken everything gets nothing more
    items = items[lowest_user[0][items] < unreachable]
    planted = torch.cat([
        torch.stack([users, lowest_item[1][users]], 1),
        torch.stack([lowest_user[1][items], items], 1),
    ]).unique(dim=0)  # fmt: skip
    about = tuple(f"user:{u}" for u in planted[:, 0].tolist())
    return replace(train, pairs=planted, about=about)


def non_interactions(forget: Interactions, known: Interactions, seed: int) -> Interactions:
    """For each forgotten pair a random item its user never took: the non-members of membership inference.

    Args:
        forget: Forgotten interactions.
        known: Every interaction, of training, validation and test: none of them is drawn.
        seed: Draws the items.

    Returns:
        As many pairs of each user as they have in `forget`, none twice; fewer where the user has taken nearly all.
    """
    taken, count = known.mask() | forget.mask(), forget.degrees[0]
    generator = torch.Generator().manual_seed(derive_seed(seed, "non-interactions"))
    found = []
    for block in count.nonzero()[:, 0].split(SCORED_TOGETHER):
        draws = torch.rand(len(block), forget.items, generator=generator, dtype=torch.float64)
        draws = draws.masked_fill(taken[block], -1.0)
        order = draws.argsort(1, descending=True)
        place = torch.arange(forget.items).expand_as(order)
        chosen = (place < count[block, None]) & (draws.gather(1, order) >= 0)
        row, column = chosen.nonzero().unbind(1)
        found.append(torch.stack([block[row], order[row, column]], 1))
    pairs = torch.cat(found) if found else forget.pairs[:0]
    return replace(forget, pairs=pairs, about=tuple(f"user:{u}" for u in pairs[:, 0].tolist()))


def _order(count: int, seed: int, purpose: str) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(derive_seed(seed, purpose)))


def _count(of: int, share: float, what: str) -> int:
    if not 0 < share < 1:
        raise InputError(f"share={share} of the {what} must lie between 0 and 1, both excluded.")
    return max(1, round(share * of))


def _pick(degree: Tensor, share: float, seed: int, pick: Pick, what: str) -> Tensor:
    """Ids of some users or items with interactions."""
    active = degree.nonzero()[:, 0]
    count = _count(len(active), share, what)
    if pick == "random":
        return active[_order(len(active), seed, what)[:count]]
    if pick not in ("core", "edge"):
        raise InputError(f"pick={pick!r}; random, core or edge.")
    return active[degree[active].sort(descending=pick == "core", stable=True).indices[:count]]
