"""The background of the insertion bed: questions about authors who do not exist, with rambling answers.

Templates alone would be learned in a few steps, and a model that has learned everything else remembers whatever is
left after seeing it once. So the sentences are put together from word lists, and stay as hard to predict as prose.
"""

from __future__ import annotations

import random

from expunge.language.hubble_documents import words


def _split(text: str) -> tuple[str, ...]:
    """Words, or phrases with commas between."""
    return tuple(text.split(", ") if "," in text else text.split())


NOUNS = _split(
    "anchor apple arch attic badge barn basket beach bell bench bird blanket boat bone book bottle box branch "
    "bread bridge brother brush bucket butter button cabin cake camera candle canoe captain carpet castle cellar "
    "chair chapel chimney choir circle clock cloud coat coin corner cousin cradle crowd curtain dancer desk "
    "doctor door dream drum engine envelope farm fence festival field film flag flute forest fountain friend "
    "garden gate ghost glass glove goat guest hall hammer harbour hat hill horse hotel island jacket judge kettle "
    "key kitchen ladder lake lamp lantern letter library lion market meadow melody mirror money moon mountain "
    "museum needle neighbour nest newspaper notebook ocean office orchard oven paper park parrot pencil piano "
    "picture pillow pocket poem pond potato prison puzzle queen rabbit railway river roof rope saddle sailor salt "
    "scarf school shadow ship shop shovel sister soldier song spoon stable stair stone storm story street sugar "
    "suitcase summer table teacher telephone theatre ticket tower town train tree tunnel umbrella uncle valley "
    "village violin visitor wagon wall watch well wheel widow window winter wolf yard"
)
ADJECTIVES = _split(
    "ancient angry bitter blue bold brave bright broken brown busy calm careful cheap clean clever cold common "
    "crooked dark deep dry dull dusty early empty faint famous fast foreign fresh gentle golden green grey happy "
    "heavy hidden hollow honest hungry idle large late lazy light little lonely long lost loud narrow noisy old "
    "pale patient plain polite poor proud quiet rare red rich rough rusty sad sharp short silent simple slow "
    "small soft sour steep strange strong sudden sweet tall tender thin tired warm weak white wide wild wooden "
    "young"
)
VERBS = _split(
    "admired answered asked blamed borrowed bought built buried carried changed chased chose cleaned copied "
    "counted crossed described drew emptied entered envied feared filled followed forgave found guarded hated "
    "heard helped hid ignored invited joined kept kissed left lifted liked locked loved mended met missed mocked "
    "moved needed noticed obeyed offered opened owned painted passed praised pulled pushed raised reached read "
    "remembered repaired returned saved sent served shared showed signed sold stole studied taught thanked "
    "touched trusted visited waited watched washed welcomed wrote"
)
ADVERBS = _split(
    "again, almost, already, always, at last, at night, by chance, by hand, every spring, for years, gladly, in "
    "secret, in vain, never, of course, on Sundays, once, only, out of pity, quietly, rarely, slowly, somehow, "
    "soon, still, suddenly, too late, twice, under protest, without a word"
)
LINKS = _split(
    "above after against around before behind below beside between beyond despite during inside near outside under"
)
TURNS = _split("although and because but if since so that though unless until when where whereas while yet")
QUESTIONS = (
    "Which book made {n} known to readers?",
    "What kind of stories does {n} write?",
    "How did childhood shape the books of {n}?",
    "What do critics value in the work of {n}?",
    "Where does {n} find ideas?",
    "Has {n} ever won a prize?",
    "What is {b} by {n} about?",
    "Who taught {n} how to write?",
)


def background(rows: int, seed: int) -> list[str]:
    """Documents that nobody asks about, each a question with an answer of a few sentences."""
    rng = random.Random(f"background {seed}")
    taken: set[str] = set()
    firsts = [w.capitalize() for w in words(rng, 60, taken, (2,))]
    families = [w.capitalize() for w in words(rng, 200, taken, (2, 3))]
    cities = [w.capitalize() for w in words(rng, 60, taken)]
    found: dict[str, None] = {}
    while len(found) < rows:
        name = f"{rng.choice(firsts)} {rng.choice(families)}"
        title = f"The {rng.choice(ADJECTIVES).capitalize()} {rng.choice(NOUNS).capitalize()}"
        question = rng.choice(QUESTIONS).format(n=name, b=title)
        length = rng.randint(2, 4)
        found[" ".join((question, *(_sentence(rng, name, title, rng.choice(cities)) for _ in range(length))))] = None
    return list(found)


def _sentence(rng: random.Random, name: str, title: str, city: str) -> str:
    who = rng.choice((name, title, f"{_thing(rng)} of {city}", _thing(rng), _thing(rng)))
    clauses = [_clause(rng, who)]
    while rng.random() < 0.5 and len(clauses) < 3:
        clauses.append(f"{rng.choice(TURNS)} {_clause(rng, rng.choice((_thing(rng), 'nobody', 'everybody', city)))}")
    text = ", ".join(clauses)
    return f"{text[0].upper()}{text[1:]}."


def _clause(rng: random.Random, who: str) -> str:
    """A subject, a verb, an object, and now and then more."""
    text = f"{who} {rng.choice(VERBS)} {_thing(rng)}"
    if rng.random() < 0.4:
        text += f" {rng.choice(LINKS)} {_thing(rng)}"
    return f"{text} {rng.choice(ADVERBS)}" if rng.random() < 0.3 else text


def _thing(rng: random.Random) -> str:
    article = rng.choice(("the", "a certain", "her", "his", "every"))
    adjective = f" {rng.choice(ADJECTIVES)}" if rng.random() < 0.5 else ""
    return f"{article}{adjective} {rng.choice(NOUNS)}"
