"""RMU: representation misdirection for unlearning (Li et al. 2024, the WMDP paper)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from expunge.engine.method import Intention, Step
from expunge.errors import InputError
from expunge.language.forward import ForwardPass
from expunge.language.methods._steering import Steering


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
    """RMU: steer a middle block's output on forget text to a random vector, hold it on retain text.

    L = L_f + alpha * L_r, L_r = mean (h - h_ref)^2 on retain rows. Forward passes stop after the block.
    Padding is left out of both means (`expunge.language.compat.rmu_unmasked_wmdp` is the published form),
    and each row counts the same. With several topics step i works on the records of topic i mod K, each with
    its own vector. c below the mean norm of the activations does little (the log has it as ``norm``): compare
    the two, or use adaptive-rmu. Published values of c and alpha belong to the unmasked loss.

    The loss may look flat for most of a run and fall late and at once: it is no reason to stop. What the model
    then writes on forget prompts is gibberish, a few steps of fine-tuning or removing the direction can undo
    it, and noise in harmless prompts can set it off: audit with relearning.

    Attributes:
        topics: Names of the topics, as in the records' field ``topic``; empty takes all records as one.
            Source: reference code (``bio``, ``cyber``).
        layer: Index of the block whose output is steered; None is a quarter of the depth. Source: ours,
            which gives the paper's 7 for its 32 blocks.
        layer_ids: Blocks that are trained; None is the steered one and the two before it. Source: reference
            code.
        parameters: Names of the weights trained in each of them; each must match exactly one. Source:
            reference code, which takes the seventh parameter of a block: this one on Llama and Mistral.
        alpha: Weight of the retain term, one for all topics or one for each. Source: paper (Zephyr-7B).
        forget_weight: Weight of the forget term. Source: locuslab/open-unlearning (gamma), 1 as in the paper.
        retain: What holds the retain rows: ``states`` (the block's output), or ``nll`` or ``kl`` of the whole
            model. Source: paper (states); locuslab/open-unlearning offers the others.
        vectors: How control vectors are drawn: ``uniform``, or ``gaussian``, which keeps topics apart. Source:
            paper (uniform).
        skip_first: Leave the first token of each row out: on some models its norm is in the hundreds and
            cannot be steered. Source: ours; off, as in the paper.
        steering: c, norm of the control vector, one for all topics or one for each. Source: paper (Zephyr-7B).
    """

    paper: ClassVar[str] = (
        "Li et al., The WMDP Benchmark: Measuring and Reducing Malicious Use With Unlearning, ICML 2024 "
        "(arXiv 2403.03218)"
    )
    intention: ClassVar[Intention] = "suppression"

    steering: float | tuple[float, ...] = 6.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not min(self.per_topic("steering")) > 0:
            raise InputError(f"rmu: steering={self.steering} must be above 0.")

    def begin(self, step: Step) -> dict[str, Tensor]:
        controls = self.controls(step.forget, step.seed)
        return {"targets": controls.new_tensor(self.per_topic("steering"))[:, None] * controls}  # [K, d]

    def forget_loss(self, step: Step) -> Tensor:
        view: ForwardPass = step.forget
        states = view.hidden(self.read_layer(view.model))
        self.watch_norm(step, states)
        target = step.state["targets"][self.topic(step)]
        return self.forget_weight * self.masked_mean(view, rmu(states, target))
