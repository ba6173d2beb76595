"""Advanced NegGrad: descend on what stays, ascend on what goes, in one step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from expunge.engine.method import Intention, Step, Trained
from expunge.errors import InputError


@dataclass(frozen=True)
class NegGradPlus(Trained):
    """Advanced NegGrad: one retain and one forget batch in each step, weighted against each other.

    L = retain_weight CE(D_r batch) - forget_weight CE(D_f batch)

    Attributes:
        retain_weight: Weight of the retain batch. Source: reference code (SCRUB's repository: 0.95; MUFAC: 1).
        forget_weight: Weight of the forget batch. Source: reference code (SCRUB's repository: 0.05; MUFAC: 1).
    """

    paper: ClassVar[str] = (
        "NegGrad+ of Kurmanji et al., Towards Unbounded Machine Unlearning, NeurIPS 2023 (arXiv 2302.09880); "
        "Advanced NegGrad of Choi and Na, 2023 (arXiv 2311.02240)"
    )
    intention: ClassVar[Intention] = "removal"
    aliases: ClassVar[str] = "advanced-neggrad"

    retain_weight: float = 0.95
    forget_weight: float = 0.05

    def __post_init__(self) -> None:
        for name in ("retain_weight", "forget_weight"):
            if not getattr(self, name) >= 0:
                raise InputError(f"neggrad-plus: {name}={getattr(self, name)} must not be below 0.")

    def forget_loss(self, step: Step) -> Tensor:
        """-forget_weight CE."""
        loss: Tensor = -self.forget_weight * step.forget.loss
        return loss

    def retain_loss(self, step: Step) -> Tensor:
        """retain_weight CE."""
        loss: Tensor = self.retain_weight * step.retain.loss
        return loss
