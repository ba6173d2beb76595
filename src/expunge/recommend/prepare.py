"""Making the recommenders a run compares: base, target, gold; each kept under a key of all it depends on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from expunge.engine.training import Training
from expunge.errors import InputError
from expunge.kept import NOTE, ModelRef, Shelf, key_of
from expunge.recommend.data import Interactions
from expunge.recommend.methods.fine_tune import FineTune
from expunge.recommend.models.base import Recommender
from expunge.recommend.subject import Subject, fresh, load_subject
from expunge.recommend.unlearn import UnlearnJob

EMBEDDED = ("testbed",)


@dataclass(frozen=True)
class ModelSpec:
    """Which recommender.

    Attributes:
        source: What `load_subject` takes, or ``testbed`` for the benchmark's own untrained network.
        train: Interactions of the benchmark: what a model of the user's has to be about.
        network: Makes the benchmark's own untrained network from a seed; None where it brings none.
    """

    source: str
    train: Interactions
    network: Callable[[int], Recommender] | None = None


class Models(Shelf):
    """Prepares recommenders and keeps them in a cache folder."""

    spec: ModelSpec

    def base(self, seed: int | None = None) -> Subject:
        """The recommender before it was trained on the benchmark's interactions.

        Raises:
            InputError: ``testbed`` with a benchmark that brings no network, nothing loadable, or another catalogue.
        """
        if self.spec.source in EMBEDDED:
            if self.spec.network is None:
                raise InputError("model.source=testbed: this benchmark brings no network of its own; name a model.")
            return fresh(self.spec.network(self.seed if seed is None else seed), self.spec.train)
        subject = load_subject(self.spec.source)
        subject.served.require_catalogue_of(self.spec.train)
        return subject

    def adapted_base(self) -> Subject:
        """What the target was trained from."""
        return self.base()

    def delivered(self) -> ModelRef:
        """The model of the source as it is: the target when the recipe trains none.

        Raises:
            InputError: ``testbed``, which is untrained until the recipe trains it.
        """
        if self.spec.source in EMBEDDED:
            raise InputError("model.source=testbed is untrained; say how the target is trained (target.train).")
        return ModelRef(self.base)

    def trained(
        self, interactions: Interactions, training: Training, seed: int, title: str, catalogue: Tensor | None = None
    ) -> ModelRef:
        """The base model trained on some interactions, over their graph.

        Args:
            interactions: What it is trained on, propagates over and serves from.
            training: Settings of the loop.
            seed: Fixes its initial values and every draw.
            title: What it is called while it trains.
            catalogue: Bool [items] that are drawn as negatives and recommended; None for all.
        """
        offered = None if catalogue is None else catalogue.tolist()
        key = key_of(
            "recommend", self.base(seed).fingerprint(), interactions.digest, offered, asdict(training), seed
        )  # fmt: skip

        def make() -> Subject:
            subject = self.base(seed).with_served(interactions, catalogue)
            nothing = interactions.take(torch.zeros(0, dtype=torch.long))
            job = UnlearnJob(
                subject, nothing, interactions, training, seed, self.part(key), self.observers(title)
            )  # fmt: skip
            job.train(FineTune(), subject)
            self.resumed(title, job.logs[0].resumed_at)
            return subject

        return self.keep(key, make, title)

    def other(self, source: str) -> ModelRef:
        """A model given by the user beside the recipe's."""
        return Models(replace(self.spec, source=source), self.cache, seed=self.seed).delivered()

    def ref(self, folder: Path) -> ModelRef:
        """See `Shelf`."""
        return model_ref(folder)

    def feeding(self, subject: Subject) -> dict[str, Any]:
        """See `Shelf`."""
        return {"wing": "recommend"}


def model_ref(folder: Path, *_: Any) -> ModelRef:
    """A recommender kept by expunge, by its folder.

    Raises:
        InputError: The folder holds no model kept by expunge.
    """
    if not (folder / NOTE).exists():
        raise InputError(f"{folder}: no model kept by expunge.")
    return ModelRef(lambda: load_subject(str(folder)), folder)
