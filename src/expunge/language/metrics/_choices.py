"""Choosing and generating one part of an inserted text, given more or less of the rest."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from expunge.errors import InputError
from expunge.language.continuations import continuation_scores
from expunge.language.data import Record
from expunge.language.encode import Template
from expunge.language.generate import generate
from expunge.language.metrics._common import Floats
from expunge.language.subject import Subject

PLAIN = Template(kind="tags", user_start="", user_end="", assistant_start="")


@dataclass(frozen=True)
class Choice:
    """One question about an inserted text.

    Attributes:
        task: What is asked, given what: ``biography.before``, ``chat.user``, ``items.infill``...
        split: The records it belongs to, ``d=16`` for example.
        cluster: The text.
        context: What stands before the answer; empty for nothing.
        options: What may stand there, the right one first; with the space in front, if there is one.
        after: What stands behind it.
        generate: Whether a model is also asked to write the answer.
    """

    task: str
    split: str
    cluster: str
    context: str
    options: tuple[str, ...]
    after: str = ""
    generate: bool = False

    def __post_init__(self) -> None:
        if len(self.options) < 2 or len(set(self.options)) < len(self.options):
            raise InputError(f"{self.task}, {self.cluster!r}: options must be two at least, and all different.")


def choose(subject: Subject, asked: Sequence[Choice], *, batch_tokens: int = 4096) -> tuple[Floats, Floats]:
    """Whether the right option is the likeliest: by log-likelihood of option and what follows, and per byte of it.

    Options that are equally likely share the point.

    Returns:
        [n] and [n] in [0, 1].
    """
    pairs = [(c.context, option + c.after) for c in asked for option in c.options]
    scores, _ = continuation_scores(subject, pairs, batch_tokens=batch_tokens)
    sizes = np.array([len(continuation.encode()) for _, continuation in pairs])
    ends = np.cumsum([len(c.options) for c in asked])[:-1]
    plain, norm = np.split(scores, ends), np.split(scores / sizes, ends)
    return np.array([_first(s) for s in plain]), np.array([_first(s) for s in norm])


def _first(scores: Floats) -> float:
    """1 if the first score is the highest one alone, its share of the point if it ties, else 0."""
    best: NDArray[np.bool_] = scores == scores.max()
    return float(best[0] / best.sum())


def write(subject: Subject, asked: Sequence[Choice], *, max_new_tokens: int) -> dict[str, Floats]:
    """What a model writes in the place of the answer, against the right one.

    Returns:
        [n] in [0, 1] under ``exact_match``, ``f1``, ``recall`` (all as SQuAD counts words) and ``prefix_match``.
    """
    records = [Record(c.context, c.options[0]) for c in asked]
    made = generate(replace(subject, template=PLAIN), records, max_new_tokens=max_new_tokens)
    pairs = [(c.options[0].strip(), text) for c, text in zip(asked, made, strict=True)]
    f1, recall = zip(*(squad_f1(right, wrote) for right, wrote in pairs), strict=True)
    return {
        "exact_match": np.array([normal(a) == normal(b) for a, b in pairs], dtype=float),
        "f1": np.array(f1, dtype=float),
        "recall": np.array(recall, dtype=float),
        "prefix_match": np.array([b.strip().lower().startswith(a.lower()) for a, b in pairs], dtype=float),
    }


def squad_f1(right: str, wrote: str) -> tuple[float, float]:
    """F1 and recall of the right answer's words (Rajpurkar et al. 2016).

    >>> squad_f1("the red house", "a house, red and old")
    (0.6666666666666666, 1.0)
    """
    theirs, ours = normal(right).split(), normal(wrote).split()
    shared = sum((Counter(theirs) & Counter(ours)).values())
    if not shared:
        return float(theirs == ours), float(theirs == ours)
    precision, recall = shared / len(ours), shared / len(theirs)
    return 2 * precision * recall / (precision + recall), recall


def normal(text: str) -> str:
    """A text in lower case without punctuation, articles and extra spaces, as SQuAD compares answers."""
    bare = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())
