"""Adaptive RMU: the steering length follows the layer's own activations (Dang et al. 2025)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from expunge.engine.method import Intention, Step
from expunge.errors import InputError
from expunge.language.forward import ForwardPass
from expunge.language.methods._steering import Steering
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

    The code's other mode takes one constant per topic, scale times the mean norm over the topic's first batch.
    Topic 0's is measured before training. A later topic's first batch comes after one update (topic 1), two
    (topic 2) and so on; it is steered with topic 0's constant while its own is measured, so that the constant
    is that of the whole batch however it is divided.

    Attributes:
        topics: Names of the topics, as in the records' field ``topic``; empty takes all records as one.
            Source: reference code.
        layer: Index of the block whose output is steered; None is a quarter of the depth. Source: ours; the
            paper sweeps 3 to 31.
        layer_ids: Blocks that are trained; None is the steered one and the two before it. Source: paper.
        parameters: Names of the weights trained in each of them; each must match exactly one. Source:
            reference code.
        alpha: Weight of the retain term, one for all topics or one for each. Source: paper.
        forget_weight: Weight of the forget term. Source: paper (1).
        retain: What holds the retain rows: ``states`` (the block's output), or ``nll`` or ``kl`` of the whole
            model. Source: paper (states).
        vectors: How control vectors are drawn: ``uniform``, or ``gaussian``, which keeps topics apart. Source:
            paper (uniform).
        skip_first: Leave the first token of each row out. Source: ours; off, as in the paper.
        scale: Steering length in multiples of the norm, one for all topics or one for each. Source: paper.
        norm: ``token`` takes the reference's norm at each position, ``first-batch`` one constant per topic, the
            mean norm over its first batch. Source: paper (token); its code does the other.
    """

    paper: ClassVar[str] = (
        "Dang, Pham, Hoang, Inoue, On Effects of Steering Latent Representation for Large Language Model "
        "Unlearning, AAAI 2025 (arXiv 2408.06223)"
    )
    intention: ClassVar[Intention] = "suppression"

    scale: float | tuple[float, ...] = 5.0
    norm: Literal["token", "first-batch"] = "token"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not min(self.per_topic("scale")) > 0:
            raise InputError(f"adaptive-rmu: scale={self.scale} must be above 0.")
        if self.norm not in ("token", "first-batch"):
            raise InputError(f"adaptive-rmu: norm={self.norm!r} must be 'token' or 'first-batch'.")

    def begin(self, step: Step) -> dict[str, Tensor]:
        view: ForwardPass = step.forget
        controls = self.controls(view, step.seed)
        if self.norm == "token":
            return {"controls": controls}
        first = self.masked_mean(view, torch.linalg.vector_norm(view.hidden(self.read_layer(view.model)), dim=-1))
        return {"controls": controls, "norms": first.repeat(self.count)}

    def update(self, state: Mapping[str, Tensor], terms: Mapping[str, float], step: int) -> dict[str, Tensor]:
        """The first step of each later topic fixes that topic's constant; after that nothing changes."""
        if self.norm == "token" or not 0 < step < self.count:
            return dict(state)
        norms = state["norms"].clone()
        norms[step] = terms["norm"]
        return {**state, "norms": norms}

    def forget_loss(self, step: Step) -> Tensor:
        view: ForwardPass = step.forget
        topic, layer = self.topic(step), self.read_layer(view.model)
        scale, control = self.per_topic("scale")[topic], step.state["controls"][topic]
        if self.norm == "token":
            target = adaptive_target(view.reference.hidden(layer), control, scale)
        else:
            target = scale * step.state["norms"][topic] * control
        states = view.hidden(layer)
        self.watch_norm(step, states)
        return self.forget_weight * self.masked_mean(view, rmu(states, target))
