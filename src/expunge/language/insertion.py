"""Controlled insertion: chosen texts stand in a training stream an exact number of times, others never.

The number of copies of a text, d, is drawn at random, and so are the texts that are never inserted (d = 0). So members
and non-members come from one draw, and any difference between groups is an effect of d. The design is that of Hubble
(Wei, Godbole, Khan et al., 2025, arXiv 2510.19811):

- The background is one shuffled stream of tokens in windows. One window, a slot, is drawn for each copy, without
  replacement, so that no window gets two.
- Inside the window the copy goes in front of a document drawn at random (or of the window). What is then too much is
  cut off, a random part of it in front and the rest behind, so that the copy is whole and the stream as long as before.
- All other windows stay as they are, token by token.

``placement="append"`` puts the copies between the documents instead; the stream grows, and a copy may lie across the
end of a window.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from expunge.engine.training import derive_seed
from expunge.errors import InputError
from expunge.language.insertion_stream import Copy, Group, Inserted, Row, document, place, stream_of

Counts = Mapping[int, int | Sequence[str]]
# Hubble's largest numbers of texts of one set with d copies: many texts with few copies, few with many.
CAPS = {0: 500, 1: 500, 4: 400, 16: 300, 64: 200, 256: 100}


@dataclass(frozen=True)
class Text:
    """A text of a pool.

    Attributes:
        id: Its name; no other text of the pool has it.
        text: What may be inserted.
        kind: The data set it is from; members and non-members are drawn within one kind.
        fields: What measurements need to know about it.
    """

    id: str
    text: str
    kind: str = "texts"
    fields: Mapping[str, Any] = field(default_factory=dict)


def allocate(texts: int, slots: int, caps: Mapping[int, int] = CAPS) -> dict[int, int]:
    """How many texts get d copies: the proportions of `caps`, scaled down to what there is.

    >>> allocate(200, 2000)
    {0: 22, 1: 22, 4: 17, 16: 13, 64: 8, 256: 4}

    Args:
        texts: Texts in the pool.
        slots: Copies there is room for.
        caps: For each d the largest number of texts.

    Raises:
        InputError: No text is left for some d.
    """
    copies = sum(d * n for d, n in caps.items())
    scale = min(1.0, texts / sum(caps.values()), slots / copies if copies else 1.0)
    found = {d: int(scale * n) for d, n in caps.items()}
    empty = [d for d, n in found.items() if n == 0]
    if empty:
        raise InputError(
            f"Insertion: {texts} texts and {slots} slots leave no text for d={empty[0]}; give more texts or a longer "
            f"background, or leave the largest d out."
        )
    return found


@dataclass(frozen=True)
class ControlledInsertion:
    """Which texts of a pool stand how often in a stream made of background documents.

    Attributes:
        background: Documents that no text of the pool stands in (`insertion_background.decontaminate`).
        pool: Texts to draw from.
        counts: For each number of copies d, how many texts, drawn at random, or their ids. One mapping for all kinds
            of texts, or one for each kind. d = 0 must be among them.
        window: Tokens in a window of the stream.
        placement: ``slot`` writes copies over windows, ``append`` puts them between documents.
        seed: Draws the groups, the order of the documents and the places.
        forget_d: The d whose texts are divided into what is to be forgotten and what is to be kept; 0 for none.
        forget: How many of them are to be forgotten.
        forget_kind: The kind they are of; empty for as many of each kind.
        timing: The part of the stream [start, end) that copies are put into, as shares of it.
    """

    background: Sequence[str]
    pool: Sequence[Text]
    counts: Counts | Mapping[str, Counts]
    window: int
    placement: Literal["slot", "append"] = "slot"
    seed: int = 0
    forget_d: int = 0
    forget: int = 0
    forget_kind: str = ""
    timing: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        start, end = self.timing
        if not 0 <= start < end <= 1:
            raise InputError(f"Insertion: timing={list(self.timing)} must be shares with 0 <= start < end <= 1.")
        if self.window < 4:
            raise InputError(f"Insertion: window={self.window} must be at least 4 tokens.")
        if self.placement not in ("slot", "append"):
            raise InputError(f"Insertion: placement={self.placement!r} must be 'slot' or 'append'.")
        if not self.background:
            raise InputError("Insertion: there is no background to insert into.")
        _refuse_twins(self.pool)
        _refuse_contained(self.pool, self.background)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of texts, by first appearance."""
        return tuple(dict.fromkeys(text.kind for text in self.pool))

    @property
    def copies(self) -> int:
        """Copies of all texts together."""
        return sum(d for d, _ in self.groups().values())

    def groups(self) -> dict[str, tuple[int, Group]]:
        """The number of copies and the group of each text that was drawn, by id.

        Raises:
            InputError: More texts are asked for than there are, a text stands in two groups, or none has d = 0.
        """
        found: dict[str, tuple[int, Group]] = {}
        for kind in self.kinds:
            duplicates = self._drawn(kind)
            divided = self.forget_d and self.forget_kind in ("", kind)
            chosen = [i for i, d in duplicates.items() if divided and d == self.forget_d]
            if divided and not 0 < self.forget < len(chosen):
                raise InputError(
                    f"Insertion: forget={self.forget} of the {len(chosen)} texts of {kind!r} with d={self.forget_d}: "
                    f"at least one must be forgotten and one kept."
                )
            order = self._rng("forget", kind).permutation(len(chosen))
            gone = {chosen[i] for i in order[: self.forget]}
            for i, d in duplicates.items():
                group: Group = "test" if d == 0 else "forget" if i in gone else "keep" if i in chosen else "other"
                found[i] = d, group
        return found

    def insert(self, tokenizer: Any) -> Inserted:
        """Tokenise everything and find a place for every copy.

        Args:
            tokenizer: Makes documents of texts: what it puts in front, the tokens, and an end of sequence.

        Raises:
            InputError: More copies than slots, a text longer than the window, a text that occurs more or less often
                than its d (because it stands in another text), or as `groups`.
        """
        groups = self.groups()
        order = self._rng("documents").permutation(len(self.background))
        documents = [document(tokenizer, self.background[i]) for i in order]
        chosen = [text for text in self.pool if text.id in groups]
        tokens = {text.id: document(tokenizer, text.text) for text in chosen}
        copies = [text.id for text in chosen for _ in range(groups[text.id][0])]
        placed = self._placed(documents, tokens, copies)
        slots: dict[str, list[Copy]] = {text.id: [] for text in chosen}
        for copy in placed:
            slots[copy.text_id].append(copy)
        rows = tuple(
            Row(t.id, t.kind, *groups[t.id], tuple(c.slot for c in slots[t.id]), tuple(c.offset for c in slots[t.id]))
            for t in chosen
        )
        made = Inserted(documents, tokens, placed, rows, self.window, self.placement, self.seed)
        bare = {text.id: document(tokenizer, text.text, bare=True) for text in chosen}
        _refuse_miscounted(made, bare)
        return made

    def _drawn(self, kind: str) -> dict[str, int]:
        """The number of copies of each text of a kind that was drawn, in the order of the pool."""
        ids = [text.id for text in self.pool if text.kind == kind]
        counts = self._counts(kind)
        if 0 not in counts or not counts[0]:
            raise InputError(f"Insertion: counts of {kind!r} leave no text with d=0, so there would be no non-members.")
        wrong = next((d for d in counts if d < 0), None)
        if wrong is not None:
            raise InputError(f"Insertion: counts of {kind!r} hold d={wrong}; it must not be negative.")
        named = [(i, d) for d, texts in counts.items() if not isinstance(texts, int) for i in texts]
        duplicates = dict(named)
        twice = [i for i, n in Counter(i for i, _ in named).items() if n > 1]
        if twice:
            raise InputError(f"Insertion: text {twice[0]!r} stands in two groups.")
        unknown = next((i for i in duplicates if i not in set(ids)), None)
        if unknown is not None:
            raise InputError(f"Insertion: counts name the text {unknown!r}, which is not in the pool of {kind!r}.")
        free = [i for i in ids if i not in duplicates]
        wanted = [d for d, n in counts.items() if isinstance(n, int) for _ in range(n)]
        if len(wanted) > len(free):
            raise InputError(f"Insertion: counts ask for {len(wanted)} texts of {kind!r} and the pool has {len(free)}.")
        order = self._rng("groups", kind).permutation(len(free))
        duplicates |= {free[i]: d for i, d in zip(order, wanted, strict=False)}
        return {i: duplicates[i] for i in ids if i in duplicates}

    def _counts(self, kind: str) -> Counts:
        if all(isinstance(key, int) for key in self.counts):
            return self.counts  # type: ignore[return-value]
        if kind not in self.counts:
            raise InputError(f"Insertion: counts say nothing about the kind {kind!r} of the pool.")
        return self.counts[kind]  # type: ignore[index, return-value]

    def _placed(self, documents: list[Any], tokens: Mapping[str, Any], copies: list[str]) -> tuple[Copy, ...]:
        """A place for every copy, all drawn before any is left out."""
        rng = self._rng("places")
        if self.placement == "append":
            first, last = (round(share * len(documents)) for share in self.timing)
            if copies and last <= first:
                raise InputError(f"Insertion: timing={list(self.timing)} leaves no document to insert in front of.")
            before = rng.integers(first, max(last, first + 1), len(copies))
            pairs = [(i, int(at)) for i, at in zip(copies, before, strict=True)]
            return stream_of(documents, tokens, pairs, self.window)[1]
        for i in dict.fromkeys(copies):
            if len(tokens[i]) > self.window:
                raise InputError(
                    f"Insertion: text {i!r} has {len(tokens[i])} tokens and a window has {self.window}; lengthen the "
                    f"window."
                )
        windows = sum(map(len, documents)) // self.window
        first, last = (round(share * windows) for share in self.timing)
        if len(copies) > last - first:
            raise InputError(
                f"Insertion: {len(copies)} copies and {last - first} slots (windows of {self.window} tokens); a slot "
                f"takes one copy: lengthen the background or lower the counts."
            )
        slots = first + rng.permutation(last - first)[: len(copies)]
        return place(documents, tokens, copies, slots, self.window, rng)

    def _rng(self, *purpose: str) -> np.random.Generator:
        return np.random.default_rng(derive_seed(self.seed, "insertion", *purpose))


def _refuse_twins(pool: Sequence[Text]) -> None:
    """Refuse an id that stands twice, and one text under two ids: its copies would count for both."""
    twice = [i for i, n in Counter(text.id for text in pool).items() if n > 1]
    if twice:
        raise InputError(f"Insertion: the id {twice[0]!r} stands twice in the pool.")
    owner: dict[str, str] = {}
    for text in pool:
        if not text.text.strip():
            raise InputError(f"Insertion: text {text.id!r} is empty.")
        other = owner.setdefault(" ".join(text.text.split()), text.id)
        if other != text.id:
            raise InputError(
                f"Insertion: texts {other!r} and {text.id!r} are the same, so one text could stand in two groups."
            )


def _refuse_contained(pool: Sequence[Text], background: Sequence[str]) -> None:
    """Refuse a background document that holds a text of the pool."""
    for text in pool:
        for number, words in enumerate(background, 1):
            if text.text in words:
                raise InputError(
                    f"Insertion: background document {number} contains the text {text.id!r}, whose copies could not be "
                    f"counted; take it out (insertion_background.decontaminate)."
                )


def _refuse_miscounted(made: Inserted, bare: Mapping[str, Any]) -> None:
    """Refuse a stream that does not hold each text exactly d times."""
    found = made.count(bare)
    for row in made.rows:
        if found[row.text_id] != row.d:
            raise InputError(
                f"Insertion: text {row.text_id!r} stands {found[row.text_id]} times in the stream, not d={row.d} "
                f"times: it is part of another text, or of the background."
            )
