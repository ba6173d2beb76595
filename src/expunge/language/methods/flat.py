"""FLAT: forget by an f-divergence between template and forget answers, from forget data alone (Wang et al. 2025)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor

from expunge.engine.method import Intention, Step, Trained
from expunge.errors import InputError, nearest
from expunge.language.forward import ForwardPass
from expunge.language.methods._checks import not_negative
from expunge.language.methods._retain import Retain, retain_term

Divergence = Literal["kl", "js", "pearson", "tv", "jeffrey", "reverse-kl", "squared-hellinger", "neyman"]
Template = Literal["refusal", "mismatch"]

LN2 = math.log(2)
Part = Callable[[Tensor], Tensor]

# g*(v) of the template's probability, f*(g*(v)) of the forget answer's. The first five as published; the last
# three with the increasing g* (e^-v, where the published table and code have e^v).
PARTS: dict[str, tuple[Part, Part]] = {
    "kl": (lambda v: v, lambda v: (v - 1).exp()),
    "js": (lambda v: LN2 - F.softplus(-v), lambda v: F.softplus(v) - LN2),
    "pearson": (lambda v: v, lambda v: v + v**2 / 4),
    "tv": (lambda v: v.tanh() / 2, lambda v: v.tanh() / 2),
    "jeffrey": (lambda v: v, lambda v: v + v**2 / 4 + v**3 / 16),
    "reverse-kl": (lambda v: -(-v).exp(), lambda v: v - 1),
    "squared-hellinger": (lambda v: 1 - (-v).exp(), lambda v: v.exp() - 1),
    "neyman": (lambda v: 1 - (-v).exp(), lambda v: 2 - 2 * (-v / 2).exp()),
}


def flat(template_probability: Tensor, forget_probability: Tensor, divergence: str = "tv") -> Tensor:
    """FLAT loss of each pair of answers (Wang et al. 2025, the variational bound of an f-divergence).

    L = -g*(P_e) + f*(g*(P_f)): minus the bound sup_g E_e[g] - E_f[f*(g)], with the optimal g of the divergence
    applied to P. L falls in P_e and rises in P_f. The bound assumes an unbounded score where P lies in
    [0, 1], so no variant estimates its divergence; they are weightings of two pulls.

    Args:
        template_probability: [B] P of the template answers, in [0, 1].
        forget_probability: [B] P of the forget answers to the same questions.
        divergence: kl, js, pearson, tv, jeffrey, reverse-kl, squared-hellinger or neyman.

    Returns:
        [B] losses.

    Raises:
        InputError: The divergence is unknown.
    """
    if divergence not in PARTS:
        raise InputError(f"flat: divergence={divergence!r} is unknown.{nearest(divergence, PARTS)}")
    g, conjugate = PARTS[divergence]
    return conjugate(forget_probability) - g(template_probability)


def mean_probability(view: ForwardPass) -> Tensor:
    """P(x, y) = (1/|y|) sum_i p(y_i | x, y_<i) of each answer: [B].

    The mean of the tokens' probabilities, neither of their logarithms nor their product. Its gradient is
    sum_i p_i grad log p_i / |y|: certain tokens count, forgotten ones no longer do.
    """
    return view.sum_rows(view.token_logprobs.exp()) / view.lengths


@dataclass(frozen=True)
class FLAT(Trained):
    """FLAT: prefer a template answer to the forget answer by an f-divergence, from forget data alone.

    The paper takes the divergence as an expectation over rows, and so does this; its code applies it to
    means of the batch. What else its code does is in `expunge.language.compat_losses`. Gradients are not
    scaled by 1/p, so a template the model finds impossible starts with almost none.

    Attributes:
        divergence: ``kl``, ``js``, ``pearson`` or ``tv`` (total variation), which the paper reports;
            ``jeffrey``; ``reverse-kl``, ``squared-hellinger`` and ``neyman`` with their signs put right.
            Source: reference code (tv, its configuration of the Harry Potter run).
        template: ``refusal`` draws from the job's refusals, ``mismatch`` from answers of other records (the
            paper's ablation with normal answers). Source: paper.
        template_nll_weight: Weight of an ordinary negative log-likelihood of the template beside the
            divergence, for a model that finds it impossible. Source: ours (0 is the paper).
        retain: ``none``, ``nll`` or ``kl`` (forward KL from the reference). Source: paper (no retain data).
        retain_weight: Weight of the retain term where there is one. Source: ours.
    """

    paper: ClassVar[str] = (
        "Wang, Wei, Liu, Pang, Liu, Shah, Bao, Liu, Wei, LLM Unlearning via Loss Adjustment with Only Forget "
        "Data, ICLR 2025 (arXiv 2410.11143)"
    )
    intention: ClassVar[Intention] = "suppression"

    divergence: Divergence = "tv"
    template: Template = "refusal"
    template_nll_weight: float = 0.0
    retain: Retain = "none"
    retain_weight: float = 1.0

    def __post_init__(self) -> None:
        if self.divergence not in PARTS:
            raise InputError(f"flat: divergence={self.divergence!r} is unknown.{nearest(self.divergence, PARTS)}")
        if self.template not in ("refusal", "mismatch"):
            raise InputError(f"flat: template={self.template!r} must be refusal or mismatch.")
        not_negative(self, "template_nll_weight", "retain_weight")

    @property
    def has_retain(self) -> bool:
        return self.retain != "none"

    @property
    def substitute(self) -> Template:  # type: ignore[override]  # a choice here, a constant of other methods
        return self.template

    def forget_loss(self, step: Step) -> Tensor:
        template: ForwardPass = step.substitute
        secret: ForwardPass = step.forget
        loss = secret.per_row(flat(mean_probability(template), mean_probability(secret), self.divergence))
        if self.template_nll_weight:
            loss = loss + self.template_nll_weight * template.nll
        return loss

    def retain_loss(self, step: Step) -> Tensor:
        return self.retain_weight * retain_term(step.retain, self.retain)
