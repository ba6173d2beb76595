"""Negative items: what a user is told they do not want."""

from __future__ import annotations

import torch
from torch import Tensor

from expunge.errors import InputError
from expunge.recommend.data import Interactions

MATRIX = 2**28  # largest users x items that a bool matrix is kept for; beyond it pairs are looked up in a sorted list
ROUNDS = 16  # rejection rounds before the few users who have seen almost everything are drawn exactly


class Negatives:
    """Draws items uniformly from the catalogue without what each user has seen."""

    def __init__(self, seen: Interactions | Tensor, catalogue: Tensor | None = None) -> None:
        """Bind what is not to be drawn.

        Args:
            seen: What each user has: interactions, or bool [users, items].
            catalogue: Bool [items], the items that may be drawn; None for all.

        Raises:
            InputError: The catalogue is empty or of another length.
        """
        if isinstance(seen, Tensor):
            self.users, self.items = seen.shape
        else:
            self.users, self.items = seen.users, seen.items
        if catalogue is None:
            catalogue = torch.ones(self.items, dtype=torch.bool)
        if len(catalogue) != self.items:
            raise InputError(f"The catalogue marks {len(catalogue)} items; there are {self.items}.")
        self.choices = catalogue.nonzero()[:, 0]
        self._catalogue = catalogue
        self._mask, self._keys = _lookup(seen)
        self._free = len(self.choices) - self._seen_in_catalogue(seen)

    def _seen_in_catalogue(self, seen: Interactions | Tensor) -> Tensor:
        if isinstance(seen, Tensor):
            return (seen & self._catalogue).sum(1)
        users, items = seen.pairs.unbind(1)
        return torch.bincount(users[self._catalogue[items]], minlength=self.users)

    def draw(self, users: Tensor, generator: torch.Generator) -> Tensor:
        """One negative item for each user.

        Args:
            users: int64 [b].
            generator: Makes the draws.

        Returns:
            int64 [b] items.

        Raises:
            InputError: A user has seen the whole catalogue.
        """
        full = users[self._free[users] <= 0]
        if len(full):
            raise InputError(f"User {int(full[0])} has every item of the catalogue: no negative is left to draw.")
        items = self._any(len(users), generator)
        wrong = self._seen(users, items).nonzero()[:, 0]
        for _ in range(ROUNDS):
            if not len(wrong):
                return items
            items[wrong] = self._any(len(wrong), generator)
            wrong = wrong[self._seen(users[wrong], items[wrong])]
        for row in wrong.tolist():  # has seen nearly all: choose among what is left
            items[row] = self._exactly(users[row], generator)
        return items

    def _any(self, count: int, generator: torch.Generator) -> Tensor:
        return self.choices[torch.randint(len(self.choices), (count,), generator=generator)]

    def _exactly(self, user: Tensor, generator: torch.Generator) -> Tensor:
        left = self.choices[~self._seen(user.expand(len(self.choices)), self.choices)]
        return left[torch.randint(len(left), (), generator=generator)]

    def _seen(self, users: Tensor, items: Tensor) -> Tensor:
        if self._mask is not None:
            return self._mask[users * self.items + items]
        keys = users * self.items + items
        place = torch.searchsorted(self._keys, keys).clamp_max(len(self._keys) - 1)
        return self._keys[place] == keys


def _lookup(seen: Interactions | Tensor) -> tuple[Tensor | None, Tensor]:
    """A flat bool matrix where it is small enough, and sorted keys otherwise."""
    none = torch.tensor([-1])
    if isinstance(seen, Tensor):
        return seen.flatten(), none
    if seen.users * seen.items <= MATRIX:
        return seen.mask().flatten(), none
    return None, torch.cat([none, seen.keys().sort().values])
