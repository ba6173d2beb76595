"""Fisher forgetting: noise on the weights, the less a weight matters for what stays the more of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp

from expunge.engine.method import Edit, Intention
from expunge.engine.sampling import generator
from expunge.errors import InputError
from expunge.vision.data import Images
from expunge.vision.forward import head_of
from expunge.vision.methods._gradients import Named, every_parameter, finite, per_image_values
from expunge.vision.unlearn import require

LARGEST, LARGEST_HEAD = 1e3, 1e2  # of 1 / (F + SMALL)
SMALL = 1e-8
MORE = 10.0  # variance of the head and of vectors, times this
CLASS_VARIANCE = 1e-4


@dataclass(frozen=True)
class Fisher(Edit):
    """Noise on every weight, the more of it the less the weight matters for the retained images; no training.

    theta <- theta_0 + sqrt(v) N(0, 1) with v = alpha min(1 / (F + 1e-8), 1e3), where F = mean over D_r of
    sum_y p(y|x) (d log p(y|x) / d theta)^2: the expectation over the model's own labels, every image on its own, in
    evaluation mode; independent yes-or-no labels are each expected over. The cap is 1e2 in the head. In tensors of
    several dimensions v is averaged over the second; in the head and in vectors (biases, scales of normalisation) it
    is ten times as large. Running statistics of normalisation layers stay as they are.

    Attributes:
        alpha: Scale of the noise; 0 leaves the model as it is. Source: reference code (1e-6; 1e-7 for large models).
        whole_class: A class that is forgotten entirely: its row of the head is drawn from N(0, 1e-4) instead.
            Source: reference code.
    """

    paper: ClassVar[str] = (
        "Golatkar, Achille, Soatto, Eternal Sunshine of the Spotless Net, CVPR 2020 (arXiv 1911.04933)"
    )
    intention: ClassVar[Intention] = "removal"
    aliases: ClassVar[str] = "fisher-forgetting"

    alpha: float = 1e-6
    whole_class: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.alpha < float("inf"):
            raise InputError(f"fisher: alpha={self.alpha} must be a number not below 0.")
        if self.whole_class is not None and self.whole_class < 0:
            raise InputError(f"fisher: whole_class={self.whole_class} must not be below 0.")

    def apply(self, job: Any) -> Any:
        """Return the noised subject.

        Raises:
            InputError: No retained images, or a class the model does not have.
            RunError: A gradient is not finite.
        """
        require(job.retain, "retain", self)
        model = job.subject.model
        head = {id(p) for p in head_of(model).parameters()}
        if self.whole_class is not None and self.whole_class >= job.subject.classes:
            raise InputError(
                f"fisher: whole_class={self.whole_class} is outside the classes 0 to {job.subject.classes - 1}."
            )
        information = fisher_information(model, job.retain)
        draw = generator(job.seed, "fisher")
        with torch.no_grad():
            for name, p in model.named_parameters():
                noise = torch.randn(p.shape, generator=draw).to(p)
                last = id(p) in head
                if self.alpha > 0:
                    p += noise_variance(information[name], self.alpha, head=last).sqrt() * noise
                if last and self.whole_class is not None:
                    p[self.whole_class] = CLASS_VARIANCE**0.5 * noise[self.whole_class]
        return job.subject


def noise_variance(information: Tensor, alpha: float, *, head: bool) -> Tensor:
    """v of one tensor of parameters from its Fisher information, of the same shape."""
    v = alpha * (1 / (information + SMALL)).clamp(max=LARGEST_HEAD if head else LARGEST)
    if v.ndim > 1:
        v = v.mean(1, keepdim=True).expand_as(v)
    return MORE * v if head or v.ndim == 1 else v


def fisher_information(model: nn.Module, images: Images) -> Named:
    """Diagonal Fisher information of every parameter: the mean over images of its expectation over labels."""
    several = images.labels.ndim == 2

    def squares(parameters: Named, image: Tensor, _: Tensor) -> Named:
        def scores(given: Named) -> Tensor:
            logits: Tensor = functional_call(model, given, (image[None],))[0]
            return logits if several else logits.log_softmax(-1)

        values, pull = vjp(scores, parameters)[:2]
        # One yes-or-no label: p (1 - p)^2 + (1 - p) p^2 = p (1 - p), times the squared gradient of its logit.
        weights = values.sigmoid() * (1 - values.sigmoid()) if several else values.exp()
        total = {n: torch.zeros_like(p) for n, p in parameters.items()}
        for weight, one in zip(weights, torch.eye(len(values)).to(values), strict=True):
            found: Named = pull(one)[0]
            total = {n: t + weight * found[n].square() for n, t in total.items()}
        return total

    with every_parameter(model) as parameters:
        total = {n: torch.zeros_like(p) for n, p in parameters.items()}
        for chunk in per_image_values(model, images, squares):
            for name, values in finite(chunk, "fisher").items():
                total[name] += values.detach().sum(0) / len(images)
    return {n: v.detach() for n, v in total.items()}
