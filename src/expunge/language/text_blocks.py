"""Forget records as blocks of tokens that remember their characters: questions with answers, and chopped text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from expunge.errors import InputError
from expunge.language.data import Record
from expunge.language.encode import Encoded
from expunge.language.subject import Subject


@dataclass(frozen=True)
class Block:
    """One block: what the model is fed, and the text behind it.

    Attributes:
        text: Prompt and answer, or a piece of plain text.
        ids: Token ids, special tokens included.
        offsets: Characters [start, end) of each token in `text`; (n, n) where a token has none.
        label_start: First token that is a label, as in `encode`.
        special: Whether the tokenizer adds its special tokens to this text.
        ended: Whether an end-of-sequence token was put behind it.
        record: Number of the record it comes from.
    """

    text: str
    ids: list[int]
    offsets: list[tuple[int, int]]
    label_start: int
    special: bool
    ended: bool
    record: int


def context(subject: Subject) -> int:
    """Longest sequence the subject is fed, in tokens."""
    config = subject.model.config.get_text_config()
    longest = getattr(config, "max_position_embeddings", None)
    return min(subject.max_length, longest) if longest else subject.max_length


def make_blocks(subject: Subject, records: list[Record], size: int = 512, *, where: str = "forget") -> list[Block]:
    """Blocks of the records: one for each question with its answer, several for a long text.

    Questions with answers are encoded as everywhere (`encode`). Plain text of more than `size` tokens is cut
    between words into pieces of at most that many; the last piece ends with an end-of-sequence token if it has
    room for one.

    Args:
        subject: Whose tokenizer, template and context are used.
        records: What to encode.
        size: Longest block of plain text, in tokens.
        where: Name of the set in errors.

    Raises:
        InputError: A tokenizer that does not tell characters or has no end-of-sequence token, a text that makes
            blocks longer than the context, or a record without a label.
    """
    tokenizer, limit = subject.tokenizer, context(subject)
    if not tokenizer.is_fast:
        raise InputError("Blocks of text need to know the characters of each token; load a fast tokenizer.")
    if tokenizer.eos_token_id is None:
        raise InputError("The tokenizer has no end-of-sequence token; answers could not be ended.")
    blocks = []
    for number, record in enumerate(records):
        if record.question:
            blocks.append(_question(subject, record, number, limit, where))
            continue
        pieces = _pieces(tokenizer, record.answer, size)
        longest = max((len(_tokens(tokenizer, piece, True)[0]) for piece in pieces), default=0)
        if longest > limit:
            raise InputError(
                f"{where}, record {number + 1}: a block of {longest} tokens (block={size}) is longer than the model's "
                f"context of {limit}; set block to at most {limit}."
            )
        for last, piece in zip([False] * (len(pieces) - 1) + [True], pieces, strict=True):
            made = tokenise(tokenizer, piece, special=True, room=min(size, limit) if last else 0, limit=limit)
            if len(made[0]) < 2:
                raise InputError(f"{where}, record {number + 1}: a text of {len(made[0])} tokens has nothing to learn.")
            blocks.append(Block(piece, made[0], made[1], 1, True, made[2], number))
    return blocks


def tokenise(
    tokenizer: Any, text: str, *, special: bool, room: int, limit: int
) -> tuple[list[int], list[tuple[int, int]], bool]:
    """Token ids and characters of a text, cut at `limit`, ended if fewer than `room` tokens are taken.

    Returns:
        Ids, offsets, and whether an end-of-sequence token is the last.
    """
    ids, offsets = _tokens(tokenizer, text, special)
    ids, offsets = ids[:limit], offsets[:limit]
    if len(ids) < room and (not ids or ids[-1] != tokenizer.eos_token_id):
        ids, offsets = [*ids, tokenizer.eos_token_id], [*offsets, (len(text), len(text))]
    return ids, offsets, bool(ids) and ids[-1] == tokenizer.eos_token_id


def beginnings(tokenizer: Any, word: str) -> set[int]:
    """The first token of a word, by itself and behind another word: the two are often different tokens.

    A token without a letter or a digit of the word (a lone space) is passed over.
    """
    found = set()
    for before in ("", "a "):
        text = before + word
        for token, (start, end) in zip(*_tokens(tokenizer, text, False), strict=True):
            if any(c.isalnum() for c in text[max(start, len(before)) : end]):
                found.add(token)
                break
    return found


def encoded(blocks: list[Block]) -> Encoded:
    """The blocks' tokens as the wing feeds them."""
    lengths = torch.tensor([len(b.ids) for b in blocks], dtype=torch.long)
    offsets = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])
    ids = torch.tensor([t for b in blocks for t in b.ids], dtype=torch.long)
    return Encoded(ids, offsets, torch.tensor([b.label_start for b in blocks], dtype=torch.long))


def _tokens(tokenizer: Any, text: str, special: bool) -> tuple[list[int], list[tuple[int, int]]]:
    made = tokenizer(text, add_special_tokens=special, return_offsets_mapping=True)
    return list(made["input_ids"]), [tuple(pair) for pair in made["offset_mapping"]]


def _question(subject: Subject, record: Record, number: int, limit: int, where: str) -> Block:
    tokenizer, template = subject.tokenizer, subject.template
    prompt = template.prompt(record, tokenizer)
    special = template.kind != "chat"
    text = prompt + record.answer
    ids, offsets, ended = tokenise(tokenizer, text, special=special, room=limit, limit=limit)
    head, _ = _tokens(tokenizer, prompt, special)
    same = next((i for i, (a, b) in enumerate(zip(ids, head, strict=False)) if a != b), min(len(ids), len(head)))
    start = max(1, same)
    if start >= len(ids):
        raise InputError(
            f"{where}, record {number + 1}: no answer token is left within {limit} tokens ({len(head)} prompt tokens)."
        )
    return Block(text, ids, offsets, start, special, ended, number)


def _pieces(tokenizer: Any, text: str, size: int) -> list[str]:
    """Pieces of at most `size` tokens, special tokens included, cut between words where there are any."""
    if size < 4:
        raise InputError(f"block={size}: a block needs at least 4 tokens.")
    pieces, begin = [], 0
    bare, offsets = _tokens(tokenizer, text, False)
    room = size - len(_tokens(tokenizer, text[:1], True)[0]) + len(_tokens(tokenizer, text[:1], False)[0])
    while begin < len(bare):
        end = min(begin + room, len(bare))
        piece = ""
        while end > begin:
            if end < len(bare):
                end = _between_words(text, offsets, begin, end)
            stop = offsets[end][0] if end < len(bare) else len(text)
            piece = text[offsets[begin][0] : stop].strip()
            excess = len(_tokens(tokenizer, piece, True)[0]) - size  # a piece may split otherwise than the whole did
            if excess <= 0 or end - begin <= 1:
                break
            end = max(begin + 1, end - excess)
        if piece:
            pieces.append(piece)
        begin = end
    return pieces


def _between_words(text: str, offsets: list[tuple[int, int]], begin: int, end: int) -> int:
    """The last token up to `end` that begins a word; `end` itself if the second half of the piece has none."""
    for token in range(end, begin + (end - begin) // 2, -1):
        at = offsets[token][0]
        if text[at : at + 1].isspace() or text[max(0, at - 1) : at].isspace():
            return token
    return end
