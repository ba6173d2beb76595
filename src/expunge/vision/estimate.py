"""What training a classifier will cost: one step of it, timed."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from expunge.engine.training import Training
from expunge.vision.data import Images
from expunge.vision.forward import per_image
from expunge.vision.subject import Subject
from expunge.vision.workload import Workload
from expunge.wing import Cost

TIMED = 32  # images


@dataclass(frozen=True)
class ImageEstimate:
    """See `expunge.wing.Estimate`.

    Attributes:
        parameters: Of the model.
        seconds: Of one image's forward and backward pass.
        images: Measured in one audit.
        attacked: Images that attacks train on, all together.
    """

    parameters: int
    seconds: float
    images: int
    attacked: int

    @classmethod
    def of(cls, subject: Subject, workload: Workload, attacked: int) -> ImageEstimate:
        """From one training step on a few images."""
        few = workload.forget.take(range(min(TIMED, len(workload.forget))))
        pixels = few.pixels(torch.arange(len(few))).to(subject.device)
        labels = few.labels.to(subject.device)
        started = time.perf_counter()
        for _ in range(2):  # the first one warms up
            started = time.perf_counter()
            per_image(subject.model(pixels), labels).mean().backward()
            subject.model.zero_grad()
        seconds = (time.perf_counter() - started) / len(few)
        return cls(subject.parameters, seconds, sum(map(len, workload.splits.values())), attacked)

    def describe(self, rows: Images) -> str:
        """See `Estimate`."""
        people = len({c for c in rows.clusters if c})
        return f"{len(rows)}, of {people} identities" if people else str(len(rows))

    def training(self, training: Training, rows: Images, sides: int) -> Cost:
        """Weights, gradients and two moments; activations are small beside them and are left out."""
        seconds = training.total_steps(len(rows)) * training.batch_size * sides * self.seconds
        return Cost(seconds, 16.0 * self.parameters)

    def audit(self) -> float:
        """See `Estimate`; a pass forward is a third of a training step."""
        return (self.images / 3 + self.attacked) * self.seconds
