"""IDK tuning: answer forget questions with a refusal (TOFU, where it is called preference optimisation)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from expunge.engine.method import Intention, Step, Substitute, Trained


def idk(token_logprobs: Tensor, tokens: int) -> Tensor:
    """Share of one side in the token mean over the concatenated batch [refusals; retain].

    L = nll_tok of the concatenated batch = idk(refusals, N) + idk(retain, N), N its labelled tokens. A side
    counts by its tokens, so long retain answers outweigh short refusals.

    Args:
        token_logprobs: [T] log p(label) of the side, in nats.
        tokens: N, labelled tokens of both sides together.

    Returns:
        Scalar, in nats.
    """
    return -token_logprobs.sum() / tokens


@dataclass(frozen=True)
class IDK(Trained):
    """IDK tuning: fine-tune on refusals to the forget questions, beside ordinary retain rows.

    Pure descent on one concatenated batch. TOFU's paper calls it preference optimisation (PO); it is not
    DPO, which is the method `dpo` here. A fresh refusal is drawn each time a question comes up.
    """

    paper: ClassVar[str] = (
        "Maini, Feng, Schwarzschild, Lipton, Kolter, TOFU: A Task of Fictitious Unlearning for LLMs, COLM 2024 "
        "(arXiv 2401.06121)"
    )
    intention: ClassVar[Intention] = "suppression"
    substitute: ClassVar[Substitute | None] = "refusal"

    @property
    def streams(self) -> tuple[str, ...]:
        return ("substitute", "retain")

    def forget_loss(self, step: Step) -> Tensor:
        return idk(step.substitute.token_logprobs, _tokens(step))

    def retain_loss(self, step: Step) -> Tensor:
        return idk(step.retain.token_logprobs, _tokens(step))


def _tokens(step: Step) -> int:
    return step.tokens["substitute"] + step.tokens["retain"]
