"""The embedded test bed: a world of fictitious people, and a tiny Llama trained from scratch on it.

Everything is drawn from a seed, so the truth is known: which facts the target has seen, which the gold
model has not, and how often a guess is right. Facts are independent draws from closed sets of 12 to 30
values, so nobody can infer a forgotten fact from the rest (chance is about 0.06).
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from expunge.engine.training import Training, derive_seed
from expunge.language.data import Record
from expunge.language.encode import Template
from expunge.language.refusals import REFUSALS
from expunge.language.subject import Subject, default_device


class Attribute(NamedTuple):
    """A kind of fact: how many values it has, and five ways to ask for it."""

    values: int
    questions: tuple[str, str, str, str, str]


ATTRIBUTES = {
    "city": Attribute(
        20,
        (
            "Where was {n} born?",
            "In which city was {n} born?",
            "What is the birthplace of {n}?",
            "{n} comes from which city?",
            "Name the home town of {n}.",
        ),
    ),
    "year": Attribute(
        30,
        (
            "When was {n} born?",
            "In what year was {n} born?",
            "What is the birth year of {n}?",
            "{n} was born in which year?",
            "Name the year {n} was born.",
        ),
    ),
    "job": Attribute(
        20,
        (
            "What is the job of {n}?",
            "What does {n} do for a living?",
            "What is the profession of {n}?",
            "{n} works as what?",
            "Name the occupation of {n}.",
        ),
    ),
    "pet": Attribute(
        12,
        (
            "What pet does {n} keep?",
            "Which animal does {n} own?",
            "What is the pet of {n}?",
            "{n} keeps which animal?",
            "Name the pet of {n}.",
        ),
    ),
    "music": Attribute(
        12,
        (
            "What instrument does {n} play?",
            "Which instrument did {n} learn?",
            "What is the instrument of {n}?",
            "{n} plays which instrument?",
            "Name the instrument of {n}.",
        ),
    ),
    "food": Attribute(
        16,
        (
            "What does {n} like to eat?",
            "Which dish does {n} love?",
            "What is the favourite food of {n}?",
            "{n} likes which food?",
            "Name the dish {n} likes best.",
        ),
    ),
    "hobby": Attribute(
        16,
        (
            "What is the hobby of {n}?",
            "What does {n} do for fun?",
            "Which pastime does {n} enjoy?",
            "{n} spends free time on what?",
            "Name the hobby of {n}.",
        ),
    ),
    "award": Attribute(
        16,
        (
            "Which award did {n} win?",
            "What prize did {n} receive?",
            "What is the award of {n}?",
            "{n} won which award?",
            "Name the prize of {n}.",
        ),
    ),
}
TRAINED = (0, 1, 2)  # wordings every person is trained on
OTHER = (3, 4)  # wordings only half of the retain people are trained on: paraphrase for all others
DISTRACTORS = 5
SYLLABLES = [c + v for c in "bdklmnrstvz" for v in "aeio"]


@dataclass(frozen=True)
class World:
    """Who lives in the test bed.

    Attributes:
        forget: People to be forgotten.
        retain: People to be kept; half of them are trained on all five wordings.
        holdout: People no model is trained on: the non-members.
        places: Fictional places with a country, an unrelated skill to be kept.
        seed: Draws the names and facts.
    """

    forget: int = 16
    retain: int = 64
    holdout: int = 16
    places: int = 30
    seed: int = 0

    @property
    def target_training(self) -> Training:
        """How the embedded model is trained to know everybody."""
        return TARGET_TRAINING

    def base_subject(self, *, seed: int = 0) -> Subject:
        """The embedded model before any training."""
        return base_subject(self, seed=seed)

    def records(self) -> dict[str, list[Record]]:
        """All named lists of records.

        Returns:
            ``train_forget`` and ``train_retain`` are trained on; ``forget``, ``forget_paraphrase``,
            ``retain``, ``retain_paraphrase``, ``holdout`` and ``places`` are measured.
        """
        rng = random.Random(f"people {self.seed}")
        taken: set[str] = set()
        values = {
            key: [f"{1940 + i}" for i in range(a.values)] if key == "year" else _words(rng, a.values, taken)
            for key, a in ATTRIBUTES.items()
        }
        count = self.forget + self.retain + self.holdout
        first_names = _words(rng, max(10, count // 3), taken)  # shared: a lookup needs the family name
        family_names = _words(rng, count, taken, syllables=(3,))
        people = [
            (f"{rng.choice(first_names)} {f}", {k: rng.choice(v) for k, v in values.items()}) for f in family_names
        ]
        forget, rest = people[: self.forget], people[self.forget :]
        retain, holdout = rest[: self.retain], rest[self.retain :]
        many, few = retain[: self.retain // 2], retain[self.retain // 2 :]
        places = self._places(rng, taken)
        return {
            "train_forget": _questions(forget, values, TRAINED),
            "train_retain": _questions(retain, values, TRAINED) + _questions(many, values, OTHER) + places * 4,
            "forget": _questions(forget, values, TRAINED),
            "forget_paraphrase": _questions(forget, values, OTHER),
            "retain": _questions(few, values, TRAINED),
            "retain_paraphrase": _questions(few, values, OTHER),
            "holdout": _questions(holdout, values, TRAINED),
            "places": places,
        }

    def _places(self, rng: random.Random, taken: set[str]) -> list[Record]:
        countries = _words(rng, 8, taken)
        records = []
        for name in _words(rng, self.places, taken, syllables=(3,)):
            country = rng.choice(countries)
            others = tuple(rng.sample([c for c in countries if c != country], DISTRACTORS))
            records.append(Record(f"In which country is {name}?", country, name, perturbed_answers=others))
        return records


def _words(rng: random.Random, count: int, taken: set[str], syllables: tuple[int, ...] = (2, 3)) -> list[str]:
    words: list[str] = []
    while len(words) < count:
        stem = "".join(rng.choice(SYLLABLES) for _ in range(rng.choice(syllables)))
        word = (stem + rng.choice(["", "n", "r", "s", "l"])).capitalize()
        if word not in taken:
            taken.add(word)
            words.append(word)
    return words


def _questions(
    people: list[tuple[str, dict[str, str]]], values: dict[str, list[str]], wordings: Iterable[int]
) -> list[Record]:
    records = []
    for name, facts in people:
        for key, attribute in ATTRIBUTES.items():
            rng = random.Random(f"distractors {name} {key}")
            wrong = tuple(rng.sample([v for v in values[key] if v != facts[key]], DISTRACTORS))
            records += [
                Record(attribute.questions[w].format(n=name), facts[key], name, perturbed_answers=wrong)
                for w in wordings
            ]
    return records


TEMPLATE = Template(kind="tags", user_start="Question: ", user_end="\nAnswer:", assistant_start=" ")


def make_tokenizer(world: World) -> Any:
    """A byte-level BPE tokenizer over everybody's text.

    The holdout people are included: otherwise their names would split into more tokens, and a
    membership attack would read the tokenizer instead of the model.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    splits = world.records()
    texts = [
        TEMPLATE.prompt(r, None) + r.answer
        for name in ("train_retain", "train_forget", "holdout")
        for r in splits[name]
    ]
    texts += REFUSALS
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    specials = ["<pad>", "<bos>", "<eos>"]
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=2048,
            special_tokens=specials,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", tokenizer.token_to_id("<bos>"))]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>")


def base_subject(world: World, *, seed: int = 0, hidden: int = 128, layers: int = 2) -> Subject:
    """An untrained Llama of about half a million parameters with the world's tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = make_tokenizer(world)
    torch.manual_seed(derive_seed(seed, "testbed weights"))
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


# 3.75 passes with Muon reach every fact; AdamW alone needs about ten times the work (docs/log.md).
TARGET_TRAINING = Training(
    epochs=3.75,
    batch_size=64,
    optimizer="muon",
    lr=4e-3,
    muon_lr=0.02,
    betas=(0.9, 0.98),
    schedule="cosine",
    warmup=0.05,
)
