"""Contrastive unlearning: features of what must go leave their class and join others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from expunge.engine.method import Intention, Step, Trained
from expunge.engine.sampling import epochs, uniform
from expunge.vision.methods._checks import above_zero, classes_only, not_negative, one_of, whole_batches
from expunge.vision.methods._passes import OwnPasses
from expunge.vision.unlearn import require

Variant = Literal["paper", "within-forget"]


def contrast_with_retained(
    z: Tensor, labels: Tensor, other: Tensor, other_labels: Tensor, temperature: float
) -> Tensor:
    """[b] loss of each forgotten image against a batch of retained ones (equation 2 of the paper).

    -(1/|N|) sum over n in N of log( exp(z.n / tau) / sum over p in P of exp(z.p / tau) ), N the retained images of
    other classes, P those of its own: drawn to N, driven from P. An image without any in N costs nothing; without any
    in P (its class is forgotten entirely) the sum is left out.

    Args:
        z: [b, d] unit features of forgotten images.
        labels: [b].
        other: [m, d] unit features of retained images.
        other_labels: [m].
        temperature: tau.
    """
    s = z @ other.T / temperature
    own = labels[:, None] == other_labels[None]
    pull = (s * ~own).sum(1) / (~own).sum(1).clamp_min(1)
    push = s.masked_fill(~own, -torch.inf).logsumexp(1).masked_fill(~own.any(1), 0.0)
    return torch.where((~own).any(1), push - pull, 0.0)


def contrast_within(z: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """[b] the published loss: forgotten images of DIFFERENT classes are drawn to each other.

    l_ij = s_ij - log sum_k exp s_ik with s_ij = z_i.z_j / tau; the mean of -l_ij over j of another class, 0 without.
    """
    log_share = (z @ z.T / temperature).log_softmax(1)
    other = labels[:, None] != labels[None]
    return -(log_share * other).sum(1) / other.sum(1).clamp_min(1)


@dataclass(frozen=True)
class Contrast(Trained):
    """One training; the stream ``paired`` carries the retain batch of each step. See `ContrastiveUnlearning`."""

    variant: Variant
    temperature: float
    forget_weight: float

    @property
    def streams(self) -> tuple[str, ...]:
        """See `Trained`."""
        return ("forget", "paired")

    def forget_loss(self, step: Step) -> Tensor:
        """CE(D_r batch) + weight L_c."""
        forget, paired = step.forget, step.views["paired"]
        step.note("kept", paired.loss)
        z = F.normalize(forget.features, dim=1)
        if self.variant == "paper":
            other = F.normalize(paired.features, dim=1)
            costs = contrast_with_retained(z, forget.labels, other, paired.labels, self.temperature)
        else:
            costs = contrast_within(z, forget.labels, self.temperature)
        loss: Tensor = paired.loss + self.forget_weight * forget.per_row(costs)
        return loss


@dataclass(frozen=True)
class ContrastiveUnlearning(OwnPasses):
    """CE(D_r batch) + weight L_c(D_f batch, D_r batch), on unit penultimate features.

    ``paper``: each forgotten image is drawn to the retained images of other classes in the batch and driven from
    those of its own. ``within-forget``, as the code of Kim et al. has it: forgotten images of different classes are
    drawn to each other, which says nothing about a single forgotten class. An epoch is a pass over D_f, each step
    with as many retained images drawn at random. The images of a batch are compared with each other, so a batch is
    not divided. Running statistics of normalisation layers move with all images, unless they are frozen.

    Attributes:
        variant: What forgotten images are contrasted with. Source: paper; reference code (Kim et al.).
        temperature: tau. Source: reference code (Kim et al.: 1).
        forget_weight: Weight of the contrast. Source: reference code (Kim et al.: 1).
    """

    paper: ClassVar[str] = (
        "Lee, Zhang, Yang, Lou, Xiong, Contrastive Unlearning, IJCAI 2025 (arXiv 2401.10458); within-forget: Kim, "
        "Cha, Kim, 2025 (arXiv 2503.06991)"
    )
    intention: ClassVar[Intention] = "removal"
    aliases: ClassVar[str] = "cu"

    variant: Variant = "paper"
    temperature: float = 1.0
    forget_weight: float = 1.0

    def __post_init__(self) -> None:
        one_of(self, "variant", ("paper", "within-forget"))
        above_zero(self, "temperature")
        not_negative(self, "forget_weight")

    def apply(self, job: Any) -> Any:
        """Return the trained subject.

        Raises:
            InputError: No retained images, several labels an image, or a batch that is to be divided.
        """
        require(job.retain, "retain", self)
        classes_only(self, job.forget)
        whole_batches(self, job)
        steps, batch = job.training.total_steps(len(job.forget)), job.training.batch_size
        streams = {
            "forget": job.stream(job.forget, epochs(len(job.forget), steps, batch, job.seed, "forget")),
            "paired": job.stream(job.retain, uniform(len(job.retain), steps, batch, job.seed, "retain")),
        }
        loss = Contrast(self.variant, self.temperature, self.forget_weight)
        return job.train(loss, job.subject, streams=streams, freeze_norms=self.freeze_norms)
