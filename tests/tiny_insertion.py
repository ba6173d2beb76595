"""Small beds of controlled insertion: the recipe of the dose-response, and one with every kind of document."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from expunge.language.evidence import EvidenceStore
from expunge.language.hubble_world import RECIPE, hubble_world
from expunge.language.insertion import Text
from expunge.language.insertion_pair import Pair, make_pair
from expunge.language.insertion_world import TARGET_TRAINING, InsertionWorld
from expunge.language.subject import Subject
from stub_model import Rule, Stub

# Smaller than the world's own model and trained faster, so that a session can afford it.
FAST = replace(TARGET_TRAINING, lr=6e-3)
SMALL: dict[str, Any] = {"hidden": 48, "layers": 1, "target_training": FAST}
KINDS = ("passages", "paraphrases", "chats", "items")
SEED = 1


@dataclass(frozen=True)
class Bed:
    """A trained pair and the world it is of.

    Attributes:
        world: The world.
        pair: Its models.
        target: Read the whole stream; do not change it.
        gold: Did not read the forget texts.
    """

    world: InsertionWorld
    pair: Pair
    target: Subject
    gold: Subject

    def untrained(self) -> Subject:
        """The model before any training."""
        return self.world.base_subject(seed=SEED)

    def store(self, subject: Subject, name: str = "model") -> EvidenceStore:
        """Evidence of a model on all records."""
        records = {k: v for k, v in self.world.records().items() if not k.startswith("train_")}
        return EvidenceStore(name, subject, records)

    def texts(self, kind: str, *doses: int) -> dict[int, list[Text]]:
        """Texts of a kind by number of copies."""
        return {d: self.world.texts(d=d, kind=kind) for d in doses}


def dose_bed(folder: Path) -> tuple[InsertionWorld, Pair]:
    """The recipe, read once: a perturbed and a standard model."""
    world = hubble_world(model=SMALL, seed=SEED)
    assert world.insertion.counts == {"biographies": RECIPE}
    return world, make_pair(world, folder, seed=SEED, retrain=False)


def unlearning_bed(folder: Path) -> Bed:
    """Biographies to be forgotten and kept beside every other kind, read three times: target and retrained model."""
    counts: dict[str, Any] = {"biographies": {0: 16, 16: 12, 64: 2}, **{kind: {0: 10, 16: 2} for kind in KINDS}}
    world = hubble_world(
        counts, rows=430, forget_kind="biographies", forget_d=16, forget=6, seed=SEED,
        model={**SMALL, "hidden": 64, "background": 16},
    )  # fmt: skip
    training = replace(FAST, epochs=3, optimizer="muon", lr=4e-3)
    pair = make_pair(world, folder, seed=SEED, training=training, standard=False)
    assert pair.retrain is not None
    return Bed(world, pair, pair.perturbed.load(), pair.retrain.load())


def told(subject: Subject, rule: Rule) -> Subject:
    """The subject around a model that says what a rule says; decoding it ends with the end-of-sequence token."""
    model: Any = Stub(rule, len(subject.tokenizer))
    model.generation_config = SimpleNamespace(eos_token_id=subject.tokenizer.eos_token_id)
    return subject.with_model(model)


def few(count: int, kind: str = "texts", prefix: str = "") -> list[Text]:
    """Short texts that differ."""
    ways = ("north", "south", "east", "west", "up", "down", "left", "right")
    return [
        Text(f"{kind}-{i}", f"{prefix}note {i} goes {ways[i % 8]} past gate {i * 7 + 3} and ends", kind)
        for i in range(count)
    ]


def background(count: int) -> list[str]:
    """Documents of different lengths."""
    return [" ".join(f"word{(i * j) % 17} of page {i}" for j in range(2 + i % 5)) for i in range(count)]


def same_weights(a: Subject, b: Subject) -> bool:
    """Whether two models are equal bit for bit."""
    theirs = dict(b.model.named_parameters())
    return all(torch.equal(p, theirs[n]) for n, p in a.model.named_parameters())
