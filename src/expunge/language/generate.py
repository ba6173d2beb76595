"""Batched greedy generation: length-sorted, cached, and finished rows leave the batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from expunge.engine.reference import evaluating
from expunge.language.data import Record
from expunge.language.subject import Subject


@torch.inference_mode()
def generate(subject: Subject, records: list[Record], *, max_new_tokens: int = 64, batch: int = 32) -> list[str]:
    """Greedy answers to the records' questions.

    Args:
        subject: The model.
        records: Their questions are the prompts.
        max_new_tokens: Longest answer in tokens.
        batch: Rows generated together; the answers do not depend on it beyond rounding.

    Returns:
        One text per record, special tokens left out; an answer may be empty.
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
            tokens = _greedy(subject, [prompts[i] for i in rows], max_new_tokens)
            for i, text in zip(rows, tokenizer.batch_decode(tokens, skip_special_tokens=True), strict=True):
                answers[i] = text.strip()
    return answers


def _prompts(subject: Subject, records: list[Record]) -> list[list[int]]:
    """Token ids to continue from; plain text is continued from the token that begins a sequence."""
    template, tokenizer = subject.template, subject.tokenizer
    texts = [template.generation_prompt(r, tokenizer) if r.question else "" for r in records]
    prompts = tokenizer(texts, add_special_tokens=template.kind != "chat")["input_ids"]
    begin = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    return [_strip_eos(p, tokenizer.eos_token_id) or [begin] for p in prompts]


def _strip_eos(ids: list[int], eos: int) -> list[int]:
    return ids[:-1] if len(ids) > 1 and ids[-1] == eos else ids


def _end_tokens(subject: Subject) -> list[int]:
    configured = subject.model.generation_config.eos_token_id
    ends = configured if isinstance(configured, list) else [configured]
    return sorted({e for e in (*ends, subject.tokenizer.eos_token_id) if e is not None})


def _greedy(subject: Subject, prompts: list[list[int]], limit: int) -> list[list[int]]:
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
    step_ids, position = ids, (mask.cumsum(1) - 1).clamp(min=0)
    for _ in range(limit):
        result = model(
            input_ids=step_ids,
            attention_mask=mask,
            position_ids=position,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        cache = result.past_key_values
        token: Tensor = result.logits[:, -1].argmax(-1)
        done = done | torch.isin(token, ends)
        for row, value, ended in zip(alive.tolist(), token.tolist(), done.tolist(), strict=True):
            if not ended:
                out[row].append(value)
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
