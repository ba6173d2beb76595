"""The evidence store: what one recommender scores every pair of every split, from one propagation kept on disk."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from expunge.errors import InputError
from expunge.recommend.data import Interactions
from expunge.recommend.ranking import Ranking, evaluate, places
from expunge.recommend.subject import Subject

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class EvidenceStore:
    """What one model says about every split."""

    def __init__(
        self,
        name: str,
        subject: Subject | Callable[[], Subject],
        splits: Mapping[str, Interactions],
        folder: Path | None = None,
        *,
        fingerprint: str | None = None,
    ) -> None:
        """Bind a model to the splits.

        Args:
            name: The model's name in the scorecard.
            subject: The model, or what loads it the first time something is missing on disk.
            splits: Named lists of interactions, ``retain`` among them.
            folder: Where vectors are kept; None keeps them in memory only.
            fingerprint: The model's fingerprint if it is known, so that it need not be loaded for it.
        """
        self.name, self._subject, self._splits, self.folder = name, subject, splits, folder
        self._fingerprint = fingerprint
        self._places: dict[tuple[str, bool], Ints] = {}
        self._rankings: dict[tuple[str, bool, int], Ranking] = {}

    @property
    def subject(self) -> Subject:
        """The model, loaded now if it was not."""
        if not isinstance(self._subject, Subject):
            self._subject = self._subject()
        return self._subject

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits there are."""
        return tuple(self._splits)

    def interactions(self, split: str) -> Interactions:
        """The interactions of a split.

        Raises:
            InputError: There is no such split.
        """
        if split not in self._splits:
            raise InputError(f"No split {split!r}; there are {', '.join(self._splits)}.")
        return self._splits[split]

    def users(self, split: str) -> Ints:
        """[n] user of each interaction."""
        return np.asarray(self.interactions(split).pairs[:, 0].numpy())

    def clusters(self, split: str) -> Ints:
        """[n] number of whose erasure each interaction belongs to, by first appearance."""
        numbers: dict[str, int] = {}
        return np.array([numbers.setdefault(c, len(numbers)) for c in self.interactions(split).clusters], np.int64)

    def embeddings(self) -> tuple[Tensor, Tensor]:
        """Vectors of users [users, d] and of items [items, d]."""
        return self._vectors["users"], self._vectors["items"]

    @property
    def catalogue(self) -> Tensor | None:
        """Bool [items]: what the model still offers; None for everything."""
        return self._vectors.get("catalogue")

    @property
    def blocked(self) -> Interactions | None:
        """What is held back from users whatever its score; None for nothing."""
        pairs = self._vectors.get("blocked")
        known = self.interactions("retain")
        return None if pairs is None else Interactions(known.users, known.items, pairs)

    def scores(self, split: str) -> Floats:
        """[n] score of each interaction."""
        users, items = self.interactions(split).pairs.unbind(1)
        z_user, z_item = self.embeddings()
        return np.asarray((z_user[users].double() * z_item[items].double()).sum(1).numpy())

    def masked(self, split: str) -> Interactions:
        """What is left out of a user's ranking when a split is to be found.

        Nothing for ``retain`` itself, what was kept for everything else, and the validation interactions as well for
        those of the test. Forgotten interactions are never left out: they must be found where they still show.
        """
        retain = self.interactions("retain")
        if split == "retain":
            return retain.take([])
        if split in ("test", "holdout") and "valid" in self._splits:
            return retain.union(self.interactions("valid"))
        return retain

    def ranking(self, split: str, k: int) -> Ranking:
        """The first k places of each user of a split, as served; forgotten interactions are looked for everywhere.

        An item that is merely no longer offered has not been forgotten, so ``forget`` is ranked among all items.
        """
        key = (split, split != "forget", k)
        if key not in self._rankings:
            self._rankings[key] = evaluate(self, self.interactions(split), self.masked(split), (k,), served=key[1])
        return self._rankings[key]

    def places(self, split: str, *, served: bool = False) -> Ints:
        """[n] place from 1 of each interaction's item in its user's ranking; see `ranking.places`."""
        if (split, served) not in self._places:
            found = places(self, self.interactions(split), self.masked(split), served=served)
            self._places[split, served] = np.asarray(found.numpy())
        return self._places[split, served]

    def found(self, split: str, k: int, *, served: bool = False) -> Floats:
        """[n] 1 where an interaction's item is among the user's first k."""
        return (self.places(split, served=served) <= k).astype(np.float64)

    @cached_property
    def fingerprint(self) -> str:
        """The model's."""
        return self._fingerprint or self.subject.fingerprint()

    @cached_property
    def _vectors(self) -> dict[str, Tensor]:
        key = f"vectors-{hashlib.blake2b(self.fingerprint.encode(), digest_size=12).hexdigest()}"
        path = self.folder / f"{key}.safetensors" if self.folder else None
        if path and path.exists():
            kept: dict[str, Tensor] = load_file(path)
            return kept
        found = dict(zip(("users", "items"), (z.contiguous() for z in self.subject.embeddings()), strict=True))
        if self.subject.catalogue is not None:
            found["catalogue"] = self.subject.catalogue.cpu()
        if self.subject.blocked is not None:
            found["blocked"] = self.subject.blocked.pairs
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
            save_file(found, temporary)
            os.replace(temporary, path)
        return found


def top_items(store: EvidenceStore, k: int) -> Tensor:
    """[users, k] what each user would be recommended with nothing left out, for users who kept something."""
    z_user, z_item = store.embeddings()
    kept = store.interactions("retain").degrees[0] > 0
    return torch.topk(z_user[kept] @ z_item.T, k, dim=1).indices.sort(dim=1).values
