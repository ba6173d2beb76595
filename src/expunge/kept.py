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
