"""What the tests of vision methods share: jobs on the tiny faces, and views whose logits are free numbers."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from expunge.engine.method import Step
from expunge.engine.training import Training
from expunge.vision.data import Images
from expunge.vision.faces import GROUPS
from expunge.vision.forward import ImagePass, per_image
from expunge.vision.networks import Shape
from expunge.vision.subject import Subject, small_cnn
from expunge.vision.unlearn import UnlearnJob
from tiny_faces import splits, trained, untrained

STEPS = Training(steps=5, batch_size=8, lr=2e-3, schedule="constant", warmup=0.0, weight_decay=0.0, clip=None)
SGD = replace(STEPS, optimizer="sgd", momentum=0.9, weight_decay=5e-4, lr=0.02)


def job_of(training: Training = STEPS, **changes: Any) -> UnlearnJob:
    """A request to forget the tiny forget people."""
    found = splits()
    job = UnlearnJob(trained(), found["forget"], found["retain"], training, held_out=found["unseen"])
    job.base, job.base_training = untrained, training
    return replace(job, **changes)


def without_norms(seed: int = 0) -> Subject:
    """A fresh network whose output for an image does not depend on the rest of the batch."""
    return small_cnn(Shape(3, GROUPS, (8, 16), 16, norm=False), seed)


def several(images: Images) -> Images:
    """The same images with as many independent yes-or-no labels as there are classes."""
    labels = (images.labels[:, None] >= torch.arange(GROUPS)[None]).float()
    return Images(images.source, images.rows, labels, images.clusters, images.names)


def state(model: nn.Module) -> dict[str, Tensor]:
    """A copy of parameters and buffers."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def changed(a: dict[str, Tensor], b: dict[str, Tensor]) -> set[str]:
    """Names of tensors that differ in a bit."""
    assert a.keys() == b.keys()
    return {name for name in a if not torch.equal(a[name], b[name])}


def apart(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """Largest difference."""
    return max(float((a[name].double() - b[name].double()).abs().max()) for name in a)


def forget_loss(subject: Subject) -> float:
    """Mean task loss on the tiny forget people, nats."""
    images = splits()["forget"]
    return float(per_image(subject.outputs(images)[0], images.labels).mean())


class Free(ImagePass):
    """A view whose logits and features are given, with those of a reference."""

    def __init__(
        self, logits: Tensor, labels: Tensor | None = None, features: Tensor | None = None,
        reference: dict[str, Tensor] | None = None, total: int = 0,
    ) -> None:  # fmt: skip
        super().__init__(
            nn.Identity(), logits, labels if labels is not None else torch.zeros(len(logits), dtype=torch.long),
            total or len(logits), Given(reference or {}),
        )  # fmt: skip
        self.given = (logits, logits if features is None else features)

    @cached_property
    def _ran(self) -> tuple[Tensor, Tensor]:
        return self.given


class Given:
    """A reference that says what it is told."""

    def __init__(self, values: dict[str, Tensor]) -> None:
        self.values = values

    def signal(self, name: str) -> Tensor:
        return self.values[name]


def step_of(index: int = 0, **views: Any) -> Step:
    """One whole step over the given views."""
    return Step(index, 0, views, {name: view.total for name, view in views.items()}, {})


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers in float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
