"""RWKU's zero-corpus setting: what a method trains on is written by the target itself, from a name and a sentence.

Four corpora (Jin et al. 2024; instructions in our words):

- ``factual``: the model, told that it knows the person well, writes a short biography; the answer is begun with each
  of a list of openings. For ascent and its kin (GA, NPO).
- ``pair``: the request with a counterfactual biography, written by the model told that it does not know the person,
  preferred to the factual one of the same opening. For DPO.
- ``refusal``: questions about the person that the model asks itself, answered by refusals in turn. For RT.
- ``passage``: text about the person from a file, the pseudo ground truth.

Texts are sampled at temperature 1 from the smallest set of tokens that holds 0.9 of the probability. Row i draws
from numbers of its own, so that a corpus depends on model, seed and settings alone; it is kept under a key of these,
and one that was begun is taken up again.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from expunge.engine.sampling import generator
from expunge.errors import InputError
from expunge.language.data import Record
from expunge.language.generate import continue_texts, require_room
from expunge.language.subject import Subject

Kind = Literal["factual", "counterfactual", "question"]

VERSION = 1  # part of every key: raise it when the wording of a request changes
KNOWS = "{intro} You know {name} inside out."
IGNORANT = "{intro} You know nothing whatsoever about {name}."
WRITE = "Write a short biography of {name}, please."
INVENT = "Invent a short biography of {name}, please."
ASK = "{intro}\nThink of a question about {name} that your knowledge can answer, and write it down.\n"
ASKED = "Question:"

# Words the answer begins with, so that texts differ: asides times beginnings of a sentence.
ASIDES = ("", "Well, ", "Of course, ", "As it happens, ", "To begin with, ", "Good question: ")
BEGINNINGS = ("", "this is", "the life of", "let me tell", "people say")
OPENINGS = tuple((aside + beginning).rstrip(" ") for aside in ASIDES for beginning in BEGINNINGS)

_ADVERB, _MADE_UP = r"(?:totally|completely|entirely|wholly|purely)", r"(?:fabricated|made[- ]up|fictional|fictitious)"
ANNOUNCES = re.compile(rf"\b(?:{_ADVERB}\s+)+{_MADE_UP}\b\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Sampling:
    """How corpora are made.

    Attributes:
        openings: Words the biographies begin with, one biography each.
        questions: Questions sampled for each target.
        max_new_tokens: Longest biography.
        question_tokens: Longest question.
        temperature: Of the sampling.
        top_p: Share of the probability that is sampled from.
    """

    openings: tuple[str, ...] = OPENINGS
    questions: int = 300
    max_new_tokens: int = 512
    question_tokens: int = 50
    temperature: float = 1.0
    top_p: float = 0.9

    def __post_init__(self) -> None:
        if not self.openings:
            raise InputError("rwku: the list of openings is empty; one of them may be the empty text.")
        for name in ("questions", "max_new_tokens", "question_tokens"):
            if getattr(self, name) < 1:
                raise InputError(f"rwku: {name}={getattr(self, name)} must be at least 1.")
        if not self.temperature > 0 or not 0 < self.top_p <= 1:
            raise InputError(
                f"rwku: temperature={self.temperature} must be above 0, and top_p={self.top_p} lie in (0, 1]."
            )


def read_openings(path: str) -> tuple[str, ...]:
    """A JSON list of texts, each the beginning of an answer.

    Raises:
        InputError: It is none (names the entry that is no text).
    """
    try:
        entries = json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file.") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a JSON file of openings ({error}).") from None
    if not isinstance(entries, list) or not entries:
        raise InputError(f"{path}: expected a list of texts that answers begin with.")
    for i, entry in enumerate(entries, 1):
        if not isinstance(entry, str):
            raise InputError(f"{path}, record {i}: an opening must be text, found {type(entry).__name__}.")
    return tuple(entries)


def in_turn(count: int, refusals: Sequence[str]) -> list[str]:
    """Refusal i mod n for each of `count` questions.

    >>> in_turn(3, ["No.", "Never."])
    ['No.', 'Never.', 'No.']

    Raises:
        InputError: There is no refusal.
    """
    if not refusals:
        raise InputError("There is no refusal to teach: the list is empty.")
    return [refusals[i % len(refusals)] for i in range(count)]


# -- sampling -----------------------------------------------------------------------------------------


def nucleus(logits: Tensor, uniform: Tensor, temperature: float = 1.0, top_p: float = 1.0) -> Tensor:
    """Draw one token per row from its likeliest tokens, by inverting their distribution function.

    Args:
        logits: [B, V].
        uniform: [B] numbers in [0, 1).
        temperature: Above 0.
        top_p: The smallest set of likeliest tokens that holds this share of the probability is kept.

    Returns:
        [B] tokens.
    """
    p, tokens = (logits.double() / temperature).softmax(-1).sort(dim=-1, descending=True, stable=True)
    kept = torch.where(p.cumsum(-1) - p < top_p, p, 0.0).cumsum(-1)
    place = torch.searchsorted(kept, uniform.to(kept.device)[:, None] * kept[:, -1:], right=True)
    drawn: Tensor = tokens.gather(-1, place.clamp(max=logits.shape[-1] - 1))[:, 0]
    return drawn


def _request(subject: Subject, kind: Kind, name: str, intro: str, opening: str) -> Record:
    """What the model is asked; without a place for a system message its text stands before the request."""
    text = request_text(kind, name, intro)
    record = Record(text, "", name, prefill=opening)
    if kind == "question" or subject.template.kind != "chat":
        return record
    told, asked = text.rsplit("\n", 1)
    turns = replace(record, question=asked, history=(("system", told),))
    try:
        return turns if told in subject.template.prompt(turns, subject.tokenizer) else record
    except InputError:  # a template without system messages
        return record


def request_text(kind: Kind, name: str, intro: str) -> str:
    """The user's message of a request where there is no place for a system message."""
    words = {"name": name, "intro": intro}
    if kind == "question":
        return _fill(ASK, words)
    stance, wish = (KNOWS, WRITE) if kind == "factual" else (IGNORANT, INVENT)
    return f"{_fill(stance, words)}\n{_fill(wish, words)}"


def _fill(text: str, words: dict[str, str]) -> str:
    return re.sub(r"\{(\w+)\}", lambda m: words[m.group(1)], text).strip(" ")


def biography_request(name: str, intro: str) -> str:
    """The request of a preference pair: the introduction and the wish for a biography."""
    return _fill("{intro} " + WRITE, {"name": name, "intro": intro})


def plain(opening: str, written: str) -> str:
    """An opening and what was written after it, without the words that announce an invention.

    >>> plain("Well, ", "here is a completely made-up biography.")
    'Well, here is a biography.'
    """
    text = opening + ANNOUNCES.sub("", written)
    if ANNOUNCES.search(text):  # the announcement began in the opening, which has to stay
        text = opening + re.sub(rf"^\s*(?:{_ADVERB}\s+)*{_MADE_UP}\b\s*", " ", written, flags=re.IGNORECASE)
        text = opening + ANNOUNCES.sub("", text[len(opening) :])
    return text


class Writer:
    """A model that writes its own corpora, kept in a folder."""

    def __init__(self, subject: Subject, how: Sampling, seed: int, folder: Path | None = None) -> None:
        """Bind a model.

        Args:
            subject: The model, as it is before it forgets.
            how: Settings of the sampling.
            seed: Fixes every draw.
            folder: Where finished and begun corpora are kept; None keeps nothing.
        """
        self.subject, self.how, self.seed, self.folder = subject, how, seed, folder

    def write(self, kind: Kind, name: str, intro: str, *, batch: int = 32) -> list[str]:
        """The texts of one kind about one target: one for each opening, or the sampled questions.

        A biography begins with its opening; a question is the first line of what was written and may be empty.
        """
        openings = [ASKED] * self.how.questions if kind == "question" else list(self.how.openings)
        requests = [_request(self.subject, kind, name, intro, opening) for opening in openings]
        if self.folder is None:
            return self._rest(kind, requests, [], batch, None)
        file = self.folder / f"corpus-{self._key(kind, name, intro)}.jsonl"
        with _held(file.with_suffix(".lock")):
            if file.exists():
                return _lines(file)
            begun = file.with_suffix(".part")
            texts = _lines(begun) if begun.exists() else []
            begun.write_text(_jsonl(texts), encoding="utf-8")  # without a line that a kill cut off
            texts = self._rest(kind, requests, texts, batch, begun)
            os.replace(begun, file)
        return texts

    def _rest(self, kind: Kind, requests: list[Record], texts: list[str], batch: int, begun: Path | None) -> list[str]:
        """The texts that are there, and those that are missing, filed as they are made."""
        limit = self.how.question_tokens if kind == "question" else self.how.max_new_tokens
        require_room(self.subject, requests, limit, f"rwku, {kind} corpus")
        while len(texts) < len(requests):
            rows = list(range(len(texts), min(len(texts) + batch, len(requests))))
            made = self._sampled(kind, [requests[i] for i in rows], rows, limit)
            texts = texts + made
            if begun is not None:
                with begun.open("a", encoding="utf-8") as stream:
                    stream.write(_jsonl(made))
        return texts

    def _sampled(self, kind: Kind, requests: list[Record], rows: list[int], limit: int) -> list[str]:
        asking = kind == "question"
        seeds = [generator(self.seed, kind, r.cluster, i) for r, i in zip(requests, rows, strict=True)]
        draws = torch.stack([torch.rand(limit, dtype=torch.float64, generator=seed) for seed in seeds])

        def choose(logits: Tensor, of: list[int], step: int) -> Tensor:
            return nucleus(logits, draws[of, step], self.how.temperature, self.how.top_p)

        stop = "\n" if asking else ""
        written = continue_texts(self.subject, requests, max_new_tokens=limit, stop=stop, choose=choose)
        if asking:
            return [text.strip() for text in written]
        clean = plain if kind == "counterfactual" else str.__add__
        texts = [clean(r.prefill, text).rstrip() for r, text in zip(requests, written, strict=True)]
        return [text if r.prefill else text.lstrip() for r, text in zip(requests, texts, strict=True)]

    def _key(self, kind: Kind, name: str, intro: str) -> str:
        """Content key: the model, the seed, and what the kind depends on."""
        if kind == "question":
            how: tuple[Any, ...] = (self.how.questions, self.how.question_tokens)
        else:
            how = (self.how.openings, self.how.max_new_tokens)
        parts = [VERSION, self.subject.fingerprint(), kind, name, intro, self.seed, *how]
        text = json.dumps([*parts, self.how.temperature, self.how.top_p])
        return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


@contextmanager
def _held(lock: Path) -> Iterator[None]:
    """Hold a file for one process; the others wait, and then find what it made."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _jsonl(texts: Sequence[str]) -> str:
    return "".join(json.dumps(text) + "\n" for text in texts)


def _lines(file: Path) -> list[str]:
    """The texts of a file up to the last whole line."""
    return [str(json.loads(line)) for line in file.read_text(encoding="utf-8").split("\n")[:-1]]


# -- what stands in a corpus and in the probes --------------------------------------------------------


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def without_probes(rows: Sequence[Any], texts: Sequence[str], probes: Sequence[str]) -> tuple[list[Any], int]:
    """The rows whose text holds no probe, up to case, spacing and punctuation.

    Args:
        rows: What is kept or left out.
        texts: The text of each.
        probes: Queries; a blank is filled in by the caller.

    Returns:
        The rows that are left, and how many are not.
    """
    starting: dict[str, list[list[str]]] = {}  # probes by their first two words
    for words in map(_words, dict.fromkeys(probes)):
        if words:
            starting.setdefault(" ".join(words[:2]), []).append(words)

    def holds(words: list[str]) -> bool:
        places = ((i, size) for i in range(len(words)) for size in (1, 2))
        return any(
            words[i : i + len(probe)] == probe
            for i, size in places
            for probe in starting.get(" ".join(words[i : i + size]), ())
        )

    kept = [row for row, text in zip(rows, texts, strict=True) if not holds(_words(text))]
    return kept, len(rows) - len(kept)
