"""Whom ROCR redirects and to whom: names, the texts they are put into, and where their tokens are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from expunge.engine.sampling import generator
from expunge.errors import InputError
from expunge.language.data import Record
from expunge.language.subject import Subject

# The user's turns a name is put into: the name alone, and after five openers.
SLOT = "\0"  # stands for the name in a pattern; no text holds it
OPENERS = tuple(
    text + SLOT
    for text in (
        "",
        "A question about ",
        "The best answer about ",
        "An answer about ",
        "Tell me about ",
        "Write about ",
    )
)
QUESTIONS = 32  # forget questions that serve as contexts of one name, at most
GIVEN = ("Arlen", "Brisa", "Corvin", "Delwyn", "Emrik", "Fennah", "Gorrin", "Hestia", "Iskar", "Jorun", "Kelda",
         "Lorcan")  # fmt: skip
FAMILY = ("Ambleforde", "Brackenfell", "Cantrowe", "Dunmarrick", "Eskvale", "Fallowmere", "Grimshade", "Hollowick",
          "Ivendale", "Jessamir", "Kestrowan", "Larkenby")  # fmt: skip


def concepts(forget: Sequence[Record], subjects: Sequence[str]) -> list[tuple[str, ...]]:
    """The names of each concept to be redirected, its aliases after it.

    Args:
        forget: The forget records.
        subjects: Names as the user gave them, aliases behind ``|``; empty takes the records' clusters.

    Raises:
        InputError: A name stands in no forget record; the records have no clusters, or clusters that no question
            names.
    """
    if not subjects:
        return _clusters(forget)
    found = []
    for given in subjects:
        names = tuple(dict.fromkeys(part.strip() for part in given.split("|") if part.strip()))
        text = [f"{r.question}\n{r.answer}\n{r.cluster}" for r in forget]
        absent = next((n for n in names if not any(n in t for t in text)), None)
        if not names or absent is not None:
            raise InputError(f"rocr: subjects={given!r}: {absent or given!r} stands in no forget record.")
        found.append(names)
    return found


def _clusters(forget: Sequence[Record]) -> list[tuple[str, ...]]:
    named: dict[str, bool] = {}
    for number, r in enumerate(forget, 1):
        if not r.cluster:
            raise InputError(f"rocr: forget record {number} has no cluster to name its subject; set subjects.")
        named[r.cluster] = named.get(r.cluster, False) or r.cluster in r.question
    for number, (_, known) in enumerate(named.items(), 1):
        if not known:
            raise InputError(
                f"rocr: no question of cluster {number} holds the cluster's name, so it does not say whom to redirect; "
                f"set subjects to the names the questions use."
            )
    return [(name,) for name in named]


class Mention(NamedTuple):
    """A text that names somebody, its token ids, and the positions of the name's tokens."""

    text: str
    ids: list[int]
    name: tuple[int, ...]

    @property
    def position(self) -> int:
        """Of the name's last token."""
        return self.name[-1]

    def before(self, back: int) -> Mention:
        """The same text, its name ending so many tokens earlier (at its first token at most)."""
        return self._replace(name=self.name[: max(1, len(self.name) - back)])


@dataclass(frozen=True)
class Column:
    """One token of one name of a concept: one column of K.

    Attributes:
        name: The name.
        back: Tokens between it and the name's last token.
        contexts: The texts its key is averaged over.
        bare: The name and a full stop, without a template.
        neutral: The first of the contexts, or all of them, with each harmless name instead.
    """

    name: str
    back: int
    contexts: list[Mention]
    bare: Mention
    neutral: list[Mention]


def neutral_names(count: int, seed: int) -> list[str]:
    """Names of people who do not exist, drawn without replacement.

    >>> len(set(neutral_names(5, 0)))
    5
    """
    order = torch.randperm(len(GIVEN) * len(FAMILY), generator=generator(seed, "neutral concepts"))[:count]
    return [f"{GIVEN[i % len(GIVEN)]} {FAMILY[i // len(GIVEN)]}" for i in order.tolist()]


def mention(subject: Subject, text: str, name: str, *, special: bool) -> Mention:
    """Tokenise a text once and find the tokens of a name's last occurrence.

    Args:
        subject: Its tokenizer.
        text: Already rendered.
        name: Looked for as it is written.
        special: Whether the tokenizer adds its special tokens (a chat template has written its own).

    Raises:
        InputError: The text does not hold the name, or the tokenizer cannot say where its tokens come from.
    """
    start = text.rfind(name)
    if start < 0:
        raise InputError(f"rocr: the subject {name!r} is not in the prompt that the template made of it.")
    if not getattr(subject.tokenizer, "is_fast", False):
        raise InputError("rocr: needs a fast tokenizer, one that tells which characters a token covers.")
    encoded = subject.tokenizer(text, add_special_tokens=special, return_offsets_mapping=True)
    end = start + len(name)
    covering = [i for i, (low, high) in enumerate(encoded["offset_mapping"]) if low < end and start < high]
    if not covering:
        raise InputError(f"rocr: the tokenizer leaves no token for the subject {name!r}.")
    return Mention(text, list(encoded["input_ids"]), tuple(covering))


def columns(
    subject: Subject, name: str, forget: Sequence[Record], neutral: Sequence[str],
    *, asked: bool = False, every: bool = True, all_tokens: bool = False, average: bool = True,
) -> list[Column]:  # fmt: skip
    """The columns of K of one name: one for its last token or for each token, averaged over contexts or not.

    Args:
        subject: Its tokenizer and template.
        name: The name.
        forget: The forget records.
        neutral: Harmless names.
        asked: Take the forget questions that hold the name as contexts instead of the openers.
        every: Put the harmless names into all contexts, not the first alone.
        all_tokens: Whether every token of the name gets a column.
        average: Whether a column averages the contexts; or each context gets its own.

    Raises:
        InputError: See `mention`.
    """

    def rendered(pattern: str, name: str) -> Mention:
        text = subject.template.prompt(Record(pattern.replace(SLOT, name), ""), subject.tokenizer)
        return mention(subject, text, name, special=subject.template.kind != "chat")

    questions = [r.question.replace(name, SLOT) for r in forget if asked and name in r.question]
    patterns = list(dict.fromkeys(questions))[:QUESTIONS] or list(OPENERS)
    contexts = [rendered(p, name) for p in patterns]
    others = [[rendered(p, other) for other in neutral] for p in (patterns if every else patterns[:1])]
    bare = mention(subject, f"{name}.", name, special=True)
    tokens = min(len(c.name) for c in [*contexts, bare]) if all_tokens else 1
    everybody = [other for part in others for other in part]
    parts = [(contexts, everybody)] if average else [
        ([context], others[i] if every else everybody) for i, context in enumerate(contexts)
    ]  # fmt: skip
    return [
        Column(name, back, [c.before(back) for c in some], bare.before(back), [c.before(back) for c in theirs])
        for some, theirs in parts
        for back in range(tokens)
    ]
