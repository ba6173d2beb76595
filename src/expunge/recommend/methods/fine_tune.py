"""Fine-tuning on the retained interactions: what is not repeated is hoped to fade."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from expunge.engine.method import Intention, Step, Trained


@dataclass(frozen=True)
class FineTune(Trained):
    """A few more epochs of ordinary training on the retained interactions.

    min BPR(K) + reg * penalty, over the retain graph. Negatives are items the user has not kept, so that a forgotten
    item can be one, as it can in retraining.
    """

    paper: ClassVar[str] = "baseline of Golatkar, Achille, Soatto, CVPR 2020 (arXiv 1911.04933)"
    intention: ClassVar[Intention] = "removal"

    def retain_loss(self, step: Step) -> Tensor:
        """L = the base model's own objective on K."""
        loss: Tensor = step.retain.objective
        return loss
