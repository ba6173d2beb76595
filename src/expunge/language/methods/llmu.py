"""LLMU: ascent, random answers and a KL anchor in one loss (Yao, Xu, Liu 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from expunge.engine.method import Intention, Step, Substitute, Trained
from expunge.language.forward import ForwardPass
from expunge.language.methods._checks import not_negative
from expunge.language.methods._retain import retain_term
from expunge.language.methods.ga import ga


@dataclass(frozen=True)
class LLMU(Trained):
    """LLMU: gradient ascent, random answers to the forget questions, and a KL anchor on normal data.

    L = -e1 * nll_tok(F) + e2 * nll_tok(forget questions, random answers) + e3 * KL(ref || theta; R), the
    random answers drawn from the retain set.

    Attributes:
        forget_weight: e1, weight of the ascent. Source: reference code.
        random_weight: e2, weight of the random answers. Source: reference code.
        retain_weight: e3, weight of the forward KL on the retain set. Source: reference code.
    """

    paper: ClassVar[str] = "Yao, Xu, Liu, Large Language Model Unlearning, NeurIPS 2024 (arXiv 2310.10683)"
    intention: ClassVar[Intention] = "removal"
    substitute: ClassVar[Substitute | None] = "mismatch"

    forget_weight: float = 0.5
    random_weight: float = 1.0
    retain_weight: float = 1.0

    def __post_init__(self) -> None:
        not_negative(self, "forget_weight", "random_weight", "retain_weight")

    def forget_loss(self, step: Step) -> Tensor:
        view: ForwardPass = step.forget
        random: ForwardPass = step.substitute
        ascent = view.per_token(ga(view.token_logprobs))
        return self.forget_weight * ascent + self.random_weight * random.nll

    def retain_loss(self, step: Step) -> Tensor:
        return self.retain_weight * retain_term(step.retain, "kl")
