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
    same images.

    Attributes:
        retain_images: Retained images the head is fitted on, at most. Source: ours.
        ridge: Weight decay of the head. Source: ours.
        steps: Steps of its L-BFGS fit. Source: ours.
    """

    paper: ClassVar[str] = (
        "Kim, Cha, Kim, Are We Truly Forgetting?, 2025 (arXiv 2503.06991): forgetting that only changes the head"
    )

    retain_images: int = 1000
    ridge: float = 1e-3
    steps: int = 50

    def __post_init__(self) -> None:
        if self.retain_images < 1 or not self.ridge > 0 or self.steps < 1:
            raise InputError("inside: retain_images and steps must be at least 1 and ridge above 0.")

    def run(self, subject: Subject, setting: AttackSetting) -> list[Reading]:
        """Read the features of the scored identities; the model itself is left as it is."""
        forget, groups = setting.workload.splits["forget"], setting.groups
        if forget.labels.ndim == 2 or not len(setting.workload.retain):
            return []  # independent labels would need a head each
        rng = np.random.default_rng(setting.seed)
        retain = setting.workload.retain
        few = retain.take(rng.permutation(len(retain))[: self.retain_images].tolist())
        known = forget.take(groups["attacker"])
        features, labels = _features(subject, (few, known))
        weight, bias = fit_head(features, labels, subject.classes, self.ridge, self.steps)
        rows = groups["scored"]
        scored = forget.take(rows)
        found, truth = _features(subject, (scored,))
        scores = ((found @ weight.T + bias).argmax(1) == truth).double().numpy()[None]
        return [Reading("inside", "a fresh head", 1.0, rows, np.asarray(scores))]


def _features(subject: Subject, parts: tuple[Images, ...]) -> tuple[Tensor, Tensor]:
    found = [subject.outputs(images)[1].double() for images in parts]
    return torch.cat(found), torch.cat([images.labels for images in parts])


def fit_head(features: Tensor, labels: Tensor, classes: int, ridge: float, steps: int) -> tuple[Tensor, Tensor]:
    """Multinomial logistic regression on standardised features: weights [C, d] and bias [C] for the plain ones."""
    mean, std = features.mean(0), features.std(0).clamp_min(1e-6)
    x = (features - mean) / std
    weight = torch.zeros(classes, x.shape[1], dtype=x.dtype, requires_grad=True)
    bias = torch.zeros(classes, dtype=x.dtype, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=steps, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(x @ weight.T + bias, labels) + ridge * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    plain = (weight / std).detach()
    return plain, (bias - plain @ mean).detach()
