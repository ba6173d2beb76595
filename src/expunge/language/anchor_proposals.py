"""A first draft of an anchor dictionary, without a language model: rare names of the forget set, names of the others.

The paper asks a large language model for the idiosyncratic expressions of each passage and for generic
counterparts. This draft is ours and much coarser: it knows capital letters, counts and neighbouring words, and
it only finds expressions that are written with a capital. Write it to a file (`write_anchors`), correct it there,
and name the file.
"""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from expunge.errors import InputError
from expunge.language.anchors import Anchors
from expunge.language.data import Record

WORD = re.compile(r"\w+(?:['’-]\w+)*|[^\w\s]")
ENDS = set('.!?:;"“”()[]')  # a word behind one of them is capitalised for its place


class Name(NamedTuple):
    """A run of capitalised words at one place of a text."""

    words: tuple[str, ...]
    before: str  # the neighbouring words in lower case; empty at the border of a sentence
    after: str


@dataclass
class Names:
    """The capitalised expressions of some texts.

    Attributes:
        runs: Longest runs of capitalised words: how often each stands there.
        neighbours: The words before ("<in") and after (">said") each run.
        grams: Every run of words inside the runs.
        lower: Words that stand there in lower case.
        inside: Words that stand capitalised within a sentence.
    """

    runs: Counter[tuple[str, ...]] = field(default_factory=Counter)
    neighbours: dict[tuple[str, ...], Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    grams: Counter[tuple[str, ...]] = field(default_factory=Counter)
    lower: set[str] = field(default_factory=set)
    inside: set[str] = field(default_factory=set)


def names_in(texts: Iterable[str], openers: set[str]) -> Names:
    """Collect the capitalised expressions of some texts.

    Args:
        texts: The texts.
        openers: Words that, at the beginning of a sentence, are no part of a name.
    """
    found = Names()
    for text in texts:
        for name, starts in _runs(text, found.lower):
            found.inside.update(name.words[1 if starts else 0 :])
            words = name.words[1:] if starts and name.words[0] in openers else name.words
            if not words:
                continue
            found.runs[words] += 1
            before = "" if len(words) < len(name.words) else name.before
            found.neighbours[words].update([f"<{before}", f">{name.after}"])
            spans = ((i, j) for i in range(len(words)) for j in range(i + 1, len(words) + 1))
            found.grams.update(words[i:j] for i, j in spans)
    return found


def _runs(text: str, lower: set[str]) -> Iterable[tuple[Name, bool]]:
    """Runs of capitalised words, each with whether it starts a sentence; other words go into `lower`."""
    tokens = WORD.findall(text)
    at = 0
    while at < len(tokens):
        if not _capital(tokens[at]):
            lower.add(tokens[at])
            at += 1
            continue
        end = at
        while end < len(tokens) and _capital(tokens[end]):
            end += 1
        starts = at == 0 or tokens[at - 1] in ENDS
        after = tokens[end] if end < len(tokens) and tokens[end] not in ENDS else ""
        yield Name(tuple(tokens[at:end]), "" if starts else tokens[at - 1], after), starts
        at = end


def _capital(word: str) -> bool:
    return word[0].isupper()


def propose_anchors(
    forget: list[Record], retain: list[Record], *, count: int = 1, rare: int = 0, seed: int = 0
) -> Anchors:
    """Draft a dictionary: capitalised expressions of the forget set that the retain set hardly knows.

    A substitute has as many words as the expression, comes from the retain set, does not occur in the forget set,
    and stands between the most similar neighbouring words ("lives in ...", "... said"). Where an expression is a
    part of a longer one ("Zork", "Zork Malbec"), its substitute is the same part of the longest one's.

    Args:
        forget: Where the expressions are sought.
        retain: Where substitutes come from.
        count: Substitutes of each expression.
        rare: Most occurrences in the retain set that still count as idiosyncratic.
        seed: Orders substitutes that fit equally well.

    Raises:
        InputError: No expression was found, or no substitute for one.
    """
    ours, theirs = _texts(forget), _texts(retain)
    openers = _openers(ours, theirs)
    old, new = names_in(ours, openers), names_in(theirs, openers)
    keys = sorted((run for run in old.runs if new.grams[run] <= rare), key=lambda run: (-len(run), run))
    if not keys:
        raise InputError(
            "anchors: no capitalised expression of the forget records is missing from the retain records, so none can "
            "be proposed; name a JSON file with anchors, or none."
        )
    words = {word for run in old.runs for word in run}
    pool = [run for run in new.runs if old.grams[run] == 0 and not words & set(run)]
    rng = random.Random(f"anchors {seed}")
    rng.shuffle(pool)
    entries: dict[str, list[str]] = {}
    taken: Counter[tuple[str, ...]] = Counter()
    for key in keys:
        chosen = _part(key, keys, entries) or _similar(key, pool, old, new, taken, count)
        if not chosen:
            raise InputError(
                f"anchors: the retain records hold no name of {len(key)} word{'s' * (len(key) > 1)} to stand for "
                f"{' '.join(key)!r}; name a JSON file with anchors."
            )
        entries[" ".join(key)] = chosen
    return Anchors(entries)


def _texts(records: list[Record]) -> list[str]:
    return [text for r in records for text in (*(turn for _, turn in r.history), r.question, r.answer) if text]


def _openers(ours: list[str], theirs: list[str]) -> set[str]:
    """Words whose capital tells nothing: they stand elsewhere in lower case, or only at the beginning of sentences."""
    known = names_in(theirs, set())
    mine = names_in(ours, set())
    first = {run[0] for run in known.runs}
    lower = {word.capitalize() for word in known.lower | mine.lower}
    return lower | (first - known.inside - mine.inside)


def _part(key: tuple[str, ...], keys: list[tuple[str, ...]], entries: dict[str, list[str]]) -> list[str]:
    """The same words of a longer expression's substitutes."""
    for longer in keys:
        made = entries.get(" ".join(longer))
        if made is None or len(longer) <= len(key):
            continue
        for at in range(len(longer) - len(key) + 1):
            if longer[at : at + len(key)] == key:
                return list(dict.fromkeys(" ".join(m.split()[at : at + len(key)]) for m in made))
    return []


def _similar(
    key: tuple[str, ...],
    pool: list[tuple[str, ...]],
    old: Names,
    new: Names,
    taken: Counter[tuple[str, ...]],
    count: int,
) -> list[str]:
    """Names of as many words that stand between the most similar neighbours; those taken least come first."""
    fitting = [run for run in pool if len(run) == len(key)]

    def rank(run: tuple[str, ...]) -> tuple[int, float]:
        shared = (old.neighbours[key] & new.neighbours[run]).total()
        most = min(old.neighbours[key].total(), new.neighbours[run].total())
        return taken[run], -shared / most if most else 0.0

    chosen = sorted(fitting, key=rank)[:count]
    taken.update(chosen)
    return [" ".join(run) for run in chosen]
