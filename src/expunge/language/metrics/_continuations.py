"""Greedy continuations from every place of a text, as few of them as greedy decoding leaves to find out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from expunge.engine.reference import evaluating
from expunge.language.encode import Encoded, collate
from expunge.language.forward import ForwardPass
from expunge.language.score import length_batches
from expunge.language.subject import Subject


def texts_of(encoded: Encoded, eos: int, before: list[int | None]) -> list[tuple[list[int], list[int]]]:
    """What stands before each text, and the text itself, in token ids.

    Args:
        encoded: Sequences; a final end of sequence is taken off.
        eos: Its id.
        before: For each, tokens that the tokenizer puts before plain text (1 with a begin-of-sequence token), or
            None for a prompt, which ends where the labels begin.

    Returns:
        (prompt or begin-of-sequence token, text) for each sequence. The first token of plain text without
        anything before it belongs to the text though nothing predicts it.
    """
    found = []
    offsets, labels = encoded.offsets.tolist(), encoded.label_start.tolist()
    for i, label in enumerate(labels):
        ids = encoded.ids[offsets[i] : offsets[i + 1]].tolist()
        ids = ids[:-1] if ids[-1] == eos else ids
        own = before[i]
        first = label if own is None else own
        found.append((ids[:first], ids[first:]))
    return found


@torch.inference_mode()
def continuations(
    subject: Subject, texts: list[tuple[list[int], list[int]]], *, last: list[int], batch: int = 64
) -> tuple[list[dict[int, list[int]]], list[list[bool]]]:
    """Greedy continuations of each text from its first t tokens to its full length T, for t = 1 .. last.

    One pass under teacher forcing tells the next token after every prefix. Where it is the text's own next token,
    the continuation is that token and the continuation of the prefix one longer; only prefixes after which the
    model goes astray are decoded. No token ends a continuation: the text may hold an end of sequence itself.

    Args:
        subject: The model.
        texts: (what stands before, x) in token ids; x has T tokens.
        last: Longest prefix asked for, of each text; below T.
        batch: Prefixes decoded together; the result does not depend on it beyond rounding.

    Returns:
        For each text {t: the T - t tokens greedy decoding puts after x_<t}, and for each text whether the arg-max
        after x_<t is x_t, for t = 1 .. T - 1.
    """
    with evaluating(subject.model):
        said = _next_tokens(subject, texts)
        astray: list[tuple[int, int]] = []
        for i, (_, x) in enumerate(texts):
            misses = [t for t in range(1, len(x)) if said[i][t - 1] != x[t]]
            # a miss beyond `last` matters to a prefix that runs on into it without another miss before
            behind = next((t for t in misses if t > last[i]), len(x))
            astray += [(i, t) for t in misses if t <= last[i] or (t == behind and last[i] not in misses)]
        astray.sort(key=lambda place: len(texts[place[0]][1]) - place[1])
        decoded: dict[tuple[int, int], list[int]] = {}
        for begin in range(0, len(astray), batch):
            rows = astray[begin : begin + batch]
            heads = [texts[i][0] + texts[i][1][:t] + [said[i][t - 1]] for i, t in rows]
            tails = _decode(subject, heads, [len(texts[i][1]) - t - 1 for i, t in rows])
            decoded |= {place: [said[place[0]][place[1] - 1], *tail] for place, tail in zip(rows, tails, strict=True)}
    found = []
    for i, (_, x) in enumerate(texts):
        own: dict[int, list[int]] = {}
        following: list[int] = []
        for t in range(len(x) - 1, 0, -1):
            hit = said[i][t - 1] == x[t]
            following = [x[t], *following] if hit else decoded.get((i, t), [])
            if t <= last[i]:
                own[t] = following
        found.append(own)
    hits = [[said[i][t - 1] == x[t] for t in range(1, len(x))] for i, (_, x) in enumerate(texts)]
    return found, hits


def _next_tokens(subject: Subject, texts: list[tuple[list[int], list[int]]], tokens: int = 4096) -> list[list[int]]:
    """The arg-max token after x_<t for t = 1 .. T - 1, of each text."""
    rows = [before + x for before, x in texts]
    lengths = torch.tensor([len(r) for r in rows])
    offsets = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])
    starts = torch.tensor([len(before) + 1 for before, _ in texts])  # x_1 is the first that is predicted
    encoded = Encoded(torch.tensor([t for r in rows for t in r]), offsets, starts)
    said: list[list[int]] = [[] for _ in texts]
    for chosen in length_batches(lengths, tokens):
        view = ForwardPass(subject.model, collate(encoded, chosen), (1, 1))
        best = view.logits.argmax(-1).tolist()
        for place, token in zip(view.rows.tolist(), best, strict=True):
            said[int(chosen[place])].append(token)
    return said


def _decode(subject: Subject, heads: list[list[int]], limits: list[int]) -> list[list[int]]:
    """Greedy tokens after each head, as many as asked; a row that has them leaves the cache.

    Args:
        subject: The model.
        heads: Token ids to continue from.
        limits: Tokens wanted after each, in rising order or nearly.
    """
    device = subject.device
    longest = max(map(len, heads))
    ids = torch.tensor([[0] * (longest - len(h)) + h for h in heads], device=device)
    mask = torch.tensor([[0] * (longest - len(h)) + [1] * len(h) for h in heads], device=device)
    position = (mask.cumsum(1) - 1).clamp(min=0)
    wanted = torch.tensor(limits, device=device)
    alive = torch.arange(len(heads), device=device)
    out: list[list[int]] = [[] for _ in heads]
    cache: Any = None
    for made in range(max(limits)):
        keep = (wanted[alive] > made).nonzero()[:, 0]
        # leaving costs a copy of the cache, so it waits until half of the rows are done
        if cache is not None and len(keep) * 2 <= len(alive):
            cache.batch_select_indices(keep)
            alive, ids, mask, position = (t[keep] for t in (alive, ids, mask, position))
        elif cache is None and len(keep) < len(alive):
            alive, ids, mask, position = (t[keep] for t in (alive, ids, mask, position))
        result = subject.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=position,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        cache = result.past_key_values
        token: Tensor = result.logits[:, -1].argmax(-1)
        for row, value in zip(alive.tolist(), token.tolist(), strict=True):
            if made < limits[row]:
                out[row].append(value)
        position = position[:, -1:] + 1
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
        ids = token[:, None]
    return out
