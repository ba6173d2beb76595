"""Amnesiac unlearning as it is commonly run: a wrong label for each forgotten image, once and for all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from expunge.engine.method import Intention
from expunge.engine.sampling import epochs, generator
from expunge.vision.data import concatenate
from expunge.vision.methods._labels import random_labels
from expunge.vision.methods._passes import Descend, OwnPasses
from expunge.vision.unlearn import require


@dataclass(frozen=True)
class Amnesiac(OwnPasses):
    """min CE over D_f with random wrong labels, fixed before training, and D_r, shuffled together.

    An epoch is a pass over both. (The paper also describes undoing the logged updates of single batches, which needs
    them to have been kept in training; that is not this.) Running statistics of normalisation layers move with all
    images, unless they are frozen. Reference settings: Adam, lr 1e-4, 3 epochs, batch 128.

    Attributes:
        freeze_norms: Keep the running statistics of normalisation layers as they are. Source: ours (the reference
            code lets them move).
    """

    paper: ClassVar[str] = (
        "Graves, Nagisetty, Ganesh, Amnesiac Machine Learning, AAAI 2021 (arXiv 2010.10981), as in Chundawat et al., "
        "AAAI 2023 (arXiv 2205.08096)"
    )
    intention: ClassVar[Intention] = "removal"

    def apply(self, job: Any) -> Any:
        """Return the trained subject.

        Raises:
            InputError: No retained images, or a single class.
        """
        require(job.retain, "retain", self)
        both, training = concatenate([job.forget, job.retain]), job.training
        draw = generator(job.seed, "amnesiac")
        wrong = random_labels(job.forget.labels, job.subject.classes, draw, exclude_true=True)
        labels = torch.cat([wrong, job.retain.labels])
        order = epochs(len(both), training.total_steps(len(both)), training.batch_size, job.seed, "joint")
        streams = {"forget": job.stream(both, order, labels)}
        return job.train(Descend(sides=("forget",)), job.subject, streams=streams, freeze_norms=self.freeze_norms)
