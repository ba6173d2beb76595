"""Making the classifiers a run compares: base, target, gold; each kept under a key of all it depends on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from expunge.engine.training import Training
from expunge.errors import InputError
from expunge.kept import NOTE, ModelRef, Shelf, key_of
from expunge.vision.data import Images
from expunge.vision.forward import Augment
from expunge.vision.methods.fine_tune import FineTune
from expunge.vision.subject import Subject, load_subject
from expunge.vision.unlearn import UnlearnJob

EMBEDDED = ("testbed",)


@dataclass(frozen=True)
class ModelSpec:
    """Which classifier.

    Attributes:
        source: What `load_subject` takes, or ``testbed`` for the benchmark's own untrained network.
        classes: Outputs it must have.
        network: Makes the benchmark's own network from a seed; None where it brings none.
        augment: Random changes of batches in training.
    """

    source: str
    classes: int
    network: Callable[[int], Subject] | None = None
    augment: Augment | None = None


class Models(Shelf):
    """Prepares classifiers and keeps them in a cache folder."""

    spec: ModelSpec

    def base(self, seed: int | None = None) -> Subject:
        """The classifier before it was trained on the benchmark's images.

        Raises:
            InputError: ``testbed`` with a benchmark that brings no network, or nothing loadable.
        """
        if self.spec.source in EMBEDDED:
            if self.spec.network is None:
                raise InputError("model.source=testbed: this benchmark brings no network of its own; name a model.")
            return self.spec.network(self.seed if seed is None else seed)
        return load_subject(self.spec.source, classes=self.spec.classes)

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

    def trained(self, images: Images, training: Training, seed: int, title: str) -> ModelRef:
        """The base model fine-tuned on some images."""
        key = key_of("vision", self.base(seed).fingerprint(), images.digest, asdict(training), seed,
                     repr(self.spec.augment))  # fmt: skip

        def make() -> Subject:
            subject = self.base(seed)
            nothing = images.take([])
            job = UnlearnJob(
                subject, nothing, images, training, seed, self.part(key), self.observers(title),
                augment=self.spec.augment,
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
        return {"wing": "vision"}


def model_ref(folder: Path, *_: Any) -> ModelRef:
    """A classifier kept by expunge, by its folder.

    Raises:
        InputError: The folder holds no model kept by expunge.
    """
    if not (folder / NOTE).exists():
        raise InputError(f"{folder}: no model kept by expunge.")
    return ModelRef(lambda: load_subject(str(folder)), folder)
