"""Fine-tuning on the retain set: forgetting by drift alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from expunge.engine.method import Intention, Step, Trained
from expunge.language.forward import ForwardPass


@dataclass(frozen=True)
class FineTune(Trained):
    """Fine-tuning: train on the retain set only, and let the forget set fade.

    L = nll_tok(R). An epoch is a pass over the retain set. Target and gold models are made with it too.
    """

    paper: ClassVar[str] = (
        "Golatkar, Achille, Soatto, Eternal Sunshine of the Spotless Net: Selective Forgetting in Deep "
        "Networks, CVPR 2020 (arXiv 1911.04933), baseline 'fine-tune'"
    )
    intention: ClassVar[Intention] = "removal"

    def retain_loss(self, step: Step) -> Tensor:
        view: ForwardPass = step.retain
        return view.nll
