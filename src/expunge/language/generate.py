"""Batched generation: length-sorted, cached, and finished rows leave the batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from expunge.engine.reference import evaluating
from expunge.errors import InputError
from expunge.language.data import Record
from expunge.language.encode import _tokenise as tokenise
from expunge.language.subject import Subject

# Given logits [B, V], the number of each row's record and the step, the next token of each row [B].
Choose = Callable[[Tensor, list[int], int], Tensor]


def generate(
    subject: Subject, records: list[Record], *, max_new_tokens: int = 64, batch: int = 32, stop: str = ""
) -> list[str]:
    """Greedy answers to the records' questions.

    Args:
        subject: The model.
        records: Their questions are the prompts.
        max_new_tokens: Longest answer in tokens.
        batch: Rows generated together; the answers do not depend on it beyond rounding.
        stop: Text at which an answer ends; an answer that begins with it is empty.

    Returns:
        One text per record, special tokens and outer white space left out; an answer may be empty.
    """
    texts = continue_texts(subject, records, max_new_tokens=max_new_tokens, batch=batch, stop=stop)
    return [text.strip() for text in texts]


@torch.inference_mode()
def continue_texts(
    subject: Subject,
    records: list[Record],
    *,
    max_new_tokens: int = 64,
    batch: int = 32,
    stop: str = "",
    choose: Choose | None = None,
) -> list[str]:
    """What the model writes after each prompt, white space included.

    Args:
        subject: The model.
        records: Their questions are the prompts.
        max_new_tokens: Longest text in tokens.
        batch: Rows generated together.
        stop: Text at which one ends; it and what follows are left out.
        choose: Picks the next tokens; None takes the likeliest.
    """
    if not records:
        return []
    tokenizer = subject.tokenizer
    room = max(1, subject.max_length - max_new_tokens)
    prompts = [p[-room:] for p in _prompts(subject, records)]
    order = sorted(range(len(records)), key=lambda i: len(prompts[i]))
    answers = [""] * len(records)
    with evaluating(subject.model):
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            tokens = _decode(subject, [prompts[i] for i in rows], max_new_tokens, rows, stop, choose)
            for i, ids in zip(rows, tokens, strict=True):
                text = _after(tokenizer, prompts[i][-1], ids)
                answers[i] = text.split(stop)[0] if stop else text
    return answers


def _after(tokenizer: Any, last: int, ids: list[int]) -> str:
    """The text of some tokens after another one; alone, some tokenizers would drop their leading space."""
    head = tokenizer.decode([last], skip_special_tokens=True)
    text = tokenizer.decode([last, *ids], skip_special_tokens=True)
    whole: str = text[len(head) :] if text.startswith(head) else tokenizer.decode(ids, skip_special_tokens=True)
    return whole


def _prompts(subject: Subject, records: list[Record]) -> list[list[int]]:
    """Token ids to continue from; plain text is continued from the token that begins a sequence."""
    template, tokenizer = subject.template, subject.tokenizer
    texts = [template.generation_prompt(r, tokenizer) if r.question else template.prefix for r in records]
    prompts = tokenise(tokenizer, texts, [r.question for r in records], template.kind != "chat")
    begin = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    return [_strip_eos(p, tokenizer.eos_token_id) or [begin] for p in prompts]


def require_room(subject: Subject, records: list[Record], max_new_tokens: int, where: str) -> None:
    """Refuse prompts that would lose their beginning to the room kept for the answer.

    Raises:
        InputError: Names the first such record.
    """
    for i, ids in enumerate(_prompts(subject, records), 1):
        if len(ids) + max_new_tokens > subject.max_length:
            raise InputError(
                f"{where}, record {i}: its prompt has {len(ids)} tokens and its answer may have {max_new_tokens}, more "
                f"than model.max_length={subject.max_length} together."
            )


def _strip_eos(ids: list[int], eos: int) -> list[int]:
    return ids[:-1] if len(ids) > 1 and ids[-1] == eos else ids


def _end_tokens(subject: Subject) -> list[int]:
    configured = subject.model.generation_config.eos_token_id
    ends = configured if isinstance(configured, list) else [configured]
    return sorted({e for e in (*ends, subject.tokenizer.eos_token_id) if e is not None})


def _greedy(subject: Subject, prompts: list[list[int]], limit: int) -> list[list[int]]:
    """The likeliest tokens after each prompt."""
    return _decode(subject, prompts, limit, list(range(len(prompts))), "", None)


def _decode(
    subject: Subject, prompts: list[list[int]], limit: int, records: list[int], stop: str, choose: Choose | None
) -> list[list[int]]:
    """Decode one left-padded batch; rows that ended leave the cache once they are half of it."""
    model, device = subject.model, subject.device
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(p)) + p for p in prompts], device=device)
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=device)
    ends = torch.tensor(_end_tokens(subject), device=device)
    out: list[list[int]] = [[] for _ in prompts]
    alive = torch.arange(len(prompts), device=device)  # rows still in the cache
    done = torch.zeros(len(prompts), dtype=torch.bool, device=device)  # over those rows
    cache: Any = None
    stops: dict[int, bool] = {}  # whether a token's text holds the stop; only tokens that came up are looked at

    def halts(token: int) -> bool:
        if token not in stops:
            stops[token] = bool(stop) and stop in subject.tokenizer.decode([token])
        return stops[token]

    step_ids, position = ids, (mask.cumsum(1) - 1).clamp(min=0)
    for step in range(limit):
        result = model(
            input_ids=step_ids,
            attention_mask=mask,
            position_ids=position,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        cache = result.past_key_values
        logits = result.logits[:, -1]
        token: Tensor = (
            logits.argmax(-1) if choose is None else choose(logits, [records[i] for i in alive.tolist()], step)
        )
        done = done | torch.isin(token, ends)
        for row, value, ended in zip(alive.tolist(), token.tolist(), done.tolist(), strict=True):
            if not ended:
                out[row].append(value)
        if stop:
            done = done | torch.tensor([halts(value) for value in token.tolist()], device=device)
        if bool(done.all()):
            break
        position = position[:, -1:] + 1
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
        if int(done.sum()) * 2 >= len(done):
            keep = (~done).nonzero()[:, 0]
            cache.batch_select_indices(keep)
            alive, token, position, mask, done = (t[keep] for t in (alive, token, position, mask, done))
        step_ids = token[:, None]
    return out
