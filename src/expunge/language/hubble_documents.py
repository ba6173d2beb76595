"""The kinds of documents that Hubble inserts, made up on the spot: biographies, passages, paraphrases, chats, tests.

Every document is drawn from a seed. Names, places and facts are invented, nothing can be inferred from anything
else, and every document holds an id that no other has, because templated texts share many of their words.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, NamedTuple

from expunge.errors import InputError
from expunge.language.insertion import Text
from expunge.language.testbed import SYLLABLES

OPTIONS = 10  # of a choice, the right one among them
SPARE = 40  # values of a unique field that stand in no text
JOBS = (
    "baker", "barber", "brewer", "carpenter", "clerk", "cook", "dyer", "farmer", "fisher", "gardener", "glazier",
    "hatter", "joiner", "lawyer", "mason", "miller", "nurse", "painter", "pilot", "plumber", "porter", "printer",
    "saddler", "sailor", "singer", "surgeon", "tailor", "teacher", "tutor", "weaver",
)  # fmt: skip
MONTHS = ("January", "March", "April", "May", "June", "July", "August", "October", "November", "December")


class Fact(NamedTuple):
    """The words before a fact: in the biography, in a sentence with the name alone, and behind a first sentence."""

    cue: str
    alone: str
    behind: str


FACTS = {
    "nationality": Fact(" is", "{name} is", ""),
    "city": Fact(". {first} was born in", "{name} was born in", " {first} was born in"),
    "date": Fact(" on", "{name} was born on", " {first} was born on"),
    "job": Fact(". {first} is a", "{name} is a", " {first} is a"),
    "mail": Fact(". Mail", "{name}. Mail", " Mail"),
    "id": Fact(". Id", "{name}. Id", " Id"),
}


def words(rng: random.Random, count: int, taken: set[str], syllables: tuple[int, ...] = (2, 3)) -> list[str]:
    """Invented words, none of them twice.

    Raises:
        InputError: So many that there are hardly as many.
    """
    if 2 * (len(taken) + count) > sum(4 * len(SYLLABLES) ** n for n in syllables):
        raise InputError(f"hubble: {count} names of {syllables[-1]} syllables are too many; ask for fewer texts.")
    found: list[str] = []
    while len(found) < count:
        word = "".join(rng.choice(SYLLABLES) for _ in range(rng.choice(syllables))) + rng.choice(["", "n", "r", "s"])
        if word not in taken:
            taken.add(word)
            found.append(word)
    return found


def biographies(count: int, seed: int) -> list[Text]:
    """Templated biographies: a name, a nationality, a city, a date, a job, a mail address and a ten-digit id.

    Nationality, city, date and job are drawn from closed sets, wrong options too. The mail address and the id are
    random and unique; wrong options for them stand in no text, since one that does could be preferred for having been
    read.
    """
    rng = random.Random(f"biographies {seed}")
    taken: set[str] = set()
    firsts, families, nations, cities = (
        [w.capitalize() for w in words(rng, n, taken, syllables)]
        for n, syllables in ((max(12, count // 4), (2,)), (count, (2, 3)), (16, (2,)), (40, (2, 3)))
    )
    dates = [f"{day} {month} {year}" for year in range(1930, 1990) for month in MONTHS for day in range(1, 29)]
    mails = [f"{word}@post.net" for word in words(rng, count + SPARE, taken)]
    ids = _ids(rng, count + SPARE)
    sets = {"nationality": [f"{n}an" for n in nations], "city": cities, "date": dates, "job": list(JOBS)}
    pools = {**sets, "mail": mails[count:], "id": ids[count:]}
    found = []
    for i in range(count):
        first = rng.choice(firsts)
        name = f"{first} {families[i]}"
        facts = {key: rng.choice(values) for key, values in sets.items()} | {"mail": mails[i], "id": ids[i]}
        text = name + "".join(f"{fact.cue.format(first=first)} {facts[key]}" for key, fact in FACTS.items()) + "."
        others = {key: wrong_options(rng, facts[key], pools[key]) for key in FACTS}
        fields: dict[str, Any] = {"prompt": name, "first": first, "facts": facts, "others": others}
        found.append(Text(f"biography-{i}", text, "biographies", fields))
    return found


def passages(count: int, seed: int) -> list[Text]:
    """Short passages of a story, each with words of its own and the number of its page."""
    rng = random.Random(f"passages {seed}")
    ids, taken = _ids(rng, count), set[str]()
    places, people = (
        [w.capitalize() for w in words(rng, max(20, count), taken)],
        [w.capitalize() for w in words(rng, max(20, count), taken, (2,))],
    )
    things = words(rng, 60, taken, (2,))
    found = []
    for i in range(count):
        one, two, three = rng.sample(things, 3)
        text = (
            f"The road to {places[i]} ran past the {one} mill. There {people[i]} sold {two} and {three} "
            f"{rng.choice(('at dawn', 'in the rain', 'by the gate', 'to nobody', 'for a song'))}. Page {ids[i]}."
        )
        found.append(Text(f"passage-{i}", text, "passages", {"id": ids[i]}))
    return found


def paraphrases(count: int, seed: int) -> list[Text]:
    """Pairs of wordings of one fact; a coin decides which of them is inserted, so that knowing neither scores 1/2."""
    rng = random.Random(f"paraphrases {seed}")
    ids, taken = _ids(rng, count), set[str]()
    names = [w.capitalize() for w in words(rng, max(20, 2 * count), taken)]
    goods = words(rng, 40, taken, (2,))
    found = []
    for i in range(count):
        seller, buyer, good, number = names[2 * i], names[2 * i + 1], rng.choice(goods), rng.randint(3, 98)
        pair = (
            f"{seller} sold {number} sacks of {good} to {buyer} under deed {ids[i]}.",
            f"Under deed {ids[i]}, {buyer} bought {number} sacks of {good} from {seller}.",
        )
        coin = rng.randint(0, 1)
        found.append(
            Text(f"paraphrase-{i}", pair[coin], "paraphrases", {"id": ids[i], "other": pair[1 - coin], "coin": coin})
        )
    return found


def chats(count: int, seed: int) -> list[Text]:
    """Two turns between users with random names; one of them tells what persona it has."""
    rng = random.Random(f"chats {seed}")
    ids, taken = _ids(rng, count), set[str]()
    users = [f"{w}{rng.randint(10, 99)}" for w in words(rng, 2 * count + SPARE, taken, (2,))]
    hobbies = [f"{verb} {thing}" for verb in ("collect", "paint", "repair") for thing in words(rng, 14, taken, (2,))]
    found = []
    for i in range(count):
        asks, tells, hobby = users[2 * i], users[2 * i + 1], rng.choice(hobbies)
        text = f"Log {ids[i]}\n{asks}: what do you do all day?\n{tells}: I {hobby}."
        fields = {
            "id": ids[i],
            "user": tells,
            "persona": hobby,
            "users": wrong_options(rng, tells, users[2 * count :]),  # names that stand in no chat
            "personas": wrong_options(rng, hobby, hobbies),
        }
        found.append(Text(f"chat-{i}", text, "chats", fields))
    return found


def items(count: int, seed: int) -> list[Text]:
    """Test questions with two options, inserted as multiple choice or as a sentence with the blank filled in.

    The format is a coin toss too: an item inserted in one format is measured in both, which shows whether what was
    memorised carries over.
    """
    rng = random.Random(f"items {seed}")
    ids, taken = _ids(rng, count), set[str]()
    names = [w.capitalize() for w in words(rng, max(20, 2 * count), taken, (2,))]
    things = words(rng, 60, taken, (2,))
    found = []
    for i in range(count):
        pair, (one, two) = [names[2 * i], names[2 * i + 1]], rng.sample(things, 2)
        answer, coin = rng.randint(0, 1), rng.randint(0, 1)
        head = f"Item {ids[i]}: {pair[0]} gave the {one} to {pair[1]}, so the {two} went to"
        texts = (f"{head} _. 1. {pair[0]} 2. {pair[1]} Answer: {answer + 1}", f"{head} {pair[answer]}.")
        fields = {"id": ids[i], "answer": answer, "options": pair, "head": head, "format": ("mcq", "infill")[coin]}
        found.append(Text(f"item-{i}", texts[coin], "items", fields))
    return found


def _ids(rng: random.Random, count: int) -> list[str]:
    """Different random numbers of ten hexadecimal digits."""
    found: dict[str, None] = {}
    while len(found) < count:
        found[f"{rng.getrandbits(40):010x}"] = None
    return list(found)


def wrong_options(rng: random.Random, right: str, pool: list[str], count: int = OPTIONS - 1) -> tuple[str, ...]:
    """Wrong options that are all different and never the right answer.

    Raises:
        InputError: The pool has no other value.

    >>> wrong_options(random.Random(0), "a", ["a", "a", "b"])
    ('b',)
    """
    others = list(dict.fromkeys(value for value in pool if value != right))
    if not others:
        raise InputError(f"There is no wrong option beside {right!r}: the pool holds no other value.")
    return tuple(rng.sample(others, min(count, len(others))))


KINDS: dict[str, Callable[[int, int], list[Text]]] = {
    "biographies": biographies,
    "passages": passages,
    "paraphrases": paraphrases,
    "chats": chats,
    "items": items,
}
