"""Fine-tuning on the retained images: what is not repeated is hoped to fade."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from expunge.engine.method import Intention, Step, Trained


@dataclass(frozen=True)
class FineTune(Trained):
    """Fine-tuning on the retained images alone: the baseline every method has to beat.

    min CE(D_r); reference settings: SGD, momentum 0.9, weight decay 5e-4, lr 0.01, batch 256, 10 epochs.
    """

    paper: ClassVar[str] = "baseline of Golatkar, Achille, Soatto, CVPR 2020 (arXiv 1911.04933)"
    intention: ClassVar[Intention] = "removal"

    def retain_loss(self, step: Step) -> Tensor:
        """L = mean task loss on D_r."""
        loss: Tensor = step.retain.loss
        return loss
