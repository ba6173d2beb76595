"""Gradient difference: ascent on the forget set, descent on the retain set (Liu, Liu, Stone 2022)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from expunge.engine.method import Intention, Step, Trained
from expunge.language.forward import ForwardPass
from expunge.language.methods._checks import not_negative
from expunge.language.methods.ga import ga


@dataclass(frozen=True)
class GradDiff(Trained):
    """Gradient difference: raise the loss on the forget set while lowering it on the retain set.

    L = -gamma * nll_tok(F) + alpha * nll_tok(R). Identically 0 where F and R are the same batch.

    Attributes:
        forget_weight: gamma, weight of the ascent. Source: reference code (open-unlearning, TOFU).
        retain_weight: alpha, weight of the descent. Source: reference code (open-unlearning, TOFU).
    """

    paper: ClassVar[str] = (
        "Liu, Liu, Stone, Continual Learning and Private Unlearning, CoLLAs 2022 (arXiv 2203.12817); as in "
        "TOFU (Maini et al., COLM 2024, arXiv 2401.06121)"
    )
    intention: ClassVar[Intention] = "removal"

    forget_weight: float = 1.0
    retain_weight: float = 1.0

    def __post_init__(self) -> None:
        not_negative(self, "forget_weight", "retain_weight")

    def forget_loss(self, step: Step) -> Tensor:
        view: ForwardPass = step.forget
        return self.forget_weight * view.per_token(ga(view.token_logprobs))

    def retain_loss(self, step: Step) -> Tensor:
        view: ForwardPass = step.retain
        return self.retain_weight * view.nll
