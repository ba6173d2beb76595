"""DUCK: features of what must go move to the centre of the nearest wrong class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from expunge.engine.method import Intention, Step, Trained
from expunge.engine.sampling import epochs, uniform
from expunge.errors import InputError
from expunge.vision.forward import per_image
from expunge.vision.methods._checks import above_zero, classes_only, not_negative
from expunge.vision.methods._passes import OwnPasses
from expunge.vision.unlearn import require


@dataclass(frozen=True)
class Kinematics(Trained):
    """One training; labels of the forget stream are the centres [b, d]. See `DUCK`."""

    forget_weight: float
    retain_weight: float
    temperature: float

    def forget_loss(self, step: Step) -> Tensor:
        """forget_weight times the mean cosine distance to the centres."""
        view = step.forget
        loss: Tensor = self.forget_weight * view.per_row(1 - F.cosine_similarity(view.features, view.labels, dim=1))
        return loss

    def retain_loss(self, step: Step) -> Tensor:
        """retain_weight CE(f(x_r) / T, y_r)."""
        view = step.retain
        losses = per_image(view.logits / self.temperature, view.labels)
        loss: Tensor = self.retain_weight * view.per_row(losses)
        return loss


@dataclass(frozen=True)
class DUCK(OwnPasses):
    """L = lambda_f mean cosdist(z, centre) over D_f + lambda_r CE(f(x_r) / T, y_r) over D_r.

    Centres are the means of each class's retained images in the original's penultimate features; each forgotten image
    has the nearest centre of another class by cosine distance, where the original sees it (unaugmented), and keeps it.
    An epoch is a pass over D_f, each step with as many retained images. Running statistics of normalisation layers
    move with all images, unless they are frozen.

    Attributes:
        forget_weight: lambda_f. Source: reference code (Kim et al.).
        retain_weight: lambda_r. Source: reference code (Kim et al.).
        temperature: T of the retained images. Source: reference code.
    """

    paper: ClassVar[str] = (
        "Cotogni, Bonato, Sabetta, Pelosin, Nicolosi, DUCK: Distance-based Unlearning via Centroid Kinematics, 2023 "
        "(arXiv 2312.02052)"
    )
    intention: ClassVar[Intention] = "removal"

    forget_weight: float = 1.5
    retain_weight: float = 1.5
    temperature: float = 2.0

    def __post_init__(self) -> None:
        not_negative(self, "forget_weight", "retain_weight")
        above_zero(self, "temperature")

    def apply(self, job: Any) -> Any:
        """Return the trained subject.

        Raises:
            InputError: No retained images, several labels an image, or no other class among them.
        """
        require(job.retain, "retain", self)
        classes_only(self, job.forget)
        _, kept = job.subject.outputs(job.retain)
        _, gone = job.subject.outputs(job.forget)
        centres, classes = class_means(kept, job.retain.labels)
        goals = centres[nearest_wrong(gone, job.forget.labels, centres, classes)]
        steps, batch = job.training.total_steps(len(job.forget)), job.training.batch_size
        order = epochs(len(job.forget), steps, batch, job.seed, "forget")
        streams = {
            "forget": job.stream(job.forget, order, goals),
            "retain": job.stream(job.retain, uniform(len(job.retain), steps, batch, job.seed, "retain")),
        }
        loss = Kinematics(self.forget_weight, self.retain_weight, self.temperature)
        return job.train(loss, job.subject, streams=streams, freeze_norms=self.freeze_norms)


def class_means(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """[K, d] mean of each class that occurs, and [K] the classes."""
    classes = torch.unique(labels)
    return torch.stack([features[labels == c].mean(0) for c in classes]), classes


def nearest_wrong(features: Tensor, labels: Tensor, centres: Tensor, classes: Tensor) -> Tensor:
    """[n] number of the centre nearest to each image by cosine distance, among those of other classes.

    Raises:
        InputError: An image has no other class to go to.
    """
    similar = F.normalize(features, dim=1) @ F.normalize(centres, dim=1).T
    own = labels[:, None] == classes[None]
    if bool(own.all(1).any()):
        raise InputError("duck: the retained images are all of the class of a forgotten one; there is no other centre.")
    return similar.masked_fill(own, -torch.inf).argmax(1)
