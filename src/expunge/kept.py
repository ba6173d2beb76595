"""Models filed under a key of everything they depend on, made when they are not there."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expunge.engine.loop import Observers

NOTE = "expunge.json"  # how a kept model is fed; it is written last, so a folder that has it is complete
# Part of every key: raise it when a change alters what training produces.
FORMAT = 1


@dataclass(frozen=True)
class ModelRef:
    """A model that can be loaded when somebody needs it.

    Attributes:
        load: Loads a fresh copy: the wing's `Subject`.
        folder: Where it lies, if expunge keeps it.
    """

    load: Callable[[], Any]
    folder: Path | None = None


def key_of(*parts: Any) -> str:
    """Content key of JSON-able parts."""
    text = json.dumps([FORMAT, *parts], sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def put(subject: Any, folder: Path, card: str, note: dict[str, Any]) -> None:
    """Write a subject into a folder in one step: what stood there stands until the new one is complete."""
    for old in folder.parent.glob(f"{folder.name}.tmp*"):
        if not _alive(old.name.rpartition(".tmp")[2]):
            shutil.rmtree(old, ignore_errors=True)  # what a killed process left
    temporary = folder.with_name(f"{folder.name}.tmp{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    subject.save(temporary, card)
    (temporary / NOTE).write_text(json.dumps(note), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(temporary, folder)


def _alive(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True


class Shelf:
    """The models a run prepares, each in a folder of the cache; a wing's `Models` makes and loads them."""

    def __init__(
        self,
        spec: Any,
        cache: Path,
        *,
        seed: int,
        observers: Callable[[str], Observers | None] = lambda _: None,
        note: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Bind a model specification to a cache.

        Args:
            spec: The model the recipe names: the wing's `ModelSpec`.
            cache: Folder for prepared models.
            seed: The run's seed.
            observers: Given a title, what looks on while that model trains.
            note: Told what the reader of the report should know.
        """
        self.spec, self.cache, self.seed = spec, cache, seed
        self.observers, self.note = observers, note

    def adapted(self, subject: Any, seed: int) -> Any:
        """The subject as a method trains it: whole, unless the wing knows adapters."""
        return subject

    def ref(self, folder: Path) -> ModelRef:
        """A kept model, by its folder."""
        raise NotImplementedError

    def feeding(self, subject: Any) -> dict[str, Any]:
        """How a kept model is fed: plain data filed beside its weights."""
        raise NotImplementedError

    def part(self, key: str) -> Path:
        """Where the training of a kept model is checkpointed."""
        return self.cache / f"{key}.training"

    def keep(self, key: str, make: Callable[[], Any], title: str) -> ModelRef:
        """The model filed under a key, made now if it is not there."""
        folder = self.cache / key
        if not (folder / NOTE).exists():
            subject = make()
            put(subject, folder, f"# {title}\n\nPrepared by expunge.\n", self.feeding(subject))
            shutil.rmtree(self.part(key), ignore_errors=True)
        return self.ref(folder)

    def resumed(self, title: str, step: int | None) -> None:
        """Tell the reader of the report that a training did not go straight through."""
        if step is not None:
            self.note(f"{title}: stopped earlier, resumed from the checkpoint at step {step}.")
