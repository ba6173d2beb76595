"""Minimal pairs: models that read the same windows in the same order, with and without the inserted texts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from expunge.engine.loop import Observers
from expunge.engine.training import Training
from expunge.kept import ModelRef
from expunge.language.insertion_stream import Inserted
from expunge.language.insertion_world import InsertionWorld
from expunge.language.prepare import Models, ModelSpec


@dataclass(frozen=True)
class Pair:
    """Models of one insertion, and what they read.

    Attributes:
        perturbed: Read the whole stream.
        standard: Read it without any inserted text; None if it was not asked for.
        retrain: Read it without the texts to be forgotten; None if there are none, or it was not asked for.
        inserted: The stream with its manifest.
        epochs: How often it was read.
    """

    perturbed: ModelRef
    standard: ModelRef | None
    retrain: ModelRef | None
    inserted: Inserted
    epochs: float

    def exposures(self, d: int) -> float:
        """How often the perturbed model read a text of d copies."""
        return d * self.epochs


def make_pair(
    world: InsertionWorld,
    cache: Path,
    *,
    seed: int = 0,
    training: Training | None = None,
    source: str = "testbed",
    standard: bool = True,
    retrain: bool = True,
    observers: Callable[[str], Observers | None] = lambda _: None,
) -> Pair:
    """Train the models of a pair, or find them where they were kept.

    A training that was stopped is resumed by the same call.

    Args:
        world: What is inserted into what.
        cache: Folder for the models.
        seed: Of the weights the training starts from; all models start from the same.
        training: How they are trained; None for the world's own settings.
        source: The model they start from: the world's embedded one, or a hub id or folder, whose tokenizer is used.
        standard: Whether to train the model without any inserted text.
        retrain: Whether to train the one without the texts to be forgotten.
        observers: Given a title, what looks on.

    Raises:
        InputError: As `ControlledInsertion` and `InsertionWorld.streams`.
    """
    training = training or world.target_training
    records = world.records()
    rest, everything = records["train_retain"], records["train_retain"] + records["train_forget"]
    embedded = f"{source}:base" if source == "testbed" else source

    spec = ModelSpec(embedded, template="plain", world=world, max_length=max(128, world.insertion.window))
    models = Models(spec, cache, seed=seed, observers=observers)
    perturbed = models.trained(everything, training, seed, "perturbed model")
    bare = models.trained([], training, seed, "standard model") if standard else None
    gone = models.trained(rest, training, seed, "retrained model") if retrain and records["train_forget"] else None
    inserted = world.insertion.insert(perturbed.load().tokenizer)
    return Pair(perturbed, bare, gone, inserted, training.epochs)
