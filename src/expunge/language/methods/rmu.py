"""RMU: representation misdirection for unlearning (Li et al. 2024, the WMDP paper)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from expunge.engine.method import Intention, Step
from expunge.language.forward import ForwardPass
from expunge.language.methods._checks import above_zero
from expunge.language.methods._steering import Steering, control_vectors


def rmu(states: Tensor, target: Tensor) -> Tensor:
    """RMU's loss of each position: mean squared distance of a block's output to where it is steered.

    L_f = mean over positions and d of (h - c u)^2, u a fixed random unit vector (Li et al. 2024, section 4).

    Args:
        states: [S, d] output of the block at every real position.
        target: [d] or [S, d], where to.

    Returns:
        [S] losses.
    """
    return (states - target).square().mean(-1)


@dataclass(frozen=True)
class RMU(Steering):
    """RMU: steer a middle block's output on forget text to one random vector, hold it on retain text.

    L = L_f + alpha * L_r, L_r = mean (h - h_ref)^2 on retain rows. Forward passes stop after the block.
    Padding is left out of both means (`expunge.language.compat.rmu_unmasked_wmdp` is the published form),
    and each row counts the same. c below the mean norm of the activations does little: compare the two, or
    use adaptive-rmu.

    Attributes:
        layer: Index of the block whose output is steered; None is a quarter of the depth. Source: ours,
            which gives the paper's 7 for its 32 blocks.
        layer_ids: Blocks that are trained; None is the steered one and the two before it. Source: reference
            code.
        parameters: Names of the weights trained in each of them; each must match exactly one. Source:
            reference code, which takes the seventh parameter of a block: this one on Llama and Mistral.
        alpha: Weight of the retain term. Source: paper (Zephyr-7B).
        skip_first: Leave the first token of each row out: on some models its norm is in the hundreds and
            cannot be steered. Source: ours; off, as in the paper.
        steering: c, norm of the control vector. Source: paper (Zephyr-7B).
    """

    paper: ClassVar[str] = (
        "Li et al., The WMDP Benchmark: Measuring and Reducing Malicious Use With Unlearning, ICML 2024 "
        "(arXiv 2403.03218)"
    )
    intention: ClassVar[Intention] = "suppression"

    steering: float = 6.5

    def __post_init__(self) -> None:
        super().__post_init__()
        above_zero(self, "steering")

    def begin(self, step: Step) -> dict[str, Tensor]:
        view: ForwardPass = step.forget
        states = view.hidden(self.read_layer(view.model))
        control = control_vectors(1, states.shape[-1], step.seed)[0].to(states.device)
        return {"target": self.steering * control}

    def forget_loss(self, step: Step) -> Tensor:
        view: ForwardPass = step.forget
        states = view.hidden(self.read_layer(view.model))
        return self.masked_mean(view, rmu(states, step.state["target"]))
