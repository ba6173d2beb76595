"""PDU: flatten the logits on the forget set under a bound on the retain loss (Entesari et al. 2025)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from expunge.engine.method import Intention, Step, Trained
from expunge.errors import InputError
from expunge.language.forward import ForwardPass
from expunge.language.methods._checks import not_negative


def margin_flattening(logits: Tensor) -> Tensor:
    """Logit-margin flattening of each token (Entesari et al. 2025): L = (max_v z_v - mean_v z_v)^2.

    0 only for the uniform distribution; no softmax, so the slope 2 (max - mean) does not vanish where the model
    is sure. It asks nothing about which token is right.

    Args:
        logits: [T, V] logits of the model being trained.

    Returns:
        [T] losses, at least 0; unchanged when a constant is added to all logits of a token.
    """
    return (logits.amax(-1) - logits.mean(-1)) ** 2


def dual_ascent(dual: Tensor, violation: Tensor | float, rate: float) -> Tensor:
    """One projected step of the dual variable: max(0, dual + rate * violation).

    Args:
        dual: Scalar, at least 0.
        violation: L_retain - epsilon: above 0 where the constraint is broken.
        rate: Dual step size.

    Returns:
        Scalar, at least 0.
    """
    return (dual + rate * violation).clamp(min=0.0)


@dataclass(frozen=True)
class PDU(Trained):
    """PDU (constrained entropic unlearning): flatten forget logits while the retain loss stays under a bound.

    min L_forget subject to L_retain <= epsilon, by descent on L_forget + dual (L_retain - epsilon) and ascent
    on the dual variable after every step. The numbers below are those of the paper's experiments on TOFU
    forget01 as public scripts of others quote them; they were not read in the paper itself. The trainer of
    open-unlearning flattens prompt and padding too, and moves the dual with every micro-batch:
    `expunge.language.compat_losses`.

    Attributes:
        epsilon: Bound on the token-weighted retain loss, in nats. It must suit the model: start from the retain
            loss of the target. Source: paper, experiments (quoted by others).
        relative: Bound the retain loss by (1 + epsilon) times the reference's on the same rows instead.
            Source: paper (its natural choice); off as in the reference code.
        dual_start: The dual variable before its first step. Source: paper, experiments (quoted by others).
        dual_rate: Step size of the dual variable. Source: paper, experiments (quoted by others).
        warmup_steps: Steps during which the dual variable stays at its start. Source: ours (none; the paper
            waits for 5 of 10 epochs).
    """

    paper: ClassVar[str] = (
        "Entesari, Hatami, Khaziev, Ramakrishna, Fazlyab, Constrained Entropic Unlearning: A Primal-Dual Framework "
        "for Large Language Models, 2025 (arXiv 2506.05314)"
    )
    intention: ClassVar[Intention] = "suppression"

    epsilon: float = 0.3
    relative: bool = False
    dual_start: float = 100.0
    dual_rate: float = 5.0
    warmup_steps: int = 0

    def __post_init__(self) -> None:
        not_negative(self, "epsilon", "dual_start", "dual_rate", "warmup_steps")
        if self.warmup_steps != int(self.warmup_steps):
            raise InputError(f"pdu: warmup_steps={self.warmup_steps} must be a whole number of steps.")

    def begin(self, step: Step) -> dict[str, Tensor]:
        return {"dual": torch.tensor(float(self.dual_start), device=step.forget.input_ids.device)}

    def forget_loss(self, step: Step) -> Tensor:
        view: ForwardPass = step.forget
        return view.per_token(margin_flattening(view.logits))

    def retain_loss(self, step: Step) -> Tensor:
        """The constraint's part of the Lagrangian; computed at dual 0 too, or the dual could not come back."""
        view: ForwardPass = step.retain
        dual = step.state["dual"].to(view.token_logprobs.dtype)
        excess = self.violation(view)
        step.note("violation", excess)
        step.note("dual", view.per_token(torch.ones_like(view.token_logprobs)) * dual)
        return dual * excess

    def violation(self, view: ForwardPass) -> Tensor:
        """Share of these rows in L_retain - bound."""
        if self.relative:
            return view.per_token((1 + self.epsilon) * view.reference.token_logprobs - view.token_logprobs)
        return view.per_token(-view.token_logprobs - self.epsilon)

    def update(self, state: Mapping[str, Tensor], terms: Mapping[str, float], step: int) -> dict[str, Tensor]:
        if step < self.warmup_steps:
            return dict(state)
        return {"dual": dual_ascent(state["dual"], terms["violation"], self.dual_rate)}
