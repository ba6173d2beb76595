"""Gradient ascent on the forget set (Jang et al. 2023), the first baseline of every benchmark."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from expunge.engine.method import Intention, Step, Trained
from expunge.language.forward import ForwardPass
from expunge.language.methods._checks import not_negative
from expunge.language.methods._retain import kl_positions


def ga(token_logprobs: Tensor) -> Tensor:
    """Gradient-ascent loss of each token: its log-likelihood, to be pushed down.

    L = -nll_tok = mean over labelled tokens of log p(token). Unbounded below.

    Args:
        token_logprobs: [T] log p(label), in nats.

    Returns:
        [T] losses; the batch's loss is their mean over all labelled tokens of the step.
    """
    return token_logprobs


@dataclass(frozen=True)
class GA(Trained):
    """Gradient ascent: raise the loss on the forget set, without any brake.

    L = -nll_tok(F) + k * KL(ref || theta; F). Nothing bounds it: a few passes ruin most models, so give it
    a `loss_cap` or a utility floor, or use one of the methods with a retain term.

    Attributes:
        forget_kl_weight: k, weight of a forward KL from the reference on the forget rows themselves.
            Source: paper (none); the NPO code has 1 as an ablation (grad_ascent_forgetKL).
    """

    paper: ClassVar[str] = (
        "Jang et al., Knowledge Unlearning for Mitigating Privacy Risks in Language Models, ACL 2023 "
        "(arXiv 2210.01504); as in TOFU (Maini et al., COLM 2024, arXiv 2401.06121)"
    )
    intention: ClassVar[Intention] = "removal"

    forget_kl_weight: float = 0.0

    def __post_init__(self) -> None:
        not_negative(self, "forget_kl_weight")

    def forget_loss(self, step: Step) -> Tensor:
        view: ForwardPass = step.forget
        if not self.forget_kl_weight:  # then no reference is asked for, and none is made
            return view.per_token(ga(view.token_logprobs))
        kl = kl_positions(view.reference.logprobs, view.logprobs)
        return view.per_token(ga(view.token_logprobs) + self.forget_kl_weight * kl)
