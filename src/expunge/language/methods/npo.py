"""Negative preference optimization (Zhang, Lin, Bai, Mei 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from expunge.engine.method import Intention, Step, Trained
from expunge.language.forward import ForwardPass
from expunge.language.methods._checks import above_zero, not_negative
from expunge.language.methods._retain import Retain, retain_term


def npo(nll_sum: Tensor, reference_nll_sum: Tensor, beta: float = 0.1) -> Tensor:
    """NPO loss of each sequence (Zhang et al. 2024, equation 3).

    L = -(2/beta) log sigmoid(beta * (S - S_ref)), S = -log p(answer | question), a SUM over tokens.

    Its gradient is -W grad S with W = 2 sigmoid(-beta (S - S_ref)) in (0, 2): that of gradient ascent on S
    at the reference, fading once a sequence is forgotten.

    Args:
        nll_sum: [B] S under the model being trained, in nats.
        reference_nll_sum: [B] S under the frozen reference.
        beta: Inverse temperature; beta -> 0 is gradient ascent on S.

    Returns:
        [B] losses, at least 0; (2/beta) ln 2 where the model equals the reference.
    """
    return -2 / beta * F.logsigmoid(beta * (nll_sum - reference_nll_sum))


@dataclass(frozen=True)
class NPO(Trained):
    """Negative preference optimization: push forget answers below a frozen reference, with bounded slope.

    MUSE's trainer feeds raw logits, and the WMDP trainers a token mean, into the same formula; both forms
    are in `expunge.language.compat`, with what they do instead.

    Attributes:
        beta: Inverse temperature of the preference. Source: paper, experiments on TOFU.
        forget_weight: c_f, weight of the forget term. Source: paper.
        retain: ``nll`` (NPO+RT), ``kl`` (NPO+KL, forward KL from the reference) or ``none`` (the paper's plain
            NPO). Source: reference code (open-unlearning); the paper reports all three.
        retain_weight: c_r, weight of the retain term. Source: paper.
    """

    paper: ClassVar[str] = (
        "Zhang, Lin, Bai, Mei, Negative Preference Optimization: From Catastrophic Collapse to Effective "
        "Unlearning, COLM 2024 (arXiv 2404.05868)"
    )
    intention: ClassVar[Intention] = "removal"

    beta: float = 0.1
    forget_weight: float = 1.0
    retain: Retain = "nll"
    retain_weight: float = 1.0

    def __post_init__(self) -> None:
        above_zero(self, "beta")
        not_negative(self, "forget_weight", "retain_weight")

    @property
    def has_retain(self) -> bool:
        return self.retain != "none"

    def forget_loss(self, step: Step) -> Tensor:
        view: ForwardPass = step.forget
        S, S_ref = view.nll_sum, view.reference.nll_sum
        return self.forget_weight * view.per_row(npo(S, S_ref, self.beta))

    def retain_loss(self, step: Step) -> Tensor:
        return self.retain_weight * retain_term(step.retain, self.retain)
