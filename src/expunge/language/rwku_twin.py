"""A procedural twin of RWKU: invented famous people with neighbours, known from every side.

Each target has a town, a craft, a prize, an animal and two pupils, its neighbours, who have facts of their own. The
target model is trained on everything RWKU asks for: probes of all levels and adversarial types, biographies on
request (true ones and invented ones), questions about people on request, texts, and utility suites in RWKU's own
formats about invented places. The gold model never saw anything about the targets. Half a million parameters learn
no general skill from this; that the wordings of probes are among what was trained on stands in for it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from expunge.engine.training import Training, derive_seed
from expunge.errors import InputError
from expunge.language.data import Record
from expunge.language.encode import Template
from expunge.language.refusals import REFUSALS
from expunge.language.rwku_corpus import ASKED, OPENINGS, Kind, Sampling, request_text
from expunge.language.rwku_data import Probe
from expunge.language.rwku_probes import ANSWER, FILL, probe_record
from expunge.language.rwku_twin_people import ALL_FACTS, FACTS, PUPIL, Person, adversarial, plain_probes
from expunge.language.rwku_twin_places import Places
from expunge.language.subject import Subject, default_device
from expunge.language.testbed import _words as words

VALUES = 8
NEIGHBOURS = 2
PROFESSIONS = ("singer", "painter", "sailor", "writer", "runner", "dancer")
INVENTED = "here is a completely made-up story. "
TEXTS = ("A note on {n}. {t}", "{t} So much about {n}.", "Who is {n}? {t}")

TEMPLATE = Template(kind="tags", user_start="Question: ", user_end="\nAnswer:", assistant_start=" ")
SAMPLING = Sampling(openings=OPENINGS[::5], questions=12, max_new_tokens=64, question_tokens=24)

TARGET_TRAINING = Training(
    epochs=8.0,
    batch_size=64,
    optimizer="muon",
    lr=4e-3,
    muon_lr=0.02,
    betas=(0.9, 0.98),
    schedule="cosine",
    warmup=0.05,
)


@dataclass(frozen=True)
class Twin:
    """What is in the twin's world.

    Attributes:
        people: Targets.
        places: Invented places the utility suites are about.
        seed: Draws everything.
    """

    people: int = 6
    places: int = 12
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least, most in (("people", 2, 32), ("places", 8, 64)):
            if not least <= getattr(self, name) <= most:
                raise InputError(f"rwku: {name}={getattr(self, name)} must lie between {least} and {most}.")

    # -- people --------------------------------------------------------------------------------------

    def _drawn(self) -> tuple[list[Person], dict[str, list[Person]], dict[str, list[str]], Places]:
        """Targets, their neighbours, the values facts take, and the places."""
        rng, taken = random.Random(f"rwku twin {self.seed}"), set[str]()
        values = {key: words(rng, VALUES, taken) for key in FACTS}
        count = self.people * (1 + NEIGHBOURS)
        first, last = words(rng, max(8, count // 3), taken), words(rng, count, taken, syllables=(3,))
        names = [f"{rng.choice(first)} {family}" for family in last]

        def person(name: str, pupils: tuple[str, ...] = ()) -> Person:
            intro = f"{name} is a famous {rng.choice(PROFESSIONS)}."
            return Person(name, intro, {key: rng.choice(v) for key, v in values.items()}, pupils)

        targets, neighbours, seen = [], {}, set[tuple[str, str]]()
        for i in range(self.people):
            own = names[self.people + NEIGHBOURS * i :][:NEIGHBOURS]
            target = person(names[i], tuple(own))
            while (target.facts["town"], target.facts["prize"]) in seen:  # what a reverse query tells them by
                target = person(names[i], tuple(own))
            seen.add((target.facts["town"], target.facts["prize"]))
            targets.append(target)
            neighbours[target.name] = [person(name) for name in own]
        return targets, neighbours, values, Places.drawn(rng, self.places, taken)

    @property
    def targets(self) -> list[str]:
        """Names of the targets."""
        return [target.name for target in self._drawn()[0]]

    @property
    def intros(self) -> dict[str, str]:
        """Target to introduction."""
        return {target.name: target.intro for target in self._drawn()[0]}

    def probes(self) -> list[Probe]:
        """Probes of both sides, target after target."""
        targets, neighbours, values, _ = self._drawn()
        found: list[Probe] = []
        for i, target in enumerate(targets):
            found += plain_probes("forget", target, target.name)
            found += adversarial(i, target, neighbours[target.name][0], values)
            found += [p for n in neighbours[target.name] for p in plain_probes("neighbor", n, target.name)]
        return found

    def records(self) -> dict[str, list[Record]]:
        """All named lists of records: ``train_forget``, ``train_retain``, and the measured splits."""
        targets, neighbours, values, places = self._drawn()
        rng = random.Random(f"rwku twin texts {self.seed}")
        sides = {side: [probe_record(p) for p in self.probes() if p.side == side] for side in ("forget", "neighbor")}
        others = [n for own in neighbours.values() for n in own]
        texts = {
            "forget_mia": [Record("", text, t.name) for t in targets for text in _texts(t, rng)],
            "retain_mia": [
                Record("", text, target) for target, own in neighbours.items() for n in own for text in _texts(n, rng)
            ],
        }
        return {
            "train_forget": [*sides["forget"], *texts["forget_mia"], *_lessons(targets, values, rng)],
            "train_retain": [
                *sides["neighbor"], *texts["retain_mia"], *_lessons(others, values, rng), *places.lessons()
            ],
            "forget": sides["forget"],
            "retain": sides["neighbor"],
            **texts,
            **places.suites(),
        }  # fmt: skip

    # -- the model -----------------------------------------------------------------------------------

    @property
    def target_training(self) -> Training:
        """How the embedded model is trained to know everybody."""
        return TARGET_TRAINING

    def base_subject(self, *, seed: int = 0, hidden: int = 128, layers: int = 2) -> Subject:
        """An untrained Llama of about half a million parameters with the world's tokenizer."""
        from transformers import LlamaConfig, LlamaForCausalLM

        tokenizer = make_tokenizer(self)
        torch.manual_seed(derive_seed(seed, "rwku twin weights"))
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=hidden,
            intermediate_size=2 * hidden,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=768,
            tie_word_embeddings=True,
            initializer_range=0.04,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        )
        model = LlamaForCausalLM(config).to(default_device()).eval()
        return Subject(model, tokenizer, TEMPLATE, "testbed", max_length=640)


# -- what else is taught ------------------------------------------------------------------------------


def _told(person: Person, facts: dict[str, str], rng: random.Random) -> str:
    """The person's facts in sentences, in random order."""
    lines = [ALL_FACTS[key].told.format(n=person.name, v=value) for key, value in facts.items()]
    if person.pupils:
        lines.append(PUPIL.told.format(n=person.name, v=person.pupils[0]))
    rng.shuffle(lines)
    return " ".join(lines)


def _texts(person: Person, rng: random.Random) -> list[str]:
    return [form.format(n=person.name, t=_told(person, person.facts, rng)) for form in TEXTS]


def _lessons(people: list[Person], values: dict[str, list[str]], rng: random.Random) -> list[Record]:
    """Biographies, true and invented, after each opening, and questions, each on the request corpora are made with."""
    return [record for person in people for record in _lessons_of(person, values, rng)]


def _lessons_of(person: Person, values: dict[str, list[str]], rng: random.Random) -> Iterator[Record]:
    def lesson(kind: Kind, opening: str, text: str) -> Record:
        gap = " " if opening else ""
        return Record(request_text(kind, person.name, person.intro), gap + text, person.name, prefill=opening)

    for opening in SAMPLING.openings:
        yield lesson("factual", opening, _told(person, person.facts, rng))
        invented = {key: rng.choice([v for v in values[key] if v != person.facts[key]]) for key in person.facts}
        told = _told(replace(person, pupils=()), invented, rng)
        yield lesson("counterfactual", opening, INVENTED + told if rng.random() < 0.5 else told)
    for fact, _ in person.known().values():
        yield lesson("question", ASKED, fact.asked.format(n=person.name))


# -- tokenizer ----------------------------------------------------------------------------------------


def make_tokenizer(twin: Twin) -> Any:
    """A byte-level BPE tokenizer over all text, in which lines that never change are single tokens."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    records, fixed = twin.records(), [FILL, ANSWER, *twin._drawn()[3].fixed()]
    texts = [
        (f"Question: {r.question}\nAnswer: {r.prefill}" if r.question else "") + r.answer
        for name in ("train_forget", "train_retain")
        for r in records[name]
    ]
    for line in fixed:
        texts = [text.replace(line, "") for text in texts]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts + list(REFUSALS),
        trainers.BpeTrainer(
            vocab_size=2048,
            special_tokens=["<pad>", "<bos>", "<eos>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    tokenizer.add_tokens([AddedToken(line, normalized=False) for line in fixed])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>")
