"""Training in shards and slices, with the state before every slice kept, so that deletion retrains little."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from expunge.engine.training import Training, derive_seed
from expunge.errors import InputError
from expunge.vision.data import Images, concatenate
from expunge.vision.subject import Subject

State = dict[str, Tensor]
Train = Callable[[Subject, Images, Training, int], None]  # in place, with a seed
PREFIX = "state-"  # of file names: nothing else of a folder is ever touched


class States:
    """States of constituents by what they were trained on: in memory, or in a folder."""

    def __init__(self, folder: Path | None = None) -> None:
        """Open a folder of states; None keeps them in memory."""
        self.folder = folder
        self._held: dict[str, State] = {}
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    def __contains__(self, key: str) -> bool:
        return key in self._held if self.folder is None else self._path(key).exists()

    def get(self, key: str) -> State:
        """The state under a key.

        Raises:
            InputError: Its file is damaged.
        """
        if self.folder is None:
            return self._held[key]
        try:
            state: State = load_file(self._path(key))
        except (SafetensorError, OSError) as error:
            raise InputError(
                f"{self._path(key)}: not a stored state ({str(error).splitlines()[0]}); delete it."
            ) from None
        return state

    def put(self, key: str, state: State) -> None:
        """Keep a state."""
        state = {n: v.detach().cpu().clone() for n, v in state.items()}
        if self.folder is None:
            self._held[key] = state
            return
        part = self._path(key).with_suffix(".part")
        save_file(state, part)
        part.replace(self._path(key))

    def keep_only(self, keys: set[str], family: str) -> None:
        """Drop every other state of a family, the first part of its keys: those that have seen what was deleted."""
        gone = [k for k in self.keys() if k.startswith(f"{family}-") and k not in keys]
        for key in gone:
            if self.folder is None:
                del self._held[key]
            else:
                self._path(key).unlink()

    def keys(self) -> list[str]:
        """What is kept."""
        if self.folder is None:
            return sorted(self._held)
        return sorted(p.stem.removeprefix(PREFIX) for p in self.folder.glob(f"{PREFIX}*.safetensors"))

    def _path(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{PREFIX}{key}.safetensors"


@dataclass
class Shards:
    """Constituents trained on shards of the images, slice after slice.

    Shard and slice of an image are a hash of the seed and of the image alone, and images of a shard are trained on in
    the order of their hashes. So neither depends on which other images there are: training on what is left after a
    deletion asks for the very states that the deletion left untouched.

    Attributes:
        shards: S.
        slices: R.
        training: Of one constituent on one slice count; its `epochs` are e, the passes of plain training at the same
            cost, of which every slice gets e_r = 2e / (R + 1).
        seed: Draws shards, slices and batches.
        base: Makes the untrained classifier.
        train: Trains in place.
        states: What is already trained; None keeps nothing.
        by: What is kept in one shard and slice: an ``image``, or everything of an ``identity``.
        trained: (shard, slice) of what had to be trained, over all calls.
    """

    shards: int
    slices: int
    training: Training
    seed: int
    base: Callable[[], Subject]
    train: Train
    states: States | None = None
    by: Literal["image", "identity"] = "image"
    trained: list[tuple[int, int]] = field(default_factory=list)

    def fit(self, images: Images) -> list[Subject]:
        """Constituents trained on some images, from stored states as far as there are any.

        After it the store holds the states of these images alone. A shard without images gives no constituent.
        """
        needed: set[str] = set()
        found = [self._constituent(shard, slices, needed) for shard, slices in enumerate(self.assign(images))]
        if self.states is not None:
            self.states.keep_only(needed, self._family)
        return [subject for subject in found if subject is not None]

    def assign(self, images: Images) -> list[list[Images]]:
        """Images of every slice of every shard, in the order of their hashes."""
        places: list[list[list[tuple[bytes, int]]]] = [[[] for _ in range(self.slices)] for _ in range(self.shards)]
        for i, row in enumerate(images.rows.tolist()):
            own = images.source.digest(row) + images.names[i].encode()
            unit = images.clusters[i].encode() if self.by == "identity" and images.clusters[i] else own
            drawn = int.from_bytes(hashlib.blake2b(b"%d %b" % (self.seed, unit), digest_size=16).digest(), "big")
            shard, slice_ = drawn % self.shards, drawn // self.shards % self.slices
            places[shard][slice_].append((own, i))
        return [[images.take([i for _, i in sorted(part)]) for part in shard] for shard in places]

    def _constituent(self, shard: int, slices: list[Images], needed: set[str]) -> Subject | None:
        if not any(len(part) for part in slices):
            return None
        subject, states = self.base(), self.states
        steps = list(self._steps(shard, slices))
        needed.update(key for key, _ in steps)
        done = max((r for r, (key, _) in enumerate(steps) if states is not None and key in states), default=-1)
        if states is not None and done >= 0:
            subject.model.load_state_dict(states.get(steps[done][0]))
        for r, (key, part) in enumerate(steps[done + 1 :], done + 1):
            if len(part):
                self.train(subject, part, self._training, derive_seed(self.seed, "sisa", shard, r))
                self.trained.append((shard, r))
            if states is not None:
                states.put(key, subject.model.state_dict())
        subject.model.eval()
        return subject

    @property
    def _training(self) -> Training:
        return replace(self.training, epochs=slice_passes(self.training.epochs, self.slices), steps=None)

    @cached_property
    def _family(self) -> str:
        """Names everything a state depends on but its images."""
        made = [self.base().fingerprint(), self.seed, self.shards, self.slices, self.by, asdict(self._training)]
        return hashlib.blake2b(json.dumps(made, sort_keys=True).encode(), digest_size=8).hexdigest()

    def _steps(self, shard: int, slices: list[Images]) -> Iterator[tuple[str, Images]]:
        """For each slice the key of the state after it, and the images up to it."""
        seen = f"{shard}"
        for r, part in enumerate(slices):
            seen = hashlib.blake2b(f"{seen} {part.digest}".encode(), digest_size=16).hexdigest()
            yield f"{self._family}-{seen}", concatenate(slices[: r + 1])


def slice_passes(epochs: float, slices: int) -> float:
    """e_r = 2e / (R + 1): passes over each growing part that cost together what e passes over the whole do.

    >>> slice_passes(10, 4) * (1 + 2 + 3 + 4) / 4
    10.0
    """
    return 2 * epochs / (slices + 1)


def expected_shards(shards: int, requests: int) -> float:
    """Shards touched on average by requests that fall on them uniformly: S (1 - (1 - 1/S)^K).

    >>> expected_shards(4, 1), expected_shards(2, 2)
    (1.0, 1.5)
    """
    return float(shards * (1 - (1 - 1 / shards) ** requests))
