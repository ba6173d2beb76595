"""Alternate answers: plausible and false, made up by the model itself (AltPO, Mekala et al. 2025).

A chat model is asked to rewrite the answer with other facts. A model with plain tags follows no instructions;
there, what it says itself to the question at temperature 1 stands in, without the true answer. That is a
substitute of ours, and where the model knows nothing but the truth, answers to questions of the same form
stand in for it in turn.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from expunge.engine.reference import evaluating
from expunge.engine.sampling import generator
from expunge.engine.training import derive_seed
from expunge.errors import InputError
from expunge.language.data import Record
from expunge.language.generate import _end_tokens, _prompts
from expunge.language.subject import Subject

INSTRUCTION = (
    "Question: {question}\nAnswer: {answer}\n\n"
    "Make up a different answer to the same question. Change every fact that the answer adds to the question, keep "
    "what the question itself says, and let the made-up facts sound just as believable. Write the new answer alone."
)
LABEL = re.compile(r"^\W*(?:(?:alternat\w+|different|new|made-up)\s+)?answer\s*:[\s*]*", re.IGNORECASE)
SAME_FORM = 0.8  # likeness, as a share of the likest question's, from which questions have the same form


def alternate_answers(
    subject: Subject,
    records: list[Record],
    *,
    count: int = 5,
    seed: int = 0,
    others: Sequence[Record] = (),
    temperature: float = 1.0,
    rounds: int = 3,
    max_new_tokens: int | None = None,
    batch: int = 32,
) -> list[list[str]]:
    """Answers other than the true one, for every record.

    An answer that does not end, holds no letter and no digit, or says the true answer again is drawn anew;
    what is still missing after the last round is taken from `others`.

    Args:
        subject: Who makes them up. The paper takes the target itself.
        records: Questions with their true answers.
        count: Alternates of each record. They may repeat one another.
        seed: Fixes every draw; the answers do not depend on the batch beyond rounding.
        others: Records whose answers stand in where the model has no other answer (best the retain set);
            without any, the other `records`.
        temperature: Of the sampling.
        rounds: How often an alternate is drawn.
        max_new_tokens: Longest alternate in tokens; None for twice the longest true answer and a little.
        batch: Rows generated together.

    Returns:
        One list of `count` texts per record.

    Raises:
        InputError: Plain text has no question to answer; nothing stands in for a record; a setting is out of
            range.
    """
    _check(records, count, temperature, rounds)
    if not records:
        return []
    asked, limit = _asked(subject, records), max_new_tokens or _limit(subject, records)
    prompts = _prompts(subject, asked)
    found: dict[tuple[int, int], str] = {}
    missing = [(i, slot) for i in range(len(records)) for slot in range(count)]
    for attempt in range(rounds):
        draws = [
            torch.rand(limit, dtype=torch.float64, generator=generator(seed, "alternates", i, slot, attempt))
            for i, slot in missing
        ]
        rows = [prompts[i][-max(1, subject.max_length - limit) :] for i, _ in missing]
        texts = zip(missing, _sampled(subject, rows, draws, temperature, batch), strict=True)
        found |= {key: text for key, text in texts if _differs(text, records[key[0]].answer)}
        missing = [key for key in missing if key not in found]
    pool = _stand_ins(records, others) if missing else None
    for i, slot in missing:
        assert pool is not None
        found[i, slot] = pool(i, derive_seed(seed, "stand-in", i, slot))
    return [[found[i, slot] for slot in range(count)] for i in range(len(records))]


def _check(records: list[Record], count: int, temperature: float, rounds: int) -> None:
    for name, value, holds in (
        ("count", count, count >= 1),
        ("temperature", temperature, temperature > 0),
        ("rounds", rounds, rounds >= 0),
    ):
        if not holds:
            raise InputError(f"alternate answers: {name}={value} is out of range.")
    for i, record in enumerate(records, 1):
        if not record.question:
            raise InputError(f"Record {i} is plain text: without a question there is no alternate answer to it.")


def _asked(subject: Subject, records: list[Record]) -> list[Record]:
    """What the model is asked: to rewrite the answer if it follows instructions, else the question itself."""
    if subject.template.kind != "chat":
        return records
    return [replace(r, question=INSTRUCTION.format(question=r.question, answer=r.answer)) for r in records]


def _limit(subject: Subject, records: list[Record]) -> int:
    answers = subject.tokenizer([r.answer for r in records], add_special_tokens=False)["input_ids"]
    return int(min(2 * max(map(len, answers)) + 16, max(1, subject.max_length // 2)))


def _plain(text: str) -> str:
    """A text without what does not change an answer: case, spacing, the full stop."""
    return " ".join(text.casefold().split()).strip(" .!\"'")


def _differs(text: str, true: str) -> bool:
    return any(c.isalnum() for c in text) and _plain(text) != _plain(true)


# -- what the model says ------------------------------------------------------------------------------


@torch.inference_mode()
def _sampled(
    subject: Subject, prompts: list[list[int]], draws: list[Tensor], temperature: float, batch: int
) -> list[str]:
    """One sampled continuation of each prompt; empty where it did not end."""
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    texts = [""] * len(prompts)
    with evaluating(subject.model):
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            tokens = _sample(subject, [prompts[i] for i in rows], torch.stack([draws[i] for i in rows]), temperature)
            for i, ids in zip(rows, tokens, strict=True):
                if ids is not None:
                    text: str = subject.tokenizer.decode(ids, skip_special_tokens=True)
                    texts[i] = LABEL.sub("", text.split("Question:")[0].strip()).strip()
    return texts


def _sample(subject: Subject, prompts: list[list[int]], draws: Tensor, temperature: float) -> list[list[int] | None]:
    """Sample one left-padded batch; row i uses the uniform numbers draws[i] and no other.

    Returns:
        Tokens of each row without the one that ended it; None for a row that did not end.
    """
    model, device = subject.model, subject.device
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(p)) + p for p in prompts], device=device)
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=device)
    ends = set(_end_tokens(subject))
    out: list[list[int]] = [[] for _ in prompts]
    ended: set[int] = set()
    alive = list(range(len(prompts)))  # rows in the cache
    cache: Any = None
    position = (mask.cumsum(1) - 1).clamp(min=0)
    for step in range(draws.shape[1]):
        result = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=position,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        cache = result.past_key_values
        token = pick(result.logits[:, -1], draws[alive, step], temperature)
        for row, value in zip(alive, token.tolist(), strict=True):
            if row not in ended:
                (ended.add(row) if value in ends else out[row].append(value))
        if len(ended) == len(prompts):
            break
        position = position[:, -1:] + 1
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
        left = [k for k, row in enumerate(alive) if row not in ended]
        if 2 * len(left) <= len(alive):  # finished rows leave the cache once they are half of it
            keep = torch.tensor(left, device=device)
            cache.batch_select_indices(keep)
            alive = [alive[k] for k in left]
            token, position, mask = token[keep], position[keep], mask[keep]
        ids = token[:, None]
    return [tokens if row in ended else None for row, tokens in enumerate(out)]


def pick(logits: Tensor, uniform: Tensor, temperature: float = 1.0) -> Tensor:
    """Draw one token per row by inverting the distribution function, so that a row owns its randomness.

    Args:
        logits: [B, V].
        uniform: [B] numbers in [0, 1).
        temperature: Above 0.

    Returns:
        [B] tokens; token v is drawn for uniform numbers in [sum_{u<v} p_u, sum_{u<=v} p_u).
    """
    cumulated = (logits.double() / temperature).softmax(-1).cumsum(-1)
    place = uniform.to(cumulated.device)[:, None] * cumulated[:, -1:]
    return torch.searchsorted(cumulated, place, right=True)[:, 0].clamp(max=logits.shape[-1] - 1)


# -- what stands in where it says nothing else ---------------------------------------------------------


def _stand_ins(records: list[Record], others: Sequence[Record]) -> Callable[[int, int], str]:
    """A function (record, seed) -> an answer, not the record's own, to a question of the same form."""
    pool = [r for r in (others or records) if r.question]
    spread: Counter[str] = Counter()  # in how many clusters a word occurs: names in one, forms in all
    clusters: dict[str, set[str]] = {}
    for k, r in enumerate(pool):
        clusters.setdefault(r.cluster or f"\0{k}", set()).update(_words(r.question))
    for words in clusters.values():
        spread.update(words)
    bags = [_words(r.question) for r in pool]

    def like(a: set[str], b: set[str]) -> float:
        return sum(spread[w] or 1 for w in a & b) / sum(spread[w] or 1 for w in a | b)

    known: dict[int, list[str]] = {}

    def choose(i: int, seed: int) -> str:
        if i not in known:
            true, asked = _plain(records[i].answer), _words(records[i].question)
            scored = [(like(asked, b), r.answer) for b, r in zip(bags, pool, strict=True) if _plain(r.answer) != true]
            if not scored:
                raise InputError(
                    f"Record {i + 1} has no alternate answer: the model and all other records say its own."
                )
            best = max(score for score, _ in scored)
            known[i] = list(dict.fromkeys(answer for score, answer in scored if score >= SAME_FORM * best))
        return random.Random(seed).choice(known[i])

    return choose


def _words(question: str) -> set[str]:
    return set(re.findall(r"\w+", question.casefold()))
