"""SalUn: random labels, moving only the weights that the forgotten images pull at most."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from expunge.engine.method import Intention
from expunge.vision.data import Images
from expunge.vision.forward import per_image
from expunge.vision.methods._checks import share
from expunge.vision.methods._gradients import Named, every_parameter, gradient
from expunge.vision.methods._passes import steps_of
from expunge.vision.methods.random_labels import RandomLabels


@dataclass(frozen=True)
class SalUn(RandomLabels):
    """Random labels under a saliency mask: m = 1 for the largest |G| over all weights together, 0 for the rest.

    G is the gradient of -CE(D_f) at theta_0, in evaluation mode, summed before the absolute value is taken. Weights
    with m = 0 keep the value of theta_0 bit for bit, whatever momentum and weight decay would do. Exactly
    floor(ratio n) of n weights may move: ratio = 1 is random labels, 0 returns the model as it is.

    Attributes:
        ratio: Share of the weights that may move. Source: paper.
        variant: How the two sets follow each other; see random-labels. Source: reference code.
        exclude_true: Draw among the other labels only. Source: paper (equation 5; the code may draw the true one).
    """

    paper: ClassVar[str] = (
        "Fan, Liu, Zhang, Wong, Wei, Liu, SalUn: Empowering Machine Unlearning via Gradient-based Weight Saliency, "
        "ICLR 2024 (arXiv 2310.12508)"
    )
    intention: ClassVar[Intention] = "removal"
    aliases: ClassVar[str] = "saliency-unlearning"

    ratio: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        share(self, "ratio")

    def apply(self, job: Any) -> Any:
        """Return the trained subject.

        Raises:
            InputError: No retained images (unless ``forget-only``), or a single class.
            RunError: The gradient on D_f is not finite.
        """
        trained = {n for n, p in job.subject.model.named_parameters() if p.requires_grad}
        pull = forget_gradient(job.subject.model, job.forget, job.training.batch_size)
        masks = top(pull, self.ratio)
        if not any(bool(mask.any()) for mask in masks.values()):
            return job.subject
        return self.relabel(job, {name: mask for name, mask in masks.items() if name in trained})


def forget_gradient(model: nn.Module, images: Images, batch: int = 256) -> Named:
    """Gradient of -mean task loss over a set with respect to every weight, in evaluation mode.

    Raises:
        RunError: It is not finite.
    """
    with every_parameter(model) as parameters:
        device = next(iter(parameters.values())).device
        total = {name: torch.zeros_like(p) for name, p in parameters.items()}
        for rows in torch.arange(len(images)).tensor_split(steps_of(images, batch)):
            losses = per_image(model(images.pixels(rows).to(device)), images.labels[rows].to(device))
            for name, value in gradient(-losses.sum() / len(images), parameters, "salun").items():
                total[name] += value.detach()
    return {name: value.detach() for name, value in total.items()}


def top(values: Named, ratio: float) -> dict[str, Tensor]:
    """Where the floor(ratio n) of all n values lie that are largest in magnitude, over all tensors together."""
    sizes = torch.cat([v.abs().flatten() for v in values.values()])
    count = math.floor(round(ratio * len(sizes), 6))  # 0.29 * 100 is a little below 29
    chosen = torch.zeros(len(sizes), dtype=torch.bool, device=sizes.device)
    chosen[sizes.topk(count).indices] = True
    pieces = chosen.split([v.numel() for v in values.values()])
    return {name: piece.view_as(v) for (name, v), piece in zip(values.items(), pieces, strict=True)}
