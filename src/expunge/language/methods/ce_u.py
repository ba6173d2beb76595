"""CE-U: cross-entropy to the model's own distribution without the true token (Yang 2025)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from expunge.engine.method import Intention, Step, Trained
from expunge.errors import InputError
from expunge.language.forward import ForwardPass
from expunge.language.methods._checks import not_negative
from expunge.language.methods._retain import Retain, retain_term


def ce_u(logits: Tensor, labels: Tensor) -> Tensor:
    """CE-U loss of each token (Yang 2025).

    L = -sum_v q_v log p_v, q = softmax of the model's own logits with the true token's at minus infinity,
    through which no gradient flows.

    Its gradient with respect to the logits is p - q: p_y on the true token, -p_y q_i on the others. It is
    strongest on tokens the model is sure of and fades as they are forgotten, and it is the gradient of
    -log(1 - p_y), the unlikelihood loss, of which L is a form that stays finite at p_y = 1.

    Args:
        logits: [T, V] logits of the model being trained.
        labels: [T] true tokens.

    Returns:
        [T] losses, in nats.
    """
    others = logits.detach().scatter(-1, labels[:, None], -torch.inf).softmax(-1)
    return -(others * logits.log_softmax(-1)).sum(-1)


def places(rows: Tensor) -> Tensor:
    """Place of each labelled token in its answer, from 0.

    Args:
        rows: [T] row of each labelled token, ascending.

    Returns:
        [T] places.

    >>> places(torch.tensor([0, 0, 0, 2, 2])).tolist()
    [0, 1, 2, 0, 1]
    """
    position = torch.arange(len(rows), device=rows.device)
    first = torch.searchsorted(rows, rows)
    return position - first


@dataclass(frozen=True)
class CEU(Trained):
    """Cross-entropy unlearning (CE-U): teach the model its own distribution without the true token.

    Neither reference nor retain set in the paper. The mean runs over the tokens that are not skipped.

    Attributes:
        skip_first: Leading tokens of each answer that are left alone: how an answer begins is grammar, not
            knowledge. Source: reference code (open-unlearning, which cites a footnote of the paper). With
            answers of one or two tokens take 0.
        retain: ``none``, ``nll`` or ``kl`` (forward KL from the reference). Source: paper (no retain set).
        retain_weight: Weight of the retain term where there is one. Source: ours.
    """

    paper: ClassVar[str] = "Yang, CE-U: Cross Entropy Unlearning, 2025 (arXiv 2503.01224)"
    intention: ClassVar[Intention] = "removal"

    skip_first: int = 1
    retain: Retain = "none"
    retain_weight: float = 1.0

    def __post_init__(self) -> None:
        not_negative(self, "skip_first", "retain_weight")
        if self.skip_first != int(self.skip_first):
            raise InputError(f"ce-u: skip_first={self.skip_first} must be a whole number of tokens.")

    @property
    def has_retain(self) -> bool:
        return self.retain != "none"

    def forget_loss(self, step: Step) -> Tensor:
        """Mean over the tokens of the step that are not skipped.

        Their number is exact as long as no answer is shorter than `skip_first`; it is taken from the totals
        of the whole step, so micro-batches add up to the large batch either way.
        """
        view: ForwardPass = step.forget
        losses = ce_u(view.logits, view.labels)
        if not self.skip_first:
            return view.per_token(losses)
        kept = losses.where(places(view.rows) >= self.skip_first, 0.0)
        return kept.sum() / max(1, view.total_tokens - self.skip_first * view.total_rows)

    def retain_loss(self, step: Step) -> Tensor:
        return self.retain_weight * retain_term(step.retain, self.retain)
