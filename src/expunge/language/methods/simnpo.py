"""SimNPO: negative preference optimization without a reference, length-normalised (Fan et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from expunge.engine.method import Intention, Step, Trained
from expunge.language.forward import ForwardPass
from expunge.language.methods._checks import above_zero, not_negative
from expunge.language.methods._retain import Retain, retain_term


def simnpo(nll_mean: Tensor, beta: float = 4.5, gamma: float = 0.0) -> Tensor:
    """SimNPO loss of each sequence (Fan et al. 2024, equation 4).

    L = -(2/beta) log sigmoid(beta * (S/|y| - gamma)), S/|y| the MEAN over the answer's tokens.

    Its gradient is -w grad S with w = 2 sigmoid(-beta (S/|y| - gamma)) / |y|.

    Args:
        nll_mean: [B] mean token negative log-likelihood of each answer, in nats.
        beta: Inverse temperature.
        gamma: Margin, at least 0.

    Returns:
        [B] losses, at least 0.
    """
    return -2 / beta * F.logsigmoid(beta * (nll_mean - gamma))


@dataclass(frozen=True)
class SimNPO(Trained):
    """SimNPO: push the mean log-likelihood of forget answers down, with bounded slope and no reference.

    The defaults are the pair published for TOFU forget10; for forget05 it is beta 2.5 with forget_weight
    0.1375, for MUSE beta 0.7 (News) or 0.75 (Books) with retain_weight 0.1.

    Attributes:
        beta: Inverse temperature. Source: reference code (TOFU forget10, and open-unlearning's default).
        gamma: Margin in nats per token. Source: paper.
        forget_weight: c_f, weight of the forget term. Source: reference code (TOFU forget10, and
            open-unlearning's default).
        retain: ``nll``, ``kl`` (forward KL from a reference) or ``none``. Source: paper.
        retain_weight: Weight of the retain term. Source: reference code.
    """

    paper: ClassVar[str] = (
        "Fan, Liu, Lin, Jia, Zhang, Mei, Liu, Simplicity Prevails: Rethinking Negative Preference Optimization "
        "for LLM Unlearning, 2024 (arXiv 2410.07163)"
    )
    intention: ClassVar[Intention] = "removal"

    beta: float = 4.5
    gamma: float = 0.0
    forget_weight: float = 0.125
    retain: Retain = "nll"
    retain_weight: float = 1.0

    def __post_init__(self) -> None:
        above_zero(self, "beta")
        not_negative(self, "gamma", "forget_weight", "retain_weight")

    @property
    def has_retain(self) -> bool:
        return self.retain != "none"

    def forget_loss(self, step: Step) -> Tensor:
        view: ForwardPass = step.forget
        return self.forget_weight * view.per_row(simnpo(view.nll_mean, self.beta, self.gamma))

    def retain_loss(self, step: Step) -> Tensor:
        return self.retain_weight * retain_term(step.retain, self.retain)
