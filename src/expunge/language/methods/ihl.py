"""IHL: the inverted hinge loss (Cha, Cho, Hwang, Lee 2025), the forget side of LoKU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from expunge.engine.method import Intention, Step, Trained
from expunge.errors import InputError
from expunge.language.forward import ForwardPass
from expunge.language.methods._checks import not_negative
from expunge.language.methods._retain import Retain, retain_term


def ihl(logits: Tensor, labels: Tensor) -> Tensor:
    """Inverted hinge loss of each token (Cha et al. 2025, equation 3).

    L = 1 + p_t - p_*, p = softmax(logits), t the label and * the most likely token other than t (one of them
    where several are equal). A maximum with 0 would never act, for p_* <= 1.

    Its gradient by logit is p_t (1 - p_t + p_*) at t, -p_* (1 + p_t - p_*) at *, and p_v (p_* - p_t) at every
    other token v. Unlike ascent it fades with p_t, and what t loses goes to one token, not to all of them. It
    also fades as p_t -> 1: a token known by heart is let go of slowly.

    Args:
        logits: [T, V] logits or log-probabilities; a shift shared by a position's logits changes nothing.
        labels: [T] token ids.

    Returns:
        [T] losses in [0, 2]: 2 where all mass is on the label, 1 where the two are equal, 0 where all mass is
        on one other token.
    """
    first, second = logits.detach().topk(2, dim=-1).indices.unbind(-1)
    other = second.where(first == labels, first)
    total = logits.logsumexp(-1)
    p_true, p_other = ((logits.gather(-1, v[:, None])[:, 0] - total).exp() for v in (labels, other))
    return 1 + p_true - p_other


@dataclass(frozen=True)
class IHL(Trained):
    """Inverted hinge loss: hand the forget tokens' probability to their runners-up, keep the retain answers.

    L = forget_weight * mean over forget tokens of (1 + p_t - p_*) + retain_weight * nll_tok(R). The reference
    code calls this sum "IHL"; with ``retain: none`` the loss is the hinge alone. LoKU (`loku`) is this loss on
    adapters that start from the forget set's share of the weights.

    Attributes:
        forget_weight: Weight of the hinge. Source: paper.
        retain: ``nll``, ``kl`` (forward KL from the reference) or ``none`` (the hinge alone). Source: paper.
        retain_weight: Weight of the retain term. Source: paper.
    """

    paper: ClassVar[str] = (
        "Cha, Cho, Hwang, Lee, Towards Robust and Parameter-Efficient Knowledge Unlearning for LLMs, ICLR 2025 "
        "(arXiv 2408.06621)"
    )
    intention: ClassVar[Intention] = "removal"

    forget_weight: float = 1.0
    retain: Retain = "nll"
    retain_weight: float = 1.0

    def __post_init__(self) -> None:
        not_negative(self, "forget_weight", "retain_weight")
        if self.retain not in ("nll", "kl", "none"):
            raise InputError(f"ihl: retain={self.retain!r}; one of nll, kl, none.")

    @property
    def has_retain(self) -> bool:
        return self.retain != "none"

    def forget_loss(self, step: Step) -> Tensor:
        view: ForwardPass = step.forget
        return self.forget_weight * view.per_token(ihl(view.logits, view.labels))

    def retain_loss(self, step: Step) -> Tensor:
        return self.retain_weight * retain_term(step.retain, self.retain)
