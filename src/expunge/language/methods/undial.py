"""UNDIAL: self-distillation from the reference with the true token's logit lowered (Dong et al. 2025)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from expunge.engine.method import Intention, Step, Trained
from expunge.language.forward import ForwardPass
from expunge.language.methods._checks import not_negative
from expunge.language.methods._retain import Retain, retain_term


def undial_target(reference_logits: Tensor, labels: Tensor, beta: float = 10.0) -> Tensor:
    """What UNDIAL teaches: the reference's distribution with the true token made rarer.

    q = softmax(z_ref - beta * onehot(label)). With p the reference's probabilities and c = 1 - e^-beta,
    q_y = p_y e^-beta / (1 - c p_y), and every other token keeps its share of the rest: q_i = p_i / (1 - c p_y).

    Args:
        reference_logits: [T, V] logits of the frozen reference.
        labels: [T] true tokens.
        beta: How far the true token's logit is lowered.

    Returns:
        [T, V] probabilities.
    """
    lowered = reference_logits.scatter_add(-1, labels[:, None], reference_logits.new_full((len(labels), 1), -beta))
    return lowered.softmax(-1)


def undial(target: Tensor, logprobs: Tensor) -> Tensor:
    """UNDIAL loss of each token (Dong et al. 2025, section 3): cross-entropy to a fixed soft label.

    L = -sum_v q_v log p_v, at least the entropy of q and equal to it where p = q. Its gradient with respect to
    the logits is p - q: bounded, and 0 once the model is what it is taught to be.

    Args:
        target: [T, V] probabilities q.
        logprobs: [T, V] log-probabilities of the model being trained.

    Returns:
        [T] losses, in nats.
    """
    return -(target * logprobs).sum(-1)


@dataclass(frozen=True)
class UNDIAL(Trained):
    """UNDIAL: distil the model into its own frozen copy whose true-token logits are lowered.

    Pure descent to a fixed target, so it cannot run away. The trainer of open-unlearning forgets the label
    mask: `expunge.language.compat_losses.undial_unmasked_open_unlearning`. The paper's focused variant, which
    lowers entities and nouns alone, needs a tagger and is not here.

    Attributes:
        beta: How far the reference's logit of the true token is lowered. Source: reference code (the authors'
            configuration in open-unlearning, with 3, 10 and 30 as the range to search).
        retain: ``none``, ``nll`` or ``kl`` (forward KL from the reference). Source: paper (no retain set).
        retain_weight: Weight of the retain term where there is one. Source: ours.
    """

    paper: ClassVar[str] = (
        "Dong, Lin, Belkin, Huerta, Vulic, UNDIAL: Self-Distillation with Adjusted Logits for Robust Unlearning "
        "in Large Language Models, NAACL 2025 (arXiv 2402.10052)"
    )
    intention: ClassVar[Intention] = "removal"

    beta: float = 10.0
    retain: Retain = "none"
    retain_weight: float = 1.0

    def __post_init__(self) -> None:
        not_negative(self, "beta", "retain_weight")

    @property
    def has_retain(self) -> bool:
        return self.retain != "none"

    def forget_loss(self, step: Step) -> Tensor:
        view: ForwardPass = step.forget
        target = undial_target(view.reference.logits, view.labels, self.beta)
        return view.per_token(undial(target, view.logprobs))

    def retain_loss(self, step: Step) -> Tensor:
        return self.retain_weight * retain_term(step.retain, self.retain)
