"""Blocks of text and their translations, token by token."""

from __future__ import annotations

from typing import NamedTuple

from expunge.errors import InputError
from expunge.language.alignment import align, token_ranges
from expunge.language.anchors import Anchors
from expunge.language.subject import Subject
from expunge.language.text_blocks import Block, beginnings, context, tokenise


class Aligned(NamedTuple):
    """One block and one translation of it, as token positions.

    Attributes:
        ids: Token ids of the translation.
        pairs: (i, j), see `align`.
        used: (j, token): from position j of the translation on, a substitute that begins with `token` has been used.
    """

    ids: list[int]
    pairs: list[tuple[int, int]]
    used: list[tuple[int, int]]


def translate_block(subject: Subject, block: Block, anchors: Anchors, draw: int) -> Aligned:
    """Translate one block and align the two texts.

    Args:
        subject: Whose tokenizer and context are used; a translation longer than the context is cut.
        block: The block.
        anchors: The dictionary.
        draw: Which substitutes (`Anchors.translate`).

    Raises:
        InputError: Nothing aligns.
    """
    translation, limit = anchors.translate(block.text, draw), context(subject)
    room = limit if block.ended else 0
    ids, offsets, _ = tokenise(subject.tokenizer, translation.text, special=block.special, room=room, limit=limit)
    old = token_ranges(block.offsets, [(r.start, r.end) for r in translation.replaced])
    new = token_ranges(offsets, [(r.new_start, r.new_end) for r in translation.replaced])
    both = min(len(old), len(new))
    limits = (
        old[both][0] if both < len(old) else len(block.ids),
        new[both][0] if both < len(new) else len(ids),
    )
    try:
        pairs = align(block.ids, ids, list(zip(old[:both], new[:both], strict=True)), limits=limits)
    except InputError as error:
        raise InputError(f"forget record {block.record + 1}: {error}") from None
    since: dict[str, int] = {}
    used: set[tuple[int, int]] = set()
    for replaced, (first, end) in zip(translation.replaced, new, strict=False):
        begins = {ids[first]} if end > first else set()
        if replaced.key not in since:
            begins |= beginnings(subject.tokenizer, translation.text[replaced.new_start : replaced.new_end])
        used |= {(since.setdefault(replaced.key, end - 1), token) for token in begins}
    return Aligned(ids, pairs, sorted(used))


def repeated_starts(block: Block, anchors: Anchors) -> set[int]:
    """Positions whose next token begins an anchor that stood in the block before.

    With a label there the model would learn that a name is followed by other names.
    """
    replaced = anchors.translate(block.text).replaced
    ranges = token_ranges(block.offsets, [(r.start, r.end) for r in replaced])
    seen: set[str] = set()
    found = set()
    for r, (first, _) in zip(replaced, ranges, strict=False):
        if r.key in seen:
            found.add(first - 1)
        seen.add(r.key)
    return found
