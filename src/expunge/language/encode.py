"""From records to token ids: templates, answer-only labels, and right-padded batches.

Tokenised once; masks come from lengths, never from the padding id, so a tokenizer whose padding token is
its end-of-sequence token (or that has none) is served correctly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from jinja2 import TemplateError
from torch import Tensor

from expunge.errors import InputError
from expunge.language.data import Record

# Some chat templates print today's date; runs must not depend on the day they are made.
CHAT_DATE = "10 Apr 2025"
STOPPED_CLOCK = "{%- macro strftime_now(format) -%}" + CHAT_DATE + "{%- endmacro -%}"


@dataclass(frozen=True)
class Template:
    """How a question becomes a prompt: the tokenizer's chat template, or three explicit tags.

    Attributes:
        kind: ``chat`` uses the tokenizer's chat template, ``tags`` the strings below.
        user_start: Before the question.
        user_end: After the question.
        assistant_start: Before the answer.
        system: System prompt of the chat template; None for none.
    """

    kind: Literal["chat", "tags"] = "tags"
    user_start: str = "Question: "
    user_end: str = "\n"
    assistant_start: str = "Answer: "
    system: str | None = None

    def prompt(self, record: Record, tokenizer: Any) -> str:
        """The text before the answer."""
        if self.kind == "tags":
            if not record.question:
                return ""
            before = [
                (self.user_start + text + self.user_end) if role == "user" else (self.assistant_start + text + "\n")
                for role, text in record.history
                if role != "system"
            ]
            return "".join(before) + self.user_start + record.question + self.user_end + self.assistant_start
        turns = [("system", self.system)] if self.system is not None else []
        messages = [{"role": r, "content": c} for r, c in (*turns, *record.history, ("user", record.question))]
        chat = tokenizer.get_chat_template()
        try:
            return tokenizer.apply_chat_template(  # type: ignore[no-any-return]
                messages,
                chat_template=STOPPED_CLOCK + chat if "strftime_now" in chat else chat,
                tokenize=False,
                add_generation_prompt=True,
                date_string=CHAT_DATE,
            )
        except TemplateError as error:
            raise InputError(f"The chat template refuses the turns of a record: {error}.") from None

    def generation_prompt(self, record: Record, tokenizer: Any) -> str:
        """The prompt to continue from: a trailing space belongs to the first word of the answer."""
        prompt = self.prompt(record, tokenizer)
        return prompt.rstrip(" ") if self.kind == "tags" else prompt


class Encoded(NamedTuple):
    """Token ids of n sequences, stored flat; sequence i owns ``offsets[i] : offsets[i + 1]``."""

    ids: Tensor  # [N] int64
    offsets: Tensor  # [n + 1]
    label_start: Tensor  # [n] first position that is a label (at least 1: position 0 has no predictor)

    @property
    def lengths(self) -> Tensor:
        """[n] tokens per sequence."""
        return self.offsets.diff()

    @property
    def counts(self) -> Tensor:
        """[n] labels per sequence."""
        return (self.lengths - self.label_start).clamp(min=0)


class Batch(NamedTuple):
    """Right-padded sequences."""

    input_ids: Tensor  # [B, L]
    mask: Tensor  # [B, L] bool, real tokens
    labelled: Tensor  # [B, L] bool, tokens whose prediction is scored


def encode(
    records: list[Record],
    tokenizer: Any,
    template: Template,
    *,
    answers: list[str] | None = None,
    max_length: int = 512,
    where: str = "records",
) -> Encoded:
    """Tokenise prompt and answer together; labels are the answer and one end-of-sequence token.

    Args:
        records: What to encode; plain text (no question) is labelled from its second token on.
        tokenizer: A Hugging Face tokenizer.
        template: How prompts are built.
        answers: Answers to use instead of the records' own.
        max_length: Longer sequences are cut on the right (and then have no end-of-sequence label).
        where: Name of the set in errors.

    Raises:
        InputError: A record has no label left (names it), or the tokenizer has no end-of-sequence token.
    """
    if tokenizer.eos_token_id is None:
        raise InputError("The tokenizer has no end-of-sequence token; answers could not be ended.")
    texts = [r.answer for r in records] if answers is None else answers
    prompts = [template.prompt(r, tokenizer) if r.question else "" for r in records]
    # A chat template writes its own special tokens; text without a question never went through it.
    special = template.kind != "chat"
    full = _tokenise(tokenizer, [p + a for p, a in zip(prompts, texts, strict=True)], prompts, special)
    heads = _tokenise(tokenizer, prompts, prompts, special)
    eos = tokenizer.eos_token_id
    starts, rows = [], []
    for i, (ids, head) in enumerate(zip(full, heads, strict=True)):
        ids = ids[:max_length]
        if len(ids) < max_length and (not ids or ids[-1] != eos):
            ids = [*ids, eos]
        # Labels start at the first token that holds answer text. Counting the prompt's own tokens, as the
        # TOFU code does, skips that token whenever it merges with the end of the prompt (" " + "The").
        start = max(1, _common(ids, head) if prompts[i] else 0)
        if start >= len(ids):
            raise InputError(
                f"{where}, record {i + 1}: no answer token is left within max_length={max_length} "
                f"({len(head)} prompt tokens)."
            )
        starts.append(start)
        rows.append(ids)
    lengths = torch.tensor([len(r) for r in rows], dtype=torch.long)
    flat = torch.tensor([t for r in rows for t in r], dtype=torch.long)
    offsets = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])
    return Encoded(flat, offsets, torch.tensor(starts, dtype=torch.long))


def _common(a: list[int], b: list[int]) -> int:
    """Length of the common prefix."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _tokenise(tokenizer: Any, texts: list[str], prompts: list[str], special: bool) -> list[list[int]]:
    if special or all(prompts):
        return tokenizer(texts, add_special_tokens=special)["input_ids"] if texts else []
    with_prompt = tokenizer(texts, add_special_tokens=False)["input_ids"]
    plain = tokenizer(texts, add_special_tokens=True)["input_ids"]
    return [a if p else b for a, b, p in zip(with_prompt, plain, prompts, strict=True)]


def collate(encoded: Encoded, rows: Tensor, pad: int = 0) -> Batch:
    """Right-pad some sequences to the longest of them."""
    lengths = encoded.lengths[rows]
    position = torch.arange(int(lengths.max()))[None]  # [1, L]
    mask = position < lengths[:, None]
    index = (encoded.offsets[rows][:, None] + position).clamp(max=len(encoded.ids) - 1)
    input_ids = torch.where(mask, encoded.ids[index], pad)
    return Batch(input_ids, mask, mask & (position >= encoded.label_start[rows][:, None]))


def join(pieces: list[Encoded]) -> Encoded:
    """Concatenate encoded sets."""
    lengths = torch.cat([p.lengths for p in pieces])
    offsets = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])
    return Encoded(torch.cat([p.ids for p in pieces]), offsets, torch.cat([p.label_start for p in pieces]))
