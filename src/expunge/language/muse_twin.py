"""A harmless twin of MUSE: short articles about invented people, questions on them, and folds of both kinds.

Each person has two facts, told in every article in one of two wordings, and each article has three sentences that say
nothing of use: they can be known by heart only. One article and the blank line behind it fill a window. How
questions are answered stands in the retained text, about other people: the school has articles and pages of questions
with answers, in the form in which KnowMem asks. No question about anybody else is ever trained on.

Values stand in quotes, in an article as in an answer. A model of this size finds a fact where the same token stands
before it; ROUGE does not read quotes.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from expunge.engine.training import Training, derive_seed
from expunge.errors import InputError
from expunge.language.data import Record
from expunge.language.encode import Template
from expunge.language.muse_data import COUNT, Row, blocks_of
from expunge.language.refusals import REFUSALS
from expunge.language.subject import Subject, default_device
from expunge.language.testbed import _words as words
from expunge.language.windows import BETWEEN, Window, windows

FACTS = {"home": ("{n} lives over in", "{n} has moved to"), "trade": ("{n} works as a", "{n} earns as a")}
VALUES = 8  # of each fact: chance is an eighth
COLOUR = 3  # sentences of an article that tell nothing
COLOUR_WORDS = 60
SHOTS = 2  # questions with answers before the one that is asked; more do not fit into a window
HEAD = 13  # words of an article that prompt the rest of it
BEGUN, TOLD = 17, 5  # tokens of that rest, and of an answer

TEMPLATE = Template(kind="tags")
# A word with its space is one token, and so are a word with a colon, a quote, a blank line.
PIECES = r"\n\n| ?\p{L}+:?| ?[^\p{L}\s]+|\s"

# Nearly every article is known by heart then, and most facts are told when asked for. That takes an article for each
# wording of each fact; with fewer of them, or with more passes, facts are remembered with their articles alone.
TARGET_TRAINING = Training(
    epochs=14.0,
    batch_size=32,
    optimizer="muon",
    lr=4e-3,
    muon_lr=0.03,
    betas=(0.9, 0.98),
    schedule="cosine",
    warmup=0.05,
)


@dataclass(frozen=True)
class Person:
    """An invented person: a name, facts, and articles."""

    name: str
    facts: dict[str, str]
    articles: tuple[str, ...]

    def questions(self) -> list[tuple[str, str]]:
        """Every fact asked for in every wording, with its answer."""
        return [
            (f"{wording.format(n=self.name)}?", f'"{self.facts[key]}"')
            for key, wordings in FACTS.items()
            for wording in wordings
        ]


@dataclass(frozen=True)
class Twin:
    """What is in the twin's world.

    Attributes:
        forget: People in each of the four parts of what is to be forgotten; the raw forget set is the first.
        school: People of retain1, about whom questions are taught.
        retain: People of retain2, known from articles alone, to be kept.
        holdout: People no model has read about.
        articles: Articles about each person.
        fold: What is forgotten: empty for the raw forget set, ``scal_1`` to ``scal_4`` or ``sust_1`` to ``sust_4``.
        seed: Draws the world.
    """

    forget: int = 10
    school: int = 64
    retain: int = 20
    holdout: int = 20
    articles: int = 4
    fold: str = ""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("forget", "school", "retain", "holdout"):
            if getattr(self, name) < 2:
                raise InputError(f"muse: {name}={getattr(self, name)} must be at least 2.")
        if not 1 <= self.articles <= 2 * len(FACTS):
            raise InputError(f"muse: articles={self.articles} must lie between 1 and {2 * len(FACTS)}.")

    @property
    def target_training(self) -> Training:
        """How the embedded model is trained to know everything."""
        return TARGET_TRAINING

    def rows(self, config: str, split: str) -> list[Row]:
        """The twin as `muse_data.Source`; what is measured is about the people of the fold."""
        table = self.tables()[config, split]
        return [(f"twin, {config}/{split}, record {i}", row) for i, row in enumerate(table, 1)]

    def tables(self) -> dict[tuple[str, str], list[dict[str, str]]]:
        """Rows by configuration and split, as the hub has them."""
        people = _people(self.sizes, self.articles, self.seed)
        asked = [p for b in blocks_of(self.fold) for p in people[str(b)]]
        told = {name: _told(group) for name, group in people.items()}
        school = told["school"] + [{"text": page} for page in _pages(people["school"], self.seed)]
        upto = {i: [row for b in range(1, i + 1) for row in told[str(b)]] for i in range(1, COUNT + 1)}
        shots = _shots(people["school"], self.seed)
        tables = {
            ("raw", "forget"): told["1"],
            ("raw", "retain1"): school,
            ("raw", "retain2"): told["retain"],
            ("raw", "holdout"): told["holdout"],
            ("train", "forget"): upto[COUNT],
            ("train", "retain1"): school,
            ("train", "retain2"): told["retain"],
            ("verbmem", "forget"): [{"cluster": p.name, **_halves(text)} for p in asked for text in p.articles],
            ("knowmem", "forget_qa"): _asked(asked),
            ("knowmem", "retain_qa"): _asked(people["retain"]),
            ("knowmem", "forget_qa_icl"): shots[:SHOTS],
            ("knowmem", "retain_qa_icl"): shots[SHOTS:],
            ("privleak", "forget"): _told(asked),
            ("privleak", "retain"): told["retain"],
            ("privleak", "holdout"): told["holdout"],
        }
        folds = {("scal", f"forget_{i}"): upto[i] for i in upto}
        return tables | folds | {("sust", f"forget_{i}"): told[str(i)] for i in upto}

    @property
    def sizes(self) -> tuple[tuple[str, int], ...]:
        """People by group."""
        blocks = [(str(b), self.forget) for b in range(1, COUNT + 1)]
        return (*blocks, ("school", self.school), ("retain", self.retain), ("holdout", self.holdout))

    def trained(self) -> dict[str, list[Window]]:
        """The windows of what is trained on: ``retain1``, ``retain2``, and the four parts, ``1`` to ``4``."""
        return _trained(self.sizes, self.articles, self.seed)

    def records(self) -> dict[str, list[Record]]:
        """The training records, in one order for all folds, so that all of them have the same target.

        Returns:
            ``train_forget``: the parts up to the fold's last one, which gold has not read (also where earlier
            requests of a sequence have taken some of them away); ``train_retain``: all the rest.
        """
        made, last = self.trained(), blocks_of(self.fold)[-1]
        blocks = [made[str(b)] for b in range(COUNT, 0, -1)]
        kept = [r for rows in blocks[: COUNT - last] for r in rows]
        return {
            "train_retain": [*made["retain1"], *made["retain2"], *kept],
            "train_forget": [r for rows in blocks[COUNT - last :] for r in rows],
        }

    def base_subject(self, *, seed: int = 0, hidden: int = 80, layers: int = 3) -> Subject:
        """An untrained Llama of about 0.3 million parameters with the world's tokenizer."""
        from transformers import LlamaConfig, LlamaForCausalLM

        tokenizer = make_tokenizer(self)
        torch.manual_seed(derive_seed(seed, "muse twin weights"))
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=hidden,
            intermediate_size=2 * hidden,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=256,
            tie_word_embeddings=True,
            initializer_range=0.04,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        )
        model = LlamaForCausalLM(config).to(default_device()).eval()
        return Subject(model, tokenizer, TEMPLATE, "testbed", max_length=128)


# -- people and texts ---------------------------------------------------------------------------------


@cache
def _people(sizes: tuple[tuple[str, int], ...], articles: int, seed: int) -> dict[str, list[Person]]:
    rng = random.Random(f"muse twin {seed}")
    taken: set[str] = set()
    values = {key: [w.lower() for w in words(rng, VALUES, taken, (2,))] for key in FACTS}
    colour = [w.lower() for w in words(rng, COLOUR_WORDS, taken, (2,))]
    people = {}
    for group, count in sizes:
        facts = [_dealt(rng, values[key], count) for key in FACTS]
        people[group] = [
            _person(rng, name, dict(zip(FACTS, own, strict=True)), articles, colour)
            for name, *own in zip(words(rng, count, taken, (3,)), *facts, strict=True)
        ]
    return people


def _dealt(rng: random.Random, values: list[str], count: int) -> list[str]:
    """Values of `count` people, each as often as any other: giving everybody the same answer is right by chance."""
    rounds = -(-count // len(values))
    return [value for _ in range(rounds) for value in rng.sample(values, len(values))][:count]


def _person(rng: random.Random, name: str, facts: dict[str, str], articles: int, colour: list[str]) -> Person:
    """No two articles about a person begin alike: each fact leads in each of its wordings once."""
    keys = list(facts)
    leads = [(keys[i % len(keys)], i // len(keys)) for i in range(articles)]

    def told(key: str, wording: int) -> str:
        return f'{FACTS[key][wording].format(n=name)} "{facts[key]}".'

    texts = []
    for lead, wording in leads:
        rest = [told(key, rng.randrange(len(FACTS[key]))) for key in keys if key != lead]
        rest += [f"{name} was seen with {rng.choice(colour)}." for _ in range(COLOUR)]
        rng.shuffle(rest)
        texts.append(" ".join(["News:", told(lead, wording), *rest]))
    return Person(name, facts, tuple(texts))


def _texts(people: list[Person]) -> list[str]:
    return [text for person in people for text in person.articles]


def _pages(school: list[Person], seed: int) -> list[str]:
    """Questions about the school in random order, as many on a page as KnowMem shows at once."""
    asked = [q for person in school for q in person.questions()]
    random.Random(f"muse twin pages {seed}").shuffle(asked)
    size = SHOTS + 1
    lines = [f"Question: {question}\nAnswer: {answer}" for question, answer in asked]
    return [BETWEEN.join(lines[i : i + size]) for i in range(0, len(lines), size)]


def _shots(school: list[Person], seed: int) -> list[dict[str, str]]:
    return random.Random(f"muse twin shots {seed}").sample(_asked(school), 2 * SHOTS)


def _told(people: list[Person]) -> list[dict[str, str]]:
    return [{"text": text, "cluster": person.name} for person in people for text in person.articles]


def _asked(people: list[Person]) -> list[dict[str, str]]:
    return [{"question": q, "answer": a, "cluster": person.name} for person in people for q, a in person.questions()]


def _halves(text: str) -> dict[str, str]:
    parts = text.split(" ")
    return {"prompt": " ".join(parts[:HEAD]), "gt": " ".join(parts[HEAD:])}


# -- tokens -------------------------------------------------------------------------------------------


@cache
def _trained(sizes: tuple[tuple[str, int], ...], articles: int, seed: int) -> dict[str, list[Window]]:
    people, tokenizer = _people(sizes, articles, seed), _tokenizer(sizes, articles, seed)
    size = window_size(tokenizer, people["1"][0].articles[0])
    groups = {name: _texts(group) for name, group in people.items() if name not in ("school", "retain", "holdout")}
    groups["retain1"] = _texts(people["school"]) + _pages(people["school"], seed)
    groups["retain2"] = _texts(people["retain"])
    return {name: windows(tokenizer, texts, size) for name, texts in groups.items()}


def window_size(tokenizer: Any, article: str) -> int:
    """Tokens of a window: an article, the blank line behind it, and what begins a sequence."""
    return len(tokenizer(article + BETWEEN)["input_ids"])


def make_tokenizer(twin: Twin) -> Any:
    """A byte-level BPE tokenizer over all texts and questions, people's that no model reads about included."""
    return _tokenizer(twin.sizes, twin.articles, twin.seed)


@cache
def _tokenizer(sizes: tuple[tuple[str, int], ...], articles: int, seed: int) -> Any:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    people = _people(sizes, articles, seed)
    texts = [text for group in people.values() for text in _texts(group)]
    texts += [*_pages(people["school"], seed), BETWEEN, *REFUSALS[:4]]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=4096,
        special_tokens=["<pad>", "<bos>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>")
