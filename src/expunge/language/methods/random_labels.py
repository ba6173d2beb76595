"""Random labels: teach the forget questions answers that belong to other questions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from expunge.engine.method import Intention, Step, Substitute, Trained
from expunge.language.forward import ForwardPass
from expunge.language.methods._checks import not_negative
from expunge.language.methods._retain import Retain, retain_term


@dataclass(frozen=True)
class RandomLabels(Trained):
    """Random labels (mismatch): fine-tune on forget questions with answers drawn from other records.

    L = w * nll_tok(forget questions, other answers) + a * nll_tok(R). A fresh wrong answer is drawn each
    time a question comes up, so the model learns to guess rather than one new answer.

    Attributes:
        forget_weight: w, weight of the wrong answers. Source: reference code (mismatch term of LLMU).
        retain: ``nll``, ``kl`` (forward KL from the reference) or ``none``. Source: ours.
        retain_weight: a, weight of the retain term. Source: ours.
    """

    paper: ClassVar[str] = (
        "Golatkar, Achille, Soatto, Eternal Sunshine of the Spotless Net: Selective Forgetting in Deep "
        "Networks, CVPR 2020 (arXiv 1911.04933), baseline 'random labels'; for language models as the "
        "mismatch term of Yao, Xu, Liu, NeurIPS 2024 (arXiv 2310.10683)"
    )
    intention: ClassVar[Intention] = "suppression"
    substitute: ClassVar[Substitute | None] = "mismatch"

    forget_weight: float = 1.0
    retain: Retain = "nll"
    retain_weight: float = 1.0

    def __post_init__(self) -> None:
        not_negative(self, "forget_weight", "retain_weight")

    @property
    def streams(self) -> tuple[str, ...]:
        return ("substitute", "retain") if self.has_retain else ("substitute",)

    @property
    def has_retain(self) -> bool:
        return self.retain != "none"

    def forget_loss(self, step: Step) -> Tensor:
        view: ForwardPass = step.substitute
        return self.forget_weight * view.nll

    def retain_loss(self, step: Step) -> Tensor:
        return self.retain_weight * retain_term(step.retain, self.retain)
