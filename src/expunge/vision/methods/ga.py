"""Gradient ascent (NegGrad): unlearning by training backwards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from expunge.engine.method import Intention, Step, Trained


@dataclass(frozen=True)
class GA(Trained):
    """Gradient ascent on the forgotten images, with nothing to hold the rest.

    min -CE(D_f); it has no lower bound: `loss_cap` in the training settings ends the run when the loss is high
    enough. Reference settings: SGD, lr 1e-4 to 1e-3, 5 epochs.
    """

    paper: ClassVar[str] = "NegGrad of Golatkar, Achille, Soatto, CVPR 2020 (arXiv 1911.04933)"
    intention: ClassVar[Intention] = "removal"
    aliases: ClassVar[str] = "neggrad"

    def forget_loss(self, step: Step) -> Tensor:
        """L = -mean task loss on D_f."""
        loss: Tensor = -step.forget.loss
        return loss
