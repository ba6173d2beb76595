"""The stream that controlled insertion makes: where every copy stands, with all copies or without some."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from expunge.errors import InputError
from expunge.language.encode import Encoded

Tokens = NDArray[np.int64]
Group = Literal["test", "forget", "keep", "other"]


@dataclass(frozen=True)
class Copy:
    """Where one copy of a text stands.

    Attributes:
        text_id: The text.
        slot: Window of the stream its first token is in.
        offset: Place of that token in the window.
        length: Tokens of the copy.
        position: Where it was put into the untouched window (slots), or the document it stands in front of.
        front: Tokens cut off at the front of the window to make room; the rest was cut off behind.
    """

    text_id: str
    slot: int
    offset: int
    length: int
    position: int
    front: int = 0


@dataclass(frozen=True)
class Row:
    """One text of the manifest.

    Attributes:
        text_id: The text.
        kind: Its data set.
        d: How many copies of it there are.
        group: ``test`` (d = 0), ``forget`` and ``keep`` (drawn from one d), ``other``.
        slots: Windows of its copies.
        offsets: Where they begin in those windows.
    """

    text_id: str
    kind: str
    d: int
    group: Group
    slots: tuple[int, ...]
    offsets: tuple[int, ...]


@dataclass(frozen=True)
class Inserted:
    """A stream with its manifest. Tokens are made on demand, with all copies or without those of some texts.

    Attributes:
        documents: Tokens of the background documents, in the order of the stream.
        tokens: Tokens of each text as a document.
        copies: Where each copy stands.
        rows: The manifest, one row for each text that was drawn.
        window: Tokens in a window.
        placement: ``slot`` or ``append``.
        seed: What drew it.
    """

    documents: list[Tokens]
    tokens: Mapping[str, Tokens]
    copies: tuple[Copy, ...]
    rows: tuple[Row, ...]
    window: int
    placement: str
    seed: int

    def ids(self, *, d: int | None = None, group: Group | None = None, kind: str | None = None) -> list[str]:
        """Ids of the texts of a d, a group or a kind."""
        wanted = [r for r in self.rows if d in (None, r.d) and group in (None, r.group) and kind in (None, r.kind)]
        return [r.text_id for r in wanted]

    def members(self, d: int, kind: str | None = None) -> list[str]:
        """Ids of the texts that stand d times in the stream."""
        return self.ids(d=d, kind=kind)

    def nonmembers(self, kind: str | None = None) -> list[str]:
        """Ids of the texts that were drawn from the same pool and never inserted."""
        return self.ids(d=0, kind=kind)

    def stream(self, without: Iterable[str] = ()) -> Tokens:
        """Tokens of the stream; the copies of the texts in `without` are left out, and where they would stand is
        what stood there before (slots) or nothing.
        """
        left_out = set(without)
        kept = [copy for copy in self.copies if copy.text_id not in left_out]
        if self.placement == "append":
            return stream_of(self.documents, self.tokens, [(c.text_id, c.position) for c in kept], self.window)[0]
        stream = np.concatenate(self.documents)
        for copy in kept:
            here = slice(copy.slot * self.window, (copy.slot + 1) * self.window)
            stream[here] = spliced(stream[here], self.tokens[copy.text_id], copy.position, copy.front)
        return stream

    def standard(self) -> Tokens:
        """Tokens of the stream without any copy."""
        return self.stream({copy.text_id for copy in self.copies})

    def windows(self, without: Iterable[str] = ()) -> Encoded:
        """The stream as training rows of one window each; all tokens but the first of a window are labels.

        A last window that is not full is a shorter row; one of a single token, which has nothing to predict, is left
        out.
        """
        stream = self.stream(without)
        if len(stream) % self.window == 1:
            stream = stream[:-1]
        starts = np.append(np.arange(0, len(stream), self.window), len(stream))
        ones = torch.ones(len(starts) - 1, dtype=torch.long)
        return Encoded(torch.from_numpy(stream.copy()), torch.from_numpy(starts), ones)

    def count(self, needles: Mapping[str, Tokens], without: Iterable[str] = ()) -> dict[str, int]:
        """How often each sequence of tokens occurs in the stream."""
        haystack = self.stream(without).astype(np.int32).tobytes()
        return {name: _occurrences(haystack, needle.astype(np.int32).tobytes()) for name, needle in needles.items()}

    def save(self, folder: Path) -> None:
        """Write ``manifest.json`` (a row for each text) and ``copies.jsonl`` (a line for each copy)."""
        folder.mkdir(parents=True, exist_ok=True)
        head = {"window": self.window, "placement": self.placement, "seed": self.seed}
        manifest = {**head, "rows": [asdict(row) for row in self.rows]}
        lines = "".join(json.dumps(asdict(copy)) + "\n" for copy in self.copies)
        for name, text in (("manifest.json", json.dumps(manifest, indent=1) + "\n"), ("copies.jsonl", lines)):
            temporary = folder / f"{name}.{os.getpid()}.tmp"
            temporary.write_text(text, encoding="utf-8")
            os.replace(temporary, folder / name)


def load_manifest(path: Path) -> list[Row]:
    """The rows of a manifest.

    Raises:
        InputError: No such file, or not a manifest.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        rows = [Row(**{**row, "slots": tuple(row["slots"]), "offsets": tuple(row["offsets"])}) for row in raw["rows"]]
    except FileNotFoundError:
        raise InputError(f"{path}: no manifest there.") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, TypeError, KeyError) as error:
        raise InputError(f"{path}: not a manifest of inserted texts ({type(error).__name__}).") from None
    return rows


def document(tokenizer: Any, text: str, *, bare: bool = False) -> Tokens:
    """Tokens of a text as a document of the stream: with what the tokenizer puts in front, and an end of sequence.

    Args:
        tokenizer: A Hugging Face tokenizer.
        text: The text.
        bare: Leave both out.

    Raises:
        InputError: The tokenizer has no end-of-sequence token.
    """
    if tokenizer.eos_token_id is None:
        raise InputError("The tokenizer has no end-of-sequence token; documents could not be told apart.")
    ids = list(tokenizer(text, add_special_tokens=not bare)["input_ids"])
    if not bare and (not ids or ids[-1] != tokenizer.eos_token_id):
        ids.append(tokenizer.eos_token_id)
    return np.array(ids, dtype=np.int64)


def spliced(window: Tokens, copy: Tokens, position: int, front: int) -> Tokens:
    """A window with a copy put in at a position, cut back to its length by `front` tokens in front.

    >>> spliced(np.arange(5), np.array([8, 9]), 2, 1)
    array([1, 8, 9, 2, 3])
    """
    return np.concatenate([window[:position], copy, window[position:]])[front : front + len(window)]


def place(
    documents: Sequence[Tokens],
    tokens: Mapping[str, Tokens],
    copies: Sequence[str],
    slots: NDArray[np.int64],
    window: int,
    rng: np.random.Generator,
) -> tuple[Copy, ...]:
    """Where each copy goes inside its slot.

    The position is the beginning of the window or of one of the documents that begin in it, each as likely. In front
    a number of tokens is cut off that is drawn from [0, length of the copy), but never so many, or so few, that the
    copy itself would be cut; nothing if the copy stands first.
    """
    begins = np.cumsum([0, *(len(d) for d in documents[:-1])])
    placed = []
    for text_id, slot in zip(copies, slots.tolist(), strict=True):
        length = len(tokens[text_id])
        inside = begins[(begins > slot * window) & (begins < (slot + 1) * window)] - slot * window
        position = int(rng.choice(np.concatenate([[0], inside])))
        front = int(np.clip(rng.integers(length), max(0, position + length - window), min(position, length)))
        placed.append(Copy(text_id, slot, position - front, length, position, front))
    return tuple(placed)


def stream_of(
    documents: Sequence[Tokens], tokens: Mapping[str, Tokens], copies: Sequence[tuple[str, int]], window: int
) -> tuple[Tokens, tuple[Copy, ...]]:
    """The stream with copies between its documents, and where each copy stands in it.

    Args:
        documents: The background.
        tokens: Tokens of each text.
        copies: Text and the document it goes in front of; two in front of one document keep their order.
        window: Tokens in a window.
    """
    before: dict[int, list[int]] = {}
    for number, (_, at) in enumerate(copies):
        before.setdefault(at, []).append(number)
    pieces, placed, length = [], [Copy("", 0, 0, 0, 0)] * len(copies), 0
    for at, words in enumerate(documents):
        for number in before.get(at, ()):
            text_id = copies[number][0]
            copy = tokens[text_id]
            placed[number] = Copy(text_id, length // window, length % window, len(copy), at)
            pieces.append(copy)
            length += len(copy)
        pieces.append(words)
        length += len(words)
    return np.concatenate(pieces), tuple(placed)


def _occurrences(haystack: bytes, needle: bytes) -> int:
    """How often a sequence of int32 occurs in another; overlapping ones count."""
    count, at = 0, haystack.find(needle)
    while at >= 0:
        count += at % 4 == 0
        at = haystack.find(needle, at + 1)
    return count
