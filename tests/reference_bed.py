"""A small world with reference models: eight people of whom half are to be forgotten, learnt only in part."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from expunge.engine.training import Training
from expunge.language import testbed
from expunge.language.data import Record
from expunge.language.evidence import EvidenceStore
from expunge.language.prepare import Models, ModelSpec
from expunge.language.references import ReferenceEvidence, _alone, reference_evidence
from expunge.language.subject import Subject
from expunge.language.testbed import World

COUNT = 8  # reference models
# Too short to learn everything: where the loss tells members from non-members perfectly, nothing can be better.
TRAINING = Training(
    steps=24, batch_size=64, optimizer="muon", lr=4e-3, muon_lr=0.02, betas=(0.9, 0.98), schedule="cosine", warmup=0.05
)


@dataclass(frozen=True)
class SmallWorld(World):
    """A world whose embedded model has 0.2 million parameters."""

    forget: int = 4
    retain: int = 4
    holdout: int = 4
    places: int = 4

    def base_subject(self, *, seed: int = 0) -> Subject:
        return testbed.base_subject(self, seed=seed, hidden=64)


@dataclass(frozen=True)
class ReferenceBed:
    """What the audit of one world finds in the cache.

    Attributes:
        models: Makes and caches the world's models.
        records: The world's named lists of records.
        splits: The measured ones of the forget and holdout people.
        target: Evidence of the model trained on everybody but the holdout people.
        gold: Evidence of the model that never saw the forget people either.
        references: Scores of the reference models.
    """

    models: Models
    records: dict[str, list[Record]]
    splits: dict[str, list[Record]]
    target: EvidenceStore
    gold: EvidenceStore
    references: ReferenceEvidence


def make_reference_bed(factory: pytest.TempPathFactory) -> ReferenceBed:
    """Train everything, or take it from what another worker of the session has trained."""
    folder = factory.getbasetemp()
    cache = Path(folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "reference-bed"
    world = SmallWorld()
    records = world.records()
    splits = {s: records[s] for s in ("forget", "holdout")}
    models = Models(ModelSpec("testbed:base", world=world, max_length=128), cache, seed=0)
    forget, retain = records["train_forget"], records["train_retain"]
    with _alone(cache.with_suffix(".lock")):  # workers that come later find everything
        target = models.trained(retain + forget, TRAINING, 0, "target")
        gold = models.trained(retain, TRAINING.for_share(len(retain), len(retain + forget)), 0, "gold")
        references = reference_evidence(models, forget, retain, splits, TRAINING, seed=0, count=COUNT)
    stores = [EvidenceStore(n, m.load, splits) for n, m in (("target", target), ("gold", gold))]
    return ReferenceBed(models, records, splits, *stores, references)
