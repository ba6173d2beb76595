"""Gradient ascent, then distillation of how alike the retained images are to each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

from expunge.engine.gradients import Turn
from expunge.engine.method import Intention, Step, Trained
from expunge.vision.methods._checks import not_negative, whole_batches
from expunge.vision.methods._passes import OwnPasses, drawn, placed, rounds, steps_of
from expunge.vision.unlearn import require


def similarity_loss(teacher: Tensor, student: Tensor) -> Tensor:
    """||G_t - G_s||_F^2 / b^2, with G = Z Z^T of a batch, each row scaled to unit length.

    Args:
        teacher: [b, d] features.
        student: [b, e] features of the same images.

    Returns:
        Scalar.
    """
    G_t, G_s = (F.normalize(z @ z.T, dim=1) for z in (teacher, student))
    return (G_t - G_s).square().sum() / len(student) ** 2


@dataclass(frozen=True)
class AscendAndMatch(Trained):
    """One training; see `SPKD`."""

    forget_weight: float
    retain_weight: float

    def forget_loss(self, step: Step) -> Tensor:
        """-forget_weight CE(D_f)."""
        loss: Tensor = -self.forget_weight * step.forget.loss
        return loss

    def retain_loss(self, step: Step) -> Tensor:
        """retain_weight times the similarity loss of the batch, against theta_0."""
        view = step.retain
        return self.retain_weight * similarity_loss(view.reference.features, view.features)


@dataclass(frozen=True)
class SPKD(OwnPasses):
    """In every epoch a pass of gradient ascent over D_f, then a pass over D_r that matches theta_0's similarities.

    Ascent: min -CE(D_f). Matching: ||G_t - G_s||_F^2 / b^2 between the row-normalised similarity matrices of a batch,
    on penultimate features. Ascent has no lower bound: `loss_cap` in the training settings ends the run. The images of
    a batch are compared with each other, so a batch is not divided. Running statistics of normalisation layers move
    with all images, unless they are frozen. Reference settings: SGD, lr 1e-5, 15 epochs, batch 128.

    Attributes:
        forget_weight: Weight of the ascent. Source: reference code.
        retain_weight: Weight of the matching. Source: ours.
        max_epochs: Epochs with a pass over D_f; None: all. Source: ours.
    """

    paper: ClassVar[str] = (
        "Tung, Mori, Similarity-Preserving Knowledge Distillation, ICCV 2019 (arXiv 1907.09682), after gradient ascent "
        "in Kim, Cha, Kim, Are We Truly Forgetting?, 2025 (arXiv 2503.06991)"
    )
    intention: ClassVar[Intention] = "removal"
    aliases: ClassVar[str] = "ga-spkd"

    forget_weight: float = 1.0
    retain_weight: float = 1.0
    max_epochs: int | None = None

    def __post_init__(self) -> None:
        not_negative(self, "forget_weight", "retain_weight")
        if self.max_epochs is not None:
            not_negative(self, "max_epochs")

    def apply(self, job: Any) -> Any:
        """Return the trained subject.

        Raises:
            InputError: No retained images, or a batch that is to be divided.
        """
        require(job.retain, "retain", self)
        whole_batches(self, job)
        batch = job.training.batch_size
        forget: list[Turn] = ["forget"] * steps_of(job.forget, batch)
        retain: list[Turn] = ["retain"] * steps_of(job.retain, batch)
        turns = rounds(
            job.training,
            lambda epoch: [*forget, *retain] if self.max_epochs is None or epoch < self.max_epochs else retain,
        )
        streams = {}
        for side, images in (("forget", job.forget), ("retain", job.retain)):
            rows = drawn(images, turns, side, batch, job.seed, side)  # type: ignore[arg-type]
            streams[side] = job.stream(images, placed(rows, turns, side))  # type: ignore[arg-type]
        loss = AscendAndMatch(self.forget_weight, self.retain_weight)
        return job.train(loss, job.subject, streams=streams, turns=turns, freeze_norms=self.freeze_norms)
