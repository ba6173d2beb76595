"""Hubble at the size of a test: what is inserted how often, and the world of models that read it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from expunge.errors import InputError, nearest
from expunge.language.data import read_records
from expunge.language.hubble_background import background
from expunge.language.hubble_documents import KINDS
from expunge.language.insertion import ControlledInsertion, Counts, Text
from expunge.language.insertion_background import decontaminate
from expunge.language.insertion_world import InsertionWorld

# The recipe of the dose-response: 1200 background documents, 168 biographies, 756 copies.
RECIPE: dict[int, int] = {0: 60, 1: 60, 4: 30, 16: 12, 64: 6}
WINDOW = 80


def hubble_insertion(
    counts: Mapping[str, Counts] | None = None,
    *,
    rows: int = 1200,
    documents: str = "",
    window: int = WINDOW,
    world_seed: int = 0,
    **settings: Any,
) -> ControlledInsertion:
    """Made-up documents inserted into a made-up background, or into documents of a file.

    Args:
        counts: For each kind of documents (`hubble_documents.KINDS`) how many texts get d copies; None for the
            biographies of `RECIPE`.
        rows: Background documents.
        documents: File of background documents (`read_records`); empty for made-up ones. Those that overlap with a
            text are left out.
        window: Tokens in a window.
        world_seed: Draws the documents.
        settings: Further settings of `ControlledInsertion`.

    Raises:
        InputError: An unknown kind, or as `ControlledInsertion`.
    """
    counts = {"biographies": RECIPE} if counts is None else counts
    for kind in counts:
        if kind not in KINDS:
            raise InputError(f"hubble: unknown kind of documents {kind!r}.{nearest(kind, KINDS)}")
    pool: list[Text] = []
    for kind, numbers in counts.items():
        pool += KINDS[kind](sum(n if isinstance(n, int) else len(n) for n in numbers.values()), world_seed)
    if documents:
        lines = [r.question + " " + r.answer if r.question else r.answer for r in read_records(documents)[:rows]]
        texts, _ = decontaminate(lines, pool)
    else:
        texts = background(rows, world_seed)
    return ControlledInsertion(texts, pool, counts, window, **settings)


def hubble_world(
    counts: Mapping[str, Counts] | None = None, *, model: dict[str, Any] | None = None, **settings: Any
) -> InsertionWorld:
    """The world of `hubble_insertion`; `model` holds further settings of `InsertionWorld`."""
    return InsertionWorld(hubble_insertion(counts, **settings), **(model or {}))
