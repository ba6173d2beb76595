"""WGA: gradient ascent weighted by the model's own confidence, token by token (Wang et al. 2025)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from expunge.engine.method import Intention, Step, Trained
from expunge.language.forward import ForwardPass
from expunge.language.methods._checks import not_negative
from expunge.language.methods._retain import Retain, retain_term


def wga(token_logprobs: Tensor, beta: float = 1.0) -> Tensor:
    """WGA loss of each token (Wang et al. 2025).

    L = w log p(token), w = p(token)^beta, through which no gradient flows.

    Gradient ascent's slope on a logit is 1 - p and stays 1 when a token is long forgotten; WGA's is
    p^beta (1 - p) and fades. With beta = 1 it is exactly the slope of p itself.

    Args:
        token_logprobs: [T] log p(label), in nats.
        beta: Exponent of the confidence; 0 is gradient ascent.

    Returns:
        [T] losses, at most 0 and at least -1/(e beta).
    """
    weight = (beta * token_logprobs.detach()).exp()
    return weight * token_logprobs


@dataclass(frozen=True)
class WGA(Trained):
    """Weighted gradient ascent: push each forget token down in proportion to its probability.

    Attributes:
        beta: Exponent of the confidence weight. Source: reference code (open-unlearning; the paper's own code
            sets it per experiment).
        forget_weight: Weight of the forget term. Source: reference code (open-unlearning).
        retain: ``nll``, ``kl`` (forward KL from the reference) or ``none`` (the paper's own code). Source:
            reference code (open-unlearning).
        retain_weight: Weight of the retain term. Source: reference code (open-unlearning).
    """

    paper: ClassVar[str] = (
        "Wang, Zhou, Zhou, Shin, Han, Weinberger, Rethinking LLM Unlearning Objectives: A Gradient Perspective "
        "and Go Beyond, ICLR 2025 (arXiv 2502.19301)"
    )
    intention: ClassVar[Intention] = "removal"

    beta: float = 1.0
    forget_weight: float = 1.0
    retain: Retain = "nll"
    retain_weight: float = 1.0

    def __post_init__(self) -> None:
        not_negative(self, "beta", "forget_weight", "retain_weight")

    @property
    def has_retain(self) -> bool:
        return self.retain != "none"

    def forget_loss(self, step: Step) -> Tensor:
        view: ForwardPass = step.forget
        return self.forget_weight * view.per_token(wga(view.token_logprobs, self.beta))

    def retain_loss(self, step: Step) -> Tensor:
        return self.retain_weight * retain_term(step.retain, self.retain)
