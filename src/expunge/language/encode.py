"""From records to token ids: templates, answer-only labels, and right-padded batches.

Tokenised once; masks come from lengths, never from the padding id, so a tokenizer whose padding token is
its end-of-sequence token (or that has none) is served correctly.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple

import torch
from jinja2 import TemplateError
from torch import Tensor

from expunge.errors import InputError
from expunge.language.data import Record
from expunge.language.windows import Window

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
        prefix: Before what the user says, every time, and before plain text: it conditions and is not scored.
    """

    kind: Literal["chat", "tags"] = "tags"
    user_start: str = "Question: "
    user_end: str = "\n"
    assistant_start: str = "Answer: "
    system: str | None = None
    prefix: str = ""

    def __repr__(self) -> str:
        """As it is made; a prefix only where there is one, so that it is no part of other fingerprints."""
        shown = [f"{f.name}={getattr(self, f.name)!r}" for f in fields(self) if f.name != "prefix" or self.prefix]
        return f"Template({', '.join(shown)})"

    def prompt(self, record: Record, tokenizer: Any) -> str:
        """The text before the answer, what is already written of it included."""
        text = self._asked(record, tokenizer)
        if not record.prefill or (self.kind == "tags" and text.rstrip().endswith(record.prefill.rstrip())):
            return text  # tags that open the answer with these words do not open it twice
        return text + record.prefill

    def _asked(self, record: Record, tokenizer: Any) -> str:
        if self.kind == "tags":
            if not record.question:
                return ""
            opening = self.user_start + self.prefix
            before = [
                (opening + text + self.user_end) if role == "user" else (self.assistant_start + text + "\n")
                for role, text in record.history
                if role != "system"
            ]
            return "".join(before) + opening + record.question + self.user_end + self.assistant_start
        turns = [("system", self.system)] if self.system is not None else []
        messages = [
            {"role": role, "content": self.prefix + text if role == "user" else text}
            for role, text in (*turns, *record.history, ("user", record.question))
        ]
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
        return prompt.rstrip(" ") if self.kind == "tags" or record.prefill else prompt


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
    prompts = [template.prompt(r, tokenizer) if r.question else template.prefix for r in records]
    asked = [r.question for r in records]
    # A chat template writes its own special tokens; text without a question never went through it.
    special = template.kind != "chat"
    full = _tokenise(tokenizer, [p + a for p, a in zip(prompts, texts, strict=True)], asked, special)
    heads = _tokenise(tokenizer, prompts, asked, special)
    eos = tokenizer.eos_token_id
    starts, rows = [], []
    for i, (ids, head) in enumerate(zip(full, heads, strict=True)):
        if answers is None and isinstance(record := records[i], Window):
            starts.append(1)
            rows.append(record.fed(tokenizer, max_length, f"{where}, record {i + 1}"))
            continue
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


def _tokenise(tokenizer: Any, texts: list[str], asked: list[str], special: bool) -> list[list[int]]:
    """Token ids; without `special`, texts that answer no question still get the tokenizer's own special tokens."""
    if special or all(asked):
        return tokenizer(texts, add_special_tokens=special)["input_ids"] if texts else []
    with_prompt = tokenizer(texts, add_special_tokens=False)["input_ids"]
    plain = tokenizer(texts, add_special_tokens=True)["input_ids"]
    return [a if q else b for a, b, q in zip(with_prompt, plain, asked, strict=True)]


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
