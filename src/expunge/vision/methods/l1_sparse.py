"""Fine-tuning with a penalty on the size of the weights: a sparser network forgets more easily."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from expunge.engine.method import Edit, Intention, Step, Trained
from expunge.errors import InputError
from expunge.vision.methods._checks import not_negative
from expunge.vision.methods._passes import steps_of
from expunge.vision.unlearn import require


def penalty_weight(alpha: float, step: int, per_epoch: int, decaying: int) -> float:
    """a_t of a step: alpha (1 - t / E1) in epoch t, counted from 0, and 0 from epoch E1 on.

    Args:
        alpha: a.
        step: Counted from 0.
        per_epoch: Steps of an epoch.
        decaying: E1, epochs with a penalty.

    >>> [penalty_weight(1.0, step, 2, 2) for step in range(6)]
    [1.0, 1.0, 0.5, 0.5, 0.0, 0.0]
    """
    epoch = step // per_epoch
    return alpha * (1 - epoch / decaying) if epoch < decaying else 0.0


@dataclass(frozen=True)
class Sparse(Trained):
    """One training; see `L1Sparse`."""

    alpha: float
    per_epoch: int
    decaying: int

    def retain_loss(self, step: Step) -> Tensor:
        """CE(D_r) + a_t ||theta||_1."""
        view = step.retain
        loss: Tensor = view.loss
        weight = penalty_weight(self.alpha, step.index, self.per_epoch, self.decaying)
        if weight == 0:
            return loss
        size = torch.stack([p.abs().sum() for p in view.model.parameters() if p.requires_grad]).sum()
        # every image brings its share, so that the step has the penalty once, however it is divided
        penalty: Tensor = weight * view.per_row(size.expand(len(view.images)))
        return loss + penalty


@dataclass(frozen=True)
class L1Sparse(Edit):
    """min CE(D_r) + a_t ||theta||_1, with a_t falling linearly to 0: fine-tuning towards a sparse network.

    The norm is over all trained weights, biases and scales. Weights shrink; none is set to zero. Running statistics
    of normalisation layers move with the retained images, as in fine-tuning, which is alpha = 0. Reference settings:
    SGD, momentum 0.9, lr 0.01, 10 epochs.

    Attributes:
        alpha: Weight of the norm in the first epoch. Source: paper.
        plain_epochs: Last epochs without it (E_nol1). Source: reference code.
    """

    paper: ClassVar[str] = "Jia et al., Model Sparsity Can Simplify Machine Unlearning, NeurIPS 2023 (arXiv 2304.04934)"
    intention: ClassVar[Intention] = "removal"

    alpha: float = 5e-4
    plain_epochs: int = 0

    def __post_init__(self) -> None:
        not_negative(self, "alpha", "plain_epochs")

    def apply(self, job: Any) -> Any:
        """Return the trained subject.

        Raises:
            InputError: No retained images, or as many epochs without the penalty as there are.
        """
        require(job.retain, "retain", self)
        training = job.training
        per_epoch = steps_of(job.retain, training.batch_size)
        epochs = max(1, round(training.total_steps(len(job.retain)) / per_epoch))
        if self.plain_epochs >= epochs and self.alpha > 0:
            raise InputError(
                f"l1-sparse: plain_epochs={self.plain_epochs} of {epochs} epochs leaves none with a penalty."
            )
        return job.train(Sparse(self.alpha, per_epoch, epochs - self.plain_epochs), job.subject)
