"""Gradient ascent (NegGrad): unlearning by training backwards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from expunge.engine.method import Intention, Step, Trained


@dataclass(frozen=True)
class GA(Trained):
    """Gradient ascent on the ranking loss of the forgotten interactions, with nothing to hold the rest.

    min log sigmoid(s_ui - s_uj) on D, over the retain graph. The gradient is sigmoid(s_uj - s_ui): next to nothing
    while the model still ranks the item high, and 1, without end, once it does not. Let the run stop when what is
    retained has lost 5% (`utility_floor` 0.95, `stop_below_floor`), or at a `loss_cap`.
    """

    paper: ClassVar[str] = "NegGrad of Golatkar, Achille, Soatto, CVPR 2020 (arXiv 1911.04933)"
    intention: ClassVar[Intention] = "removal"
    aliases: ClassVar[str] = "neggrad"

    def forget_loss(self, step: Step) -> Tensor:
        """L = -mean ranking loss on D."""
        loss: Tensor = -step.forget.loss
        return loss
