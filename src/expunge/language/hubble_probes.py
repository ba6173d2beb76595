"""Questions about made-up documents: every fact of a biography under four attacks, chats, and test items."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from expunge.errors import InputError
from expunge.language.hubble_documents import FACTS
from expunge.language.insertion import Text
from expunge.language.metrics._choices import Choice

STRENGTHS = ("full", "before", "intro", "name")  # how much an attacker knows of a biography, from most to least


def probes(texts: Iterable[Text], split: str, *, strengths: tuple[str, ...] = STRENGTHS) -> list[Choice]:
    """Questions about some texts; kinds of documents nobody asks about (passages, paraphrases) have none.

    Raises:
        InputError: An unknown strength.
    """
    unknown = next((s for s in strengths if s not in STRENGTHS), None)
    if unknown is not None:
        raise InputError(f"hubble: strength {unknown!r} must be one of {', '.join(STRENGTHS)}.")
    found: list[Choice] = []
    for text in texts:
        if text.kind == "biographies":
            found += [c for s in strengths for fact in FACTS if (c := biography_probe(text, fact, s, split))]
        elif text.kind == "chats":
            found += _chat(text, split)
        elif text.kind == "items":
            found += _item(text, split)
    return found


def biography_probe(text: Text, fact: str, strength: str, split: str) -> Choice | None:
    """One fact of a biography among wrong values; None where the attacker already knows it.

    ``full`` gives the text before and behind the fact, ``before`` the text before it, ``intro`` a sentence with name
    and nationality, ``name`` the name alone. Behind the last two stand the words the fact follows in the text.
    """
    fields, facts, name = text.fields, text.fields["facts"], text.fields["prompt"]
    options = tuple(f" {value}" for value in (facts[fact], *fields["others"][fact]))
    if strength == "name":
        alone = FACTS[fact].alone.format(name=name)
        return Choice("biography.name", split, text.id, alone, options, generate=True)
    if strength == "intro":
        if fact == "nationality":
            return None
        intro = f"{name} is {facts['nationality']}.{FACTS[fact].behind.format(first=fields['first'])}"
        return Choice("biography.intro", split, text.id, intro, options, generate=True)
    before = name
    for key, words in FACTS.items():
        before += words.cue.format(first=fields["first"])
        if key == fact:
            break
        before += f" {facts[key]}"
    if strength == "before":
        return Choice("biography.before", split, text.id, before, options, generate=True)
    return Choice("biography.full", split, text.id, before, options, text.text[len(before + options[0]) :])


def id_probe(text: Text, split: str) -> Choice:
    """The text's unique id, given all that stands before it."""
    own = text.fields["facts"]["id"] if text.kind == "biographies" else text.fields["id"]
    head, _, _ = text.text.partition(own)
    wrong = hashlib.blake2b(own.encode(), digest_size=len(own) // 2).hexdigest()  # as random, and in no text
    space = head[len(head.rstrip(" ")) :]
    return Choice("id", split, text.id, head.rstrip(" "), (space + own, space + wrong), generate=True)


def _chat(text: Text, split: str) -> list[Choice]:
    fields = text.fields
    head, _, tail = text.text.rpartition(fields["user"])
    persona = text.text[: text.text.rindex(f" {fields['persona']}")]
    users = (fields["user"], *fields["users"])
    personas = tuple(f" {p}" for p in (fields["persona"], *fields["personas"]))
    return [
        Choice("chat.user", split, text.id, head, users, tail),
        Choice("chat.persona", split, text.id, persona, personas, ".", generate=True),
    ]


def _item(text: Text, split: str) -> list[Choice]:
    """A test item in both formats; the task says which one was inserted and which is asked."""
    fields = text.fields
    answer, pair, inserted = fields["answer"], fields["options"], fields["format"]
    letters = (f" {answer + 1}", f" {2 - answer}")
    names = (f" {pair[answer]}.", f" {pair[1 - answer]}.")
    listed = f"{fields['head']} _. 1. {pair[0]} 2. {pair[1]} Answer:"
    asked = {"mcq": (listed, letters), "infill": (fields["head"], names)}
    return [
        Choice(f"items.{form}" if form == inserted else f"items.{form}_on_{inserted}", split, text.id, *asked[form])
        for form in ("mcq", "infill")
    ]
