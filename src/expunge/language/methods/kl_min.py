"""KL minimisation: gradient ascent held to the reference's distributions on the retain set (TOFU)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from expunge.engine.method import Intention, Step, Trained
from expunge.language.forward import ForwardPass
from expunge.language.methods._checks import not_negative
from expunge.language.methods._retain import retain_term
from expunge.language.methods.ga import ga


@dataclass(frozen=True)
class KLMin(Trained):
    """KL minimisation: ascend on the forget set, keep the reference's predictions on the retain set.

    L = -nll_tok(F) + alpha * mean over the labelled retain tokens of KL(ref || theta). The public codes
    average over prompt and padding as well, so that their weight depends on padding; that form is
    `expunge.language.compat.kl_unmasked_open_unlearning`.

    Attributes:
        forget_weight: Weight of the ascent. Source: paper (TOFU, section 4.1).
        retain_weight: alpha, weight of the forward KL. Source: paper (TOFU, section 4.1).
    """

    paper: ClassVar[str] = (
        "Maini, Feng, Schwarzschild, Lipton, Kolter, TOFU: A Task of Fictitious Unlearning for LLMs, COLM 2024 "
        "(arXiv 2401.06121)"
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
        return self.retain_weight * retain_term(step.retain, "kl")
