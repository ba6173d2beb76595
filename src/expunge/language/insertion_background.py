"""Decontamination: no background document may hold a text that is inserted, or a good part of one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from expunge.language.insertion import Text

SHORTEST, SHORT = 10, 40  # units: texts below the first are skipped, up to the second they must match as a whole


def decontaminate(
    background: Sequence[str],
    texts: Sequence[Text],
    *,
    units: Callable[[str], Sequence[Any]] = str.split,
    shortest: int = SHORTEST,
    short: int = SHORT,
) -> tuple[list[str], dict[str, list[int]]]:
    """Leave out the documents that overlap with a text.

    A text of n units with fewer than `shortest` is not looked for (it would be found everywhere), one of up to `short`
    is looked for as a whole, and of a longer one every n-gram of n/2 units that begins at a multiple of n/4: three
    quarters of a text in one piece are always found, less than half of it never.

    Args:
        background: Documents.
        texts: What is to be inserted.
        units: Splits a text. Hubble counts tokens; words do not depend on what stands in front of them.
        shortest: Units of the shortest text that is looked for.
        short: Units of the longest text that is looked for as a whole.

    Returns:
        The documents without overlap, in their order, and for each text that overlaps the numbers of the documents it
        overlaps with, from 0. A test item can also be drawn anew instead.
    """
    grams = [(gram, text.id) for text in texts for gram in _grams(tuple(units(text.text)), shortest, short)]
    if not grams:
        return list(background), {}
    head = min(len(gram) for gram, _ in grams)
    index: dict[tuple[Any, ...], list[tuple[tuple[Any, ...], str]]] = {}
    for gram, owner in grams:
        index.setdefault(gram[:head], []).append((gram, owner))
    found: dict[str, list[int]] = {}
    clean = []
    for number, document in enumerate(background):
        words = tuple(units(document))
        seen = {
            owner
            for at in range(len(words) - head + 1)
            for gram, owner in index.get(words[at : at + head], ())
            if words[at : at + len(gram)] == gram
        }
        for owner in seen:
            found.setdefault(owner, []).append(number)
        if not seen:
            clean.append(document)
    return clean, found


def _grams(words: tuple[Any, ...], shortest: int, short: int) -> list[tuple[Any, ...]]:
    """What is looked for of a text."""
    n = len(words)
    if n < shortest:
        return []
    if n <= short:
        return [words]
    half, stride = n // 2, max(1, n // 4)
    return [words[at : at + half] for at in range(0, n - half + 1, stride)]
