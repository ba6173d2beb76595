"""SatImp: gradient ascent weighted by saturation and importance, token by token (Yang et al. 2025)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from expunge.engine.method import Intention, Step, Trained
from expunge.language.forward import ForwardPass
from expunge.language.methods._checks import not_negative
from expunge.language.methods._retain import Retain, retain_term


def satimp(token_logprobs: Tensor, beta1: float = 5.0, beta2: float = 1.0) -> Tensor:
    """SatImp loss of each token (Yang et al. 2025).

    L = w log p(token), w = p^beta1 (1 - p)^beta2, through which no gradient flows. The first factor turns
    away from tokens that are forgotten (saturation), the second from tokens so certain that grammar alone
    gives them (importance); w is largest at p = beta1 / (beta1 + beta2).

    Args:
        token_logprobs: [T] log p(label), in nats.
        beta1: Exponent of the saturation; with beta2 = 0 the loss is WGA's.
        beta2: Exponent of the importance; with beta1 = beta2 = 0 the loss is gradient ascent's.

    Returns:
        [T] losses, at most 0.
    """
    logp = token_logprobs.detach()
    saturation = (beta1 * logp).exp()
    importance = (-torch.expm1(logp)) ** beta2  # 1 - p keeps its digits where p is near 1
    return saturation * importance * token_logprobs


@dataclass(frozen=True)
class SatImp(Trained):
    """SatImp: push down forget tokens that are neither forgotten yet nor a matter of course.

    The published weights of the two sides contradict each other (the authors' repository adds 0.1 times the
    retain loss, their configuration in open-unlearning takes 0.1 times the forget loss); the defaults are
    the latter.

    Attributes:
        beta1: Exponent of p, the saturation. Source: reference code (open-unlearning).
        beta2: Exponent of 1 - p, the importance. Source: reference code (open-unlearning).
        forget_weight: Weight of the forget term. Source: reference code (open-unlearning's configuration).
        retain: ``nll``, ``kl`` (forward KL from the reference) or ``none``. Source: reference code.
        retain_weight: Weight of the retain term. Source: reference code (open-unlearning's configuration).
    """

    paper: ClassVar[str] = (
        "Yang, Wang, Huang, Liu, Zhang, Han, Exploring Criteria of Loss Reweighting to Enhance LLM Unlearning, "
        "ICML 2025 (arXiv 2505.11953)"
    )
    intention: ClassVar[Intention] = "removal"

    beta1: float = 5.0
    beta2: float = 1.0
    forget_weight: float = 0.1
    retain: Retain = "nll"
    retain_weight: float = 1.0

    def __post_init__(self) -> None:
        not_negative(self, "beta1", "beta2", "forget_weight", "retain_weight")

    @property
    def has_retain(self) -> bool:
        return self.retain != "none"

    def forget_loss(self, step: Step) -> Tensor:
        view: ForwardPass = step.forget
        return self.forget_weight * view.per_token(satimp(view.token_logprobs, self.beta1, self.beta2))

    def retain_loss(self, step: Step) -> Tensor:
        return self.retain_weight * retain_term(step.retain, self.retain)
