"""Prompts that lead up to something only a reader of a text would say, and how completions of them are graded."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expunge.errors import InputError
from expunge.language.data import Record
from expunge.language.text_blocks import beginnings


@dataclass(frozen=True)
class Probe:
    """A prompt and what would give a reader of the text away.

    Attributes:
        record: Its question is the prompt.
        giveaways: What a reader would say: names, terms, answers.
        terms: Other expressions of the text, which show familiarity without being the answer.
        plain: The prompt is continued as text; otherwise it is put as a question.
    """

    record: Record
    giveaways: tuple[str, ...]
    terms: tuple[str, ...] = ()
    plain: bool = False


Grader = Callable[[Probe, str], int]


def giveaway_grade(probe: Probe, completion: str) -> int:
    """A grade by words alone, ours; the paper asks a large language model, which also judges plot and style.

    3 when a giveaway stands in the completion (whole words, any case); 2 when one of the terms does; 1 when a
    word of four letters or more of a giveaway of several words does; else 0. What the prompt says itself is not
    held against the model.

    >>> giveaway_grade(Probe(Record("Zork lives in", ""), ("the Hollow of Vel",), ("gleamstone",)), "a gleamstone mine")
    2
    """

    def says(words: Sequence[str]) -> bool:
        return any(_holds(completion, w) and not _holds(probe.record.question, w) for w in words)

    if says(probe.giveaways):
        return 3
    if says(probe.terms):
        return 2
    parts = [part for g in probe.giveaways if len(g.split()) > 1 for part in g.split() if len(part) >= 4]
    return 1 if says(parts) else 0


def _holds(text: str, expression: str) -> bool:
    words = r"\s+".join(map(re.escape, expression.split()))
    return re.search(rf"(?<!\w){words}(?!\w)", text, re.IGNORECASE) is not None


def first_tokens(tokenizer: Any, giveaways: Sequence[str]) -> list[int]:
    """First tokens of the giveaways, by themselves and behind another word.

    Raises:
        InputError: None is left, or the tokenizer does not tell characters.
    """
    if not tokenizer.is_fast:
        raise InputError("familiarity: giveaways need to know the characters of each token; load a fast tokenizer.")
    found = set().union(*(beginnings(tokenizer, text) for text in giveaways))
    if not found:
        raise InputError(f"familiarity: no giveaway among {list(giveaways)} has a letter or a digit.")
    return sorted(found)


def probes_of(records: Sequence[Record], where: str) -> list[Probe]:
    """The records' own questions; what gives a reader away is the answer.

    Raises:
        InputError: A record without a question (names it).
    """
    for number, record in enumerate(records, 1):
        if not record.question:
            raise InputError(
                f"familiarity: split {where!r}, row {number} is plain text and asks nothing; name a file of prompts."
            )
    return [Probe(r, tuple(a for a in (r.answer, r.paraphrased_answer) if a)) for r in records]


def read_probes(path: str) -> list[Probe]:
    """Read probes from a JSONL file.

    Each line is an object with ``prompt`` (continued as text) or ``question`` (put as a question), ``giveaways``
    (a list of texts), and, as one likes, ``terms`` (a list) and ``cluster``.

    Raises:
        InputError: No such file, no line, or a malformed one (names it).
    """
    try:
        lines = Path(path).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as text ({type(error).__name__}); a JSONL file is needed.") from None
    probes = [_probe(line, f"{path}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not probes:
        raise InputError(f"{path}: no prompts in it.")
    return probes


def _probe(line: str, where: str) -> Probe:
    try:
        row = json.loads(line)
    except ValueError:
        raise InputError(f"{where}: not JSON.") from None
    if not isinstance(row, dict) or isinstance(row.get("prompt"), str) == isinstance(row.get("question"), str):
        raise InputError(f"{where}: an object with either 'prompt' or 'question' is needed.")
    giveaways, terms = row.get("giveaways"), row.get("terms", [])
    for name, value in (("giveaways", giveaways), ("terms", terms)):
        if not isinstance(value, list) or not all(isinstance(v, str) and v.strip() for v in value):
            raise InputError(f"{where}: field {name!r} must be a list of texts, none of them empty.")
    if not giveaways:
        raise InputError(f"{where}: field 'giveaways' names nothing.")
    text: str = row["prompt"] if isinstance(row.get("prompt"), str) else row["question"]
    if not text.strip():
        raise InputError(f"{where}: the prompt is empty.")
    record = Record(text, "", str(row.get("cluster", "")))
    return Probe(record, tuple(giveaways), tuple(terms), plain=isinstance(row.get("prompt"), str))
