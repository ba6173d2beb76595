"""A small trained test bed, made once per session: twelve people, known by heart."""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from expunge.language import testbed
from expunge.language.data import Record
from expunge.language.methods.fine_tune import FineTune
from expunge.language.subject import Subject
from expunge.language.testbed import World
from expunge.language.unlearn import UnlearnJob

WORLD = World(forget=4, retain=8, holdout=4, places=6)
TRAINING = replace(testbed.TARGET_TRAINING, epochs=16)


@dataclass(frozen=True)
class Bed:
    """Twelve people on a model of 0.17 million parameters that knows them all.

    Attributes:
        records: The world's named lists of records.
        target: Knows everybody; do not change it, take `fresh` copies.
        gold: Never saw the forget people.
    """

    records: dict[str, list[Record]]
    target: Subject
    gold: Subject

    @property
    def forget(self) -> list[Record]:
        return self.records["train_forget"]

    @property
    def retain(self) -> list[Record]:
        return self.records["train_retain"]

    def fresh(self) -> Subject:
        """A copy of the target that a test may train."""
        return self.target.with_model(copy.deepcopy(self.target.model))

    def base(self) -> Subject:
        """The model before any training."""
        return testbed.base_subject(WORLD, hidden=64)


def make_bed(folder: Path) -> Bed:
    """Train the target and the gold model, or read them from the folder."""
    records = WORLD.records()
    target = _trained(folder / "bed-target.safetensors", records["train_retain"] + records["train_forget"])
    return Bed(records, target, _trained(folder / "bed-gold.safetensors", records["train_retain"]))


def _trained(path: Path, records: list[Record]) -> Subject:
    subject = testbed.base_subject(WORLD, hidden=64)
    parameters = dict(subject.model.named_parameters())
    if not path.exists():
        UnlearnJob(subject, [], records, TRAINING).train(FineTune(), subject)
        temporary = path.with_suffix(f".{os.getpid()}")
        save_file({name: p.detach() for name, p in parameters.items()}, temporary)
        os.replace(temporary, path)
    with torch.no_grad():
        for name, value in load_file(path).items():
            parameters[name].copy_(value)
    return subject
