"""Interactions: which user took which item, over a catalogue whose numbering never changes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from expunge.errors import InputError

Features = Mapping[str, Tensor]  # modality -> float32 [items, F]
SHOWN = 3  # pairs that an error names


@dataclass(frozen=True, eq=False)
class Interactions:
    """n positive (user, item) pairs.

    Taking pairs away leaves every id as it was: a user or item without any pair keeps its place, so that the rows of
    two models trained on different pairs belong to the same users and items.

    Attributes:
        users: Users of the catalogue, with ids 0 to users - 1.
        items: Items of the catalogue, with ids 0 to items - 1.
        pairs: int64 [n, 2] (user, item), none twice.
        user_names: What a file calls the users; empty: their numbers.
        item_names: What a file calls the items; empty: their numbers.
        about: [n] whose erasure each pair belongs to, such as ``user:12`` or ``item:7``, the unit of inference;
            empty: each pair belongs to its user.

    Raises:
        InputError: An id outside the catalogue, or a pair twice.
    """

    users: int
    items: int
    pairs: Tensor
    user_names: tuple[str, ...] = ()
    item_names: tuple[str, ...] = ()
    about: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.users < 1 or self.items < 1:
            raise InputError(f"A catalogue of {self.users} users and {self.items} items; both must be at least 1.")
        if self.pairs.dtype != torch.int64 or self.pairs.ndim != 2 or self.pairs.shape[1] != 2:
            raise InputError(
                f"Interactions are int64 pairs [n, 2]; found {self.pairs.dtype} of shape {list(self.pairs.shape)}."
            )
        for what, names, count in (("user", self.user_names, self.users), ("item", self.item_names, self.items)):
            if names and len(names) != count:
                raise InputError(f"{len(names)} {what} names for {count} {what}s.")
        if self.about and len(self.about) != len(self.pairs):
            raise InputError(f"{len(self.about)} subjects of erasure for {len(self.pairs)} interactions.")
        for column, (what, count) in enumerate((("user", self.users), ("item", self.items))):
            wrong = (self.pairs[:, column] < 0) | (self.pairs[:, column] >= count)
            if bool(wrong.any()):
                row = int(wrong.nonzero()[0])
                raise InputError(
                    f"Interaction {row + 1}: {what} {int(self.pairs[row, column])} is outside 0 to {count - 1}."
                )
        _refuse_duplicates(self)

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def clusters(self) -> tuple[str, ...]:
        """[n] whose erasure each pair belongs to: `about`, or its user."""
        return self.about or tuple(f"user:{u}" for u in self.pairs[:, 0].tolist())

    @cached_property
    def degrees(self) -> tuple[Tensor, Tensor]:
        """Pairs of each user [users] and of each item [items], int64."""
        users, items = self.pairs.unbind(1)
        return torch.bincount(users, minlength=self.users), torch.bincount(items, minlength=self.items)

    @cached_property
    def _keys(self) -> Tensor:
        return self.pairs[:, 0] * self.items + self.pairs[:, 1]

    def keys(self) -> Tensor:
        """[n] user * items + item: one number for each pair."""
        return self._keys

    @cached_property
    def _mask(self) -> Tensor:
        mask = torch.zeros(self.users, self.items, dtype=torch.bool)
        mask[self.pairs[:, 0], self.pairs[:, 1]] = True
        return mask

    def mask(self) -> Tensor:
        """Bool [users, items], true at the pairs; made once and shared: do not write into it."""
        return self._mask

    def contains(self, pairs: Tensor) -> Tensor:
        """Bool [m]: which of some pairs [m, 2] are among these."""
        return torch.isin(pairs[:, 0] * self.items + pairs[:, 1], self._keys)

    def take(self, rows: Tensor | Sequence[int]) -> Interactions:
        """Some of the pairs in the order given; a bool mask [n] takes those that are true."""
        chosen = torch.as_tensor(rows)
        chosen = chosen.nonzero()[:, 0] if chosen.dtype == torch.bool else chosen.long()
        about = tuple(self.about[i] for i in chosen.tolist()) if self.about else ()
        return replace(self, pairs=self.pairs[chosen], about=about)

    def without(self, other: Interactions) -> Interactions:
        """The pairs that are not in another list, in their order.

        Raises:
            InputError: Another catalogue.
        """
        self.require_catalogue_of(other)
        return self.take(~other.contains(self.pairs))

    def union(self, other: Interactions) -> Interactions:
        """These pairs, then those of another list that are not among them.

        Raises:
            InputError: Another catalogue.
        """
        self.require_catalogue_of(other)
        added = other.without(self)
        about = (*self.clusters, *added.clusters) if self.about or added.about else ()
        return replace(self, pairs=torch.cat([self.pairs, added.pairs]), about=about)

    def require_catalogue_of(self, other: Interactions) -> None:
        """Refuse interactions over another catalogue.

        Raises:
            InputError: Names both sizes.
        """
        if (self.users, self.items) != (other.users, other.items):
            raise InputError(
                f"Interactions over {self.users} users and {self.items} items cannot be combined with interactions "
                f"over {other.users} users and {other.items} items."
            )

    def shown(self, row: int) -> str:
        """One pair as its file calls it."""
        user, item = self.pairs[row].tolist()
        names = self.user_names[user] if self.user_names else user, self.item_names[item] if self.item_names else item
        return f"({names[0]}, {names[1]})"

    @cached_property
    def digest(self) -> str:
        """Content hash: the catalogue's size, the pairs in their order, and whose erasure they belong to."""
        hashed = hashlib.blake2b(digest_size=16)
        hashed.update(f"{self.users} {self.items} ".encode())
        hashed.update(self.pairs.contiguous().numpy().tobytes())
        hashed.update("\0".join(self.about).encode())
        return hashed.hexdigest()


def _refuse_duplicates(interactions: Interactions) -> None:
    keys = interactions.keys()
    order = keys.sort(stable=True).indices
    again = order[1:][keys[order][1:] == keys[order][:-1]].sort().values
    if len(again):
        first = ", ".join(interactions.shown(row) for row in again[:SHOWN].tolist())
        raise InputError(
            f"{len(again)} interaction{'s' if len(again) > 1 else ''} given more than once (user, item): {first}."
        )


def check_features(features: Features, items: int) -> None:
    """Refuse feature tables that do not fit the items.

    Args:
        features: Modality -> [items, F].
        items: Items of the catalogue.

    Raises:
        InputError: A table of another type or number of rows, no columns, or with a number that is not finite.
    """
    for modality, table in features.items():
        if table.ndim != 2 or table.dtype != torch.float32:
            raise InputError(
                f"features {modality!r}: a float32 table [items, F] is needed; found {table.dtype} of shape "
                f"{list(table.shape)}."
            )
        if len(table) != items or table.shape[1] < 1:
            raise InputError(
                f"features {modality!r}: {len(table)} rows of {table.shape[1]} numbers for {items} items; one row for "
                f"each item is needed."
            )
        wrong = ~table.isfinite().all(1)
        if bool(wrong.any()):
            raise InputError(f"features {modality!r}: item {int(wrong.nonzero()[0])} has a number that is not finite.")


def require_subset(part: Interactions, whole: Interactions, where: str) -> None:
    """Refuse pairs that are not among others.

    Args:
        part: The pairs asked about.
        whole: Where they must be.
        where: Words for the message, such as ``"forget: not in the training set"``.

    Raises:
        InputError: Their number and the first three.
    """
    part.require_catalogue_of(whole)
    missing = (~whole.contains(part.pairs)).nonzero()[:, 0]
    if len(missing):
        first = ", ".join(part.shown(row) for row in missing[:SHOWN].tolist())
        raise InputError(f"{where}: {len(missing)} of {len(part)} interactions (user, item): {first}.")


def split_per_user(
    interactions: Interactions, seed: int, *, valid: float = 0.1, test: float = 0.2
) -> tuple[Interactions, Interactions, Interactions]:
    """Divide each user's pairs at random into training, validation and test pairs.

    A user of n pairs gives floor(valid n) and floor(test n) of them away and keeps the rest for training, so that
    nobody is left without any.

    Args:
        interactions: All pairs.
        seed: Draws the division.
        valid: Share of each user's pairs for validation.
        test: Share of each user's pairs for testing.

    Raises:
        InputError: Shares that are negative or leave nothing to train on.
    """
    if valid < 0 or test < 0 or valid + test >= 1:
        raise InputError(f"Shares valid={valid} and test={test} must not be negative and must add up to less than 1.")
    users = interactions.pairs[:, 0]
    order = torch.randperm(len(interactions), generator=torch.Generator().manual_seed(seed))
    order = order[users[order].sort(stable=True).indices]  # users together, each one's pairs shuffled
    count = interactions.degrees[0]
    place = torch.arange(len(order)) - (count.cumsum(0) - count)[users[order]]  # within the user: 0, 1, 2...
    tests = (count * test).floor().long()[users[order]]
    valids = (count * valid).floor().long()[users[order]]
    parts = (place >= tests + valids, (place >= tests) & (place < tests + valids), place < tests)
    train, kept_back, asked = (interactions.take(order[part].sort().values) for part in parts)
    return train, kept_back, asked
