"""Random labels: what must go is trained on labels drawn anew each time, what stays on its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from expunge.engine.gradients import Turn
from expunge.engine.loop import Stream
from expunge.engine.method import Intention
from expunge.engine.sampling import epochs, generator
from expunge.vision.data import concatenate
from expunge.vision.methods._checks import one_of
from expunge.vision.methods._labels import random_labels
from expunge.vision.methods._passes import Descend, OwnPasses, drawn, placed, rounds, steps_of, visits
from expunge.vision.unlearn import require

Masks = dict[str, Tensor]


@dataclass(frozen=True)
class RandomLabels(OwnPasses):
    """min CE(D_f, random labels) + CE(D_r, true labels).

    ``sequential``: in every epoch a pass over D_f with labels drawn for every batch, then a pass over D_r.
    ``joint``: labels of D_f drawn once an epoch, D_f and D_r shuffled together; smoothing then sees the whole batch.
    ``forget-only``: the passes over D_f alone. With several yes-or-no labels an image, a whole vector is drawn.
    Running statistics of normalisation layers move with all images that pass, unless they are frozen. Reference
    settings: SGD, momentum 0.9, weight decay 5e-4, lr 0.013, 10 epochs.

    Attributes:
        variant: How the two sets follow each other. Source: reference code (SalUn's: sequential for CIFAR-10, joint
            for CIFAR-100; forget-only of Kim et al. for ImageNet).
        exclude_true: Draw among the other labels only. Source: paper (SalUn, equation 5; its code may draw the true
            one).
    """

    paper: ClassVar[str] = (
        "Golatkar, Achille, Soatto, CVPR 2020 (arXiv 1911.04933), as in Fan et al., SalUn, ICLR 2024 (arXiv 2310.12508)"
    )
    intention: ClassVar[Intention] = "removal"
    aliases: ClassVar[str] = "rl random-label"

    variant: Literal["sequential", "joint", "forget-only"] = "sequential"
    exclude_true: bool = True

    def __post_init__(self) -> None:
        one_of(self, "variant", ("sequential", "joint", "forget-only"))

    def apply(self, job: Any) -> Any:
        """Return the trained subject.

        Raises:
            InputError: No retained images (unless ``forget-only``), or a single class.
        """
        return self.relabel(job, None)

    def relabel(self, job: Any, masks: Masks | None) -> Any:
        """Train, moving only the entries of `masks`; None moves all."""
        if self.variant != "forget-only":
            require(job.retain, "retain", self)
        if self.variant == "joint":
            loss, streams, turns = Descend(masks, ("forget",)), {"forget": self._mixed(job)}, None
        else:
            turns = rounds(job.training, lambda _: self._epoch(job))
            streams = {"forget": self._relabelled(job, turns)}
            if self.variant == "sequential":
                rows = drawn(job.retain, turns, "retain", job.training.batch_size, job.seed, "retain")
                streams["retain"] = job.stream(job.retain, placed(rows, turns, "retain"))
            loss = Descend(masks, tuple(streams))
        return job.train(loss, job.subject, streams=streams, turns=turns, freeze_norms=self.freeze_norms)

    def _epoch(self, job: Any) -> list[Turn]:
        batch = job.training.batch_size
        forget: list[Turn] = ["forget"] * steps_of(job.forget, batch)
        retain: list[Turn] = ["retain"] * steps_of(job.retain, batch)
        return forget if self.variant == "forget-only" else [*forget, *retain]

    def _relabelled(self, job: Any, turns: list[Turn]) -> Stream:
        """D_f at its turns, every visit with a label of its own."""
        rows = drawn(job.forget, turns, "forget", job.training.batch_size, job.seed, "forget")
        labels = self._labels(job, job.forget.labels[rows.flatten()])
        stream = visits(job, job.forget, rows, labels)
        return Stream(stream.examples, placed(stream.order, turns, "forget"))

    def _mixed(self, job: Any) -> Stream:
        """D_f, with labels of the epoch, and D_r in one."""
        both, batch = concatenate([job.forget, job.retain]), job.training.batch_size
        rows = epochs(len(both), job.training.total_steps(len(both)), batch, job.seed, "joint")
        flat = rows.flatten()
        passes = -(-len(flat) // len(both))
        forgotten = job.forget.labels.repeat(passes, *[1] * (job.forget.labels.ndim - 1))
        relabelled = self._labels(job, forgotten).view(passes, *job.forget.labels.shape)
        labels = both.labels[flat].clone()
        gone = flat < len(job.forget)
        labels[gone] = relabelled[(torch.arange(len(flat)) // len(both))[gone], flat[gone]]
        return visits(job, both, rows, labels)

    def _labels(self, job: Any, true: Tensor) -> Tensor:
        draw = generator(job.seed, "random labels")
        return random_labels(true, job.subject.classes, draw, exclude_true=self.exclude_true)
