"""SCAR: features of what must go move to the nearest other class, by a Mahalanobis distance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from expunge.engine.method import Intention, Step, Trained
from expunge.engine.sampling import epochs, uniform
from expunge.errors import InputError
from expunge.vision.methods._checks import classes_only, gone_classes, not_negative, one_of
from expunge.vision.methods._divergence import js_divergence, kl_divergence
from expunge.vision.methods._passes import OwnPasses
from expunge.vision.unlearn import require

SMALL = 1e-6  # a feature below it is at rest: the square root has no slope at 0
Divergence = Literal["kl", "js"]


def bent(features: Tensor) -> Tensor:
    """[n, d] unit vectors of sign(z) |z|^(1/2): the features made more like a normal distribution's."""
    return F.normalize(features.sign() * features.abs().clamp_min(SMALL).sqrt(), dim=1)


def correlation(features: Tensor, diagonal: float, others: float) -> Tensor:
    """[d, d] shrunk covariance, scaled to a unit diagonal.

    S + diagonal mean(diag S) I + others mean(offdiag S) (1 - I), divided by the square roots of its own diagonal. The
    mean over the other entries is over those that are not zero.

    Args:
        features: [n, d], at least two rows.
        diagonal: First weight (gamma_1).
        others: Second weight (gamma_2).
    """
    S = torch.cov(features.T)
    eye = torch.eye(len(S), dtype=S.dtype)
    rest = S * (1 - eye)
    mean = rest.sum() / (rest != 0).sum().clamp_min(1)
    shrunk = S + diagonal * S.diagonal().mean() * eye + others * mean * (1 - eye)
    scale = shrunk.diagonal().clamp_min(SMALL**2).sqrt()
    return shrunk / torch.outer(scale, scale)


def mahalanobis(z: Tensor, means: Tensor, inverses: Tensor) -> Tensor:
    """[n, K] distances sqrt((z - mu)^T P (z - mu)) from points [n, d] to K classes [K, d], [K, d, d]."""
    gap = z[:, None] - means[None]
    squared = torch.einsum("nkd,kde,nke->nk", gap, inverses.to(gap), gap)
    return squared.clamp_min(SMALL**2).sqrt()


@dataclass(frozen=True)
class Attraction(Trained):
    """One training; see `SCAR`."""

    forget_weight: float
    retain_weight: float
    divergence: Divergence
    means: Tensor
    inverses: Tensor
    classes: Tensor
    gone: tuple[int, ...]

    def forget_loss(self, step: Step) -> Tensor:
        """forget_weight times the mean distance to the nearest class other than the image's own."""
        view = step.forget
        device = view.images.device
        distances = mahalanobis(bent(view.features), self.means.to(device), self.inverses.to(device))
        own = view.labels[:, None] == self.classes.to(device)[None]
        nearest = distances.masked_fill(own, torch.inf).min(1).values
        loss: Tensor = self.forget_weight * view.per_row(nearest)
        return loss

    def retain_loss(self, step: Step) -> Tensor:
        """retain_weight times the divergence from the original, whose forgotten classes have its smallest logit."""
        view = step.retain
        teacher = view.reference.logits.clone()
        if self.gone:
            teacher[:, list(self.gone)] = teacher.min(1, keepdim=True).values
        apart = js_divergence if self.divergence == "js" else kl_divergence
        loss: Tensor = self.retain_weight * view.per_row(apart(teacher, view.logits))
        return loss


@dataclass(frozen=True)
class SCAR(OwnPasses):
    """L = lambda_f mean Mahalanobis distance of D_f to the nearest other class + lambda_r distillation of theta_0.

    Distances are in penultimate features bent by a square root and scaled to unit length, with the mean and the
    shrunk correlation matrix of each class's retained images under theta_0; the nearest class is found anew in every
    step and is never the image's own. Distillation is on D_r; logits of classes that are forgotten entirely are set
    to the teacher's smallest. The paper distils on surrogate images of another origin and keeps D_r out: pass such
    images as the retained set to do so. (The code of Kim et al. takes the distance of retained features instead of
    forgotten ones.) An epoch is a pass over D_f, each step with as many retained images. Running statistics of
    normalisation layers move with all images, unless they are frozen.

    Attributes:
        forget_weight: lambda_f. Source: reference code.
        retain_weight: lambda_r. Source: reference code.
        diagonal: Weight of the mean variance in the shrinkage, gamma_1. Source: reference code.
        others: Weight of the mean covariance in the shrinkage, gamma_2. Source: reference code.
        divergence: ``kl``: KL(theta_0 || theta), or ``js``. Source: reference code (Kim et al.); paper.
    """

    paper: ClassVar[str] = (
        "Bonato, Cotogni, Sabetta, Is Retain Set All You Need in Machine Unlearning?, ECCV 2024 (arXiv 2404.12922), "
        "as in Kim, Cha, Kim, 2025 (arXiv 2503.06991)"
    )
    intention: ClassVar[Intention] = "removal"

    forget_weight: float = 5.0
    retain_weight: float = 5.0
    diagonal: float = 3.0
    others: float = 3.0
    divergence: Divergence = "kl"

    def __post_init__(self) -> None:
        not_negative(self, "forget_weight", "retain_weight", "diagonal", "others")
        one_of(self, "divergence", ("kl", "js"))

    def apply(self, job: Any) -> Any:
        """Return the trained subject.

        Raises:
            InputError: No retained images, several labels an image, a retained class with one image, or no other
                class among them.
        """
        require(job.retain, "retain", self)
        classes_only(self, job.forget)
        _, features = job.subject.outputs(job.retain)
        means, inverses, classes = self.classes_of(features, job.retain.labels)
        lonely = set(torch.unique(job.forget.labels).tolist()) & set(classes.tolist())
        if len(classes) == 1 and lonely:
            raise InputError("scar: the retained images are all of the class of a forgotten one; there is no other.")
        gone = tuple(gone_classes(job.forget, job.retain))
        steps, batch = job.training.total_steps(len(job.forget)), job.training.batch_size
        streams = {
            "forget": job.stream(job.forget, epochs(len(job.forget), steps, batch, job.seed, "forget")),
            "retain": job.stream(job.retain, uniform(len(job.retain), steps, batch, job.seed, "retain")),
        }
        loss = Attraction(
            self.forget_weight, self.retain_weight, self.divergence, means, inverses, classes, gone
        )  # fmt: skip
        return job.train(loss, job.subject, streams=streams, freeze_norms=self.freeze_norms)

    def classes_of(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[K, d] means, [K, d, d] inverse correlation matrices and [K] labels of the classes there are.

        Raises:
            InputError: A class with a single image.
        """
        z = bent(features).double()
        classes, counts = torch.unique(labels, return_counts=True)
        if int(counts.min()) < 2:
            few = int(classes[counts.argmin()])
            raise InputError(f"scar: class {few} has one retained image; a covariance needs two.")
        own = [z[labels == c] for c in classes]
        means = torch.stack([part.mean(0) for part in own])
        inverses = torch.stack(
            [torch.linalg.pinv(correlation(p, self.diagonal, self.others), hermitian=True) for p in own]
        )
        return means.float(), inverses.float(), classes
