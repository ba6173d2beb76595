"""Adaptive RMU: the steering length follows the layer's own activations (Dang et al. 2025)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from expunge.engine.method import Intention, Step
from expunge.language.forward import ForwardPass
from expunge.language.methods._checks import above_zero
from expunge.language.methods._steering import Steering, control_vectors
from expunge.language.methods.rmu import rmu


def adaptive_target(reference_states: Tensor, control: Tensor, scale: float) -> Tensor:
    """Where Adaptive RMU steers each position: scale * ||h_ref|| * u (Dang et al. 2025, section 5).

    Args:
        reference_states: [S, d] output of the block under the frozen reference.
        control: [d] unit vector u.
        scale: Multiple of each position's own norm.

    Returns:
        [S, d]
    """
    norms: Tensor = torch.linalg.vector_norm(reference_states, dim=-1, keepdim=True)
    return scale * norms * control


@dataclass(frozen=True)
class AdaptiveRMU(Steering):
    """Adaptive RMU: RMU whose steering length is a multiple of the activations' own norm.

    L = L_f + alpha * L_r as in rmu, with the target scale * ||h_ref(x)|| * u at each position. So it works
    at any depth, where a fixed length fails once the activations outgrow it.

    Attributes:
        layer: Index of the block whose output is steered; None is a quarter of the depth. Source: ours; the
            paper sweeps 3 to 31.
        layer_ids: Blocks that are trained; None is the steered one and the two before it. Source: paper.
        parameters: Names of the weights trained in each of them; each must match exactly one. Source:
            reference code.
        alpha: Weight of the retain term. Source: paper.
        skip_first: Leave the first token of each row out. Source: ours; off, as in the paper.
        scale: Steering length in multiples of the norm. Source: paper.
        norm: ``token`` takes the reference's norm at each position, ``first-batch`` one constant, the mean
            norm over the first batch. Source: paper (token); its code does the other.
    """

    paper: ClassVar[str] = (
        "Dang, Pham, Hoang, Inoue, On Effects of Steering Latent Representation for Large Language Model "
        "Unlearning, AAAI 2025 (arXiv 2408.06223)"
    )
    intention: ClassVar[Intention] = "suppression"

    scale: float = 5.0
    norm: Literal["token", "first-batch"] = "token"

    def __post_init__(self) -> None:
        super().__post_init__()
        above_zero(self, "scale")

    def begin(self, step: Step) -> dict[str, Tensor]:
        view: ForwardPass = step.forget
        states = view.hidden(self.read_layer(view.model))
        control = control_vectors(1, states.shape[-1], step.seed)[0].to(states.device)
        if self.norm == "token":
            return {"control": control}
        return {"target": self.scale * self.masked_mean(view, torch.linalg.vector_norm(states, dim=-1)) * control}

    def forget_loss(self, step: Step) -> Tensor:
        view: ForwardPass = step.forget
        layer = self.read_layer(view.model)
        if self.norm == "token":
            target = adaptive_target(view.reference.hidden(layer), step.state["control"], self.scale)
        else:
            target = step.state["target"]
        return self.masked_mean(view, rmu(view.hidden(layer), target))
