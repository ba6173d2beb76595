"""Inside: read the forgotten labels from the features, past a head that no longer tells them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from expunge.errors import InputError
from expunge.report.readings import Reading
from expunge.vision.attacks._common import AttackSetting
from expunge.vision.data import Images
from expunge.vision.subject import Subject


@dataclass(frozen=True)
class Inside:
    """Fit a new head on the features of some forgotten identities and of retained images, and read the others by it.

    A method that edits the classifier's last layer leaves every feature where it was; a fresh head then reads what
    the model no longer says. Gold, whose features were never trained on the forgotten, gets the same head and the
    same images. Where whole classes are forgotten, gold's features tell them apart too once a head has seen enough of
    them; what sets a hidden class apart is that an image or two are enough (`shots`). All labels count equally.

    Attributes:
        shots: Images of each label that the head is shown of the forgotten; 0: all of the attacker's. Source: ours.
        draws: How often those images are drawn anew. Source: ours.
        retain_images: Retained images the head is fitted on, at most. Source: ours.
        ridge: Weight decay of the head. Source: ours.
        steps: Steps of its L-BFGS fit. Source: ours.
    """

    paper: ClassVar[str] = (
        "Kim, Cha, Kim, Are We Truly Forgetting?, 2025 (arXiv 2503.06991): forgetting that only changes the head"
    )

    shots: int = 0
    draws: int = 1
    retain_images: int = 1000
    ridge: float = 1e-3
    steps: int = 50

    def __post_init__(self) -> None:
        if self.shots < 0 or min(self.draws, self.retain_images, self.steps) < 1 or not self.ridge > 0:
            raise InputError(
                "inside: shots must not be negative, draws, retain_images and steps at least 1, and ridge above 0."
            )

    def run(self, subject: Subject, setting: AttackSetting) -> list[Reading]:
        """Read the features of the scored identities; the model itself is left as it is."""
        forget, groups = setting.workload.splits["forget"], setting.groups
        if forget.labels.ndim == 2 or not len(setting.workload.retain):
            return []  # independent labels would need a head each
        rng = np.random.default_rng(setting.seed)
        retain = setting.workload.retain
        few = retain.take(rng.permutation(len(retain))[: self.retain_images].tolist())
        known, scored = forget.take(groups["attacker"]), forget.take(groups["scored"])
        (x, y), (shown, told), (asked, truth) = (_features(subject, images) for images in (few, known, scored))
        scores = []
        for _ in range(self.draws):
            rows = self._shown(told, rng)
            weight, bias = fit_head(
                torch.cat([x, shown[rows]]), torch.cat([y, told[rows]]), subject.classes, self.ridge, self.steps
            )
            scores.append(((asked @ weight.T + bias).argmax(1) == truth).double().numpy())
        images = "1 image" if self.shots == 1 else f"{self.shots} images"
        budget = f"a fresh head, {images} a label" if self.shots else "a fresh head"
        return [Reading("inside", budget, 1.0, groups["scored"], np.stack(scores))]

    def _shown(self, labels: Tensor, rng: np.random.Generator) -> Tensor:
        """Which of the attacker's images the head is fitted on."""
        order = torch.as_tensor(rng.permutation(len(labels)))
        if not self.shots:
            return order
        return torch.cat([order[labels[order] == label][: self.shots] for label in labels.unique()])


def _features(subject: Subject, images: Images) -> tuple[Tensor, Tensor]:
    return subject.outputs(images)[1].double(), images.labels


def fit_head(features: Tensor, labels: Tensor, classes: int, ridge: float, steps: int) -> tuple[Tensor, Tensor]:
    """Multinomial logistic regression on standardised features: weights [C, d] and bias [C] for the plain ones.

    Every label that occurs counts the same, however many images have it.
    """
    mean, std = features.mean(0), features.std(0).clamp_min(1e-6)
    x = (features - mean) / std
    equal = 1 / torch.bincount(labels, minlength=classes).clamp_min(1).to(x)
    weight = torch.zeros(classes, x.shape[1], dtype=x.dtype, requires_grad=True)
    bias = torch.zeros(classes, dtype=x.dtype, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=steps, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(x @ weight.T + bias, labels, weight=equal) + ridge * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    plain = (weight / std).detach()
    return plain, (bias - plain @ mean).detach()
