"""Direct preference optimization of refusals over the forget answers (IdkDPO)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from expunge.engine.method import Intention, Step, Substitute, Trained
from expunge.language.forward import ForwardPass
from expunge.language.methods._checks import above_zero, not_negative
from expunge.language.methods._retain import Retain, retain_term


def dpo(
    win_nll_sum: Tensor,
    win_reference_nll_sum: Tensor,
    lose_nll_sum: Tensor,
    lose_reference_nll_sum: Tensor,
    beta: float = 0.1,
    scaled: bool = True,
) -> Tensor:
    """DPO loss of each preference pair (Rafailov et al. 2023, equation 7).

    m = (S_l - S_l,ref) - (S_w - S_w,ref), S = -log p(answer | question), a SUM over tokens;
    L = -(2/beta) log sigmoid(beta m), or -log sigmoid(beta m) unscaled.

    Args:
        win_nll_sum: [B] S of the preferred answer under the model being trained, in nats.
        win_reference_nll_sum: [B] the same under the frozen reference.
        lose_nll_sum: [B] S of the dispreferred answer under the model being trained.
        lose_reference_nll_sum: [B] the same under the frozen reference.
        beta: Inverse temperature.
        scaled: Multiply by 2/beta, which makes the slope at the reference 1 for every beta.

    Returns:
        [B] losses, at least 0; (2/beta) ln 2 (scaled) or ln 2 where the model equals the reference.
    """
    m = (lose_nll_sum - lose_reference_nll_sum) - (win_nll_sum - win_reference_nll_sum)
    return -(2 / beta if scaled else 1.0) * F.logsigmoid(beta * m)


@dataclass(frozen=True)
class DPO(Trained):
    """Direct preference optimization (IdkDPO): prefer a refusal to the true answer of forget questions.

    TOFU's own DPO branch cannot run, and what its paper calls preference optimisation is the method `idk`.

    Attributes:
        beta: Inverse temperature of the preference. Source: reference code (NPO, open-unlearning).
        scaled: Multiply the loss by 2/beta. Source: reference code (NPO, open-unlearning); TOFU's does not.
        forget_weight: Weight of the preference term. Source: reference code (open-unlearning).
        retain: ``nll``, ``kl`` (forward KL from the reference) or ``none``. Source: reference code
            (open-unlearning).
        retain_weight: Weight of the retain term. Source: reference code (open-unlearning).
    """

    paper: ClassVar[str] = (
        "Rafailov et al., Direct Preference Optimization: Your Language Model is Secretly a Reward Model, "
        "NeurIPS 2023 (arXiv 2305.18290); for unlearning as in Zhang et al., COLM 2024 (arXiv 2404.05868)"
    )
    intention: ClassVar[Intention] = "suppression"
    substitute: ClassVar[Substitute | None] = "refusal"

    beta: float = 0.1
    scaled: bool = True
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
        win: ForwardPass = step.substitute
        lose: ForwardPass = step.forget
        losses = dpo(
            win.nll_sum,
            win.reference.nll_sum,
            lose.nll_sum,
            lose.reference.nll_sum,
            self.beta,
            self.scaled,
        )
        return self.forget_weight * lose.per_row(losses)

    def retain_loss(self, step: Step) -> Tensor:
        return self.retain_weight * retain_term(step.retain, self.retain)
