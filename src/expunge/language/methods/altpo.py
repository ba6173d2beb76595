"""AltPO: prefer plausible alternate answers to the true ones (Mekala et al. 2025)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from expunge.engine.method import Intention, Step, Substitute, Trained
from expunge.errors import InputError
from expunge.language.forward import ForwardPass
from expunge.language.methods._checks import above_zero, not_negative
from expunge.language.methods._retain import Retain, retain_term
from expunge.language.methods.dpo import dpo


@dataclass(frozen=True)
class AltPO(Trained):
    """AltPO: direct preference of made-up answers over the true ones, so that something plausible is said.

    The alternates are made by the target itself before training (`expunge.language.alternates`); each time a
    question comes up one of its alternates is drawn, so the loss is, on average, the paper's mean over them:
    L = -(2/beta) mean_k log sigmoid(beta ([S_f - S_f,ref] - [S_k - S_k,ref])), S the summed negative
    log-likelihood of the true answer (f) and of alternate k.

    Attributes:
        alternates: Alternates made of each forget question. Source: reference code.
        beta: Inverse temperature of the preference. Source: reference code (open-unlearning, which searches
            0.05 to 0.5).
        forget_weight: Weight of the preference term. Source: reference code.
        retain: ``nll``, ``kl`` (forward KL from the reference) or ``none``. Source: reference code.
        retain_weight: Weight of the retain term. Source: reference code (which searches 1 to 5).
    """

    paper: ClassVar[str] = (
        "Mekala, Dorna, Dubey, Lalwani, Koleczek, Rungta, Hasan, Lobo, Alternate Preference Optimization for "
        "Unlearning Factual Knowledge in Large Language Models, COLING 2025 (arXiv 2409.13474)"
    )
    intention: ClassVar[Intention] = "removal"
    substitute: ClassVar[Substitute | None] = "alternate"

    alternates: int = 5
    beta: float = 0.1
    forget_weight: float = 1.0
    retain: Retain = "nll"
    retain_weight: float = 1.0

    def __post_init__(self) -> None:
        above_zero(self, "alternates", "beta")
        not_negative(self, "forget_weight", "retain_weight")
        if self.alternates != int(self.alternates):
            raise InputError(f"altpo: alternates={self.alternates} must be a whole number.")

    @property
    def has_retain(self) -> bool:
        return self.retain != "none"

    def forget_loss(self, step: Step) -> Tensor:
        win: ForwardPass = step.substitute
        lose: ForwardPass = step.forget
        losses = dpo(win.nll_sum, win.reference.nll_sum, lose.nll_sum, lose.reference.nll_sum, self.beta)
        return self.forget_weight * lose.per_row(losses)

    def retain_loss(self, step: Step) -> Tensor:
        return self.retain_weight * retain_term(step.retain, self.retain)
