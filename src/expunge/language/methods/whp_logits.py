"""WHP without fine-tuning: serve the generic logits themselves, as the MUSE benchmark does (Shi et al. 2025)."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from expunge.engine.method import Intention
from expunge.errors import InputError
from expunge.language.generic_labels import Scale, generic_logits
from expunge.language.guarded import CompanionLogits, Guarded, LogitGuard
from expunge.language.methods._checks import not_negative
from expunge.language.methods.task_vector import Reinforce
from expunge.language.subject import Subject, merge_lora
from expunge.language.unlearn import UnlearnJob

SCALES: tuple[Scale, ...] = ("log-softmax", "median", "raw")


@dataclass(frozen=True)
class WHPLogits(LogitGuard):
    """WHP at inference: a reinforced model runs beside the target, and what it favours is pushed down.

    l = l_b - alpha ReLU(l_r - l_b), both models reading the same text: the bootstrap half of WHP. The weights are
    unchanged and both models must be kept; memory and cost are twice the target's. The training settings are those
    of the reinforcement (MUSE: 10 epochs, 1e-5, cosine).

    Attributes:
        alpha: How far; no natural scale. Source: reference code (MUSE tries 1, 2, 4, ..., 256 and takes the one
            that knows as much of the forget set as retraining: 4 on News, 256 on Books).
        scale: How l_r - l_b is brought to a common scale: ``median``, ``log-softmax`` (hardly moves what the target
            is sure of), or ``raw`` as in the reference code. Source: ours; reference code (raw).
    """

    paper: ClassVar[str] = (
        "Eldan, Russinovich, Who's Harry Potter? Approximate Unlearning in LLMs, 2023 (arXiv 2310.02238), as in MUSE "
        "(Shi et al., ICLR 2025, arXiv 2407.06460)"
    )
    intention: ClassVar[Intention] = "suppression"

    alpha: float = 4.0
    scale: Scale = "median"

    def __post_init__(self) -> None:
        not_negative(self, "alpha")
        if self.scale not in SCALES:
            raise InputError(f"whp-logits: scale={self.scale!r}; log-softmax, median or raw.")

    def combine(self, target: Tensor, companion: CompanionLogits, *, decoding: bool) -> Tensor:
        """See `LogitGuard`: v_gen of the target and the reinforced model."""
        return generic_logits(target, companion.everywhere(), alpha=self.alpha, scale=self.scale)

    def wrap(self, job: UnlearnJob) -> Subject:
        """Return the job's model with the reinforced one beside it.

        Raises:
            InputError: A family whose logits are changed after the head.
        """
        reinforced = job.subject.with_model(copy.deepcopy(job.subject.model))
        job.train(Reinforce(), reinforced, part="reinforce", quiet=True)
        target, companion = merge_lora(job.subject), merge_lora(reinforced)
        return target.with_model(Guarded(target.model, companion.model, self).eval())
