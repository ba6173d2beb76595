"""Membership by the gradient: what a model was trained on pulls its weights less than what it never saw."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from expunge.engine.reference import evaluating
from expunge.errors import InputError, RunError
from expunge.language.data import Record
from expunge.language.encode import collate, encode
from expunge.language.forward import ForwardPass
from expunge.language.metrics._common import Floats
from expunge.language.metrics.membership import detection, require_strangers
from expunge.language.subject import Subject
from expunge.report.scorecard import Finding

if TYPE_CHECKING:
    from expunge.language.evidence import EvidenceStore


@contextmanager
def tensor_norms(model: nn.Module, p: float) -> Iterator[list[Tensor]]:
    """Within, a backward pass leaves p-norms instead of gradients: one number for each parameter tensor it reaches.

    A gradient is dropped as soon as its norm is known, so never more than a few tensors' worth are alive.
    """
    found: list[Tensor] = []

    def measure(weight: Tensor) -> None:
        assert weight.grad is not None
        found.append(torch.linalg.vector_norm(weight.grad, p, dtype=torch.float64))
        weight.grad = None

    weights = [w for w in model.parameters() if w.is_floating_point()]
    frozen = [w for w in weights if not w.requires_grad]
    for weight in weights:
        weight.grad = None
        weight.requires_grad_(True)
    handles = [w.register_post_accumulate_grad_hook(measure) for w in weights]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
        for weight in frozen:
            weight.requires_grad_(False)


def gradient_norms(subject: Subject, records: list[Record], *, p: float = 2.0, where: str = "records") -> Floats:
    """G = (1/K) sum_k |grad_{theta_k} NLL(record)|_p, NLL the mean over the answer's tokens, theta_k the K tensors.

    One forward and one backward pass for each record; a tied tensor counts once, and a tensor that the record
    does not reach has the norm 0.

    Args:
        subject: The model.
        records: n records.
        p: Order of the norm.
        where: Name of the set in errors.

    Returns:
        [n] in nats per unit of weight.

    Raises:
        InputError: A record has no token to score.
        RunError: A gradient that is not a number.
    """
    encoded = encode(records, subject.tokenizer, subject.template, max_length=subject.max_length, where=where)
    count = sum(1 for w in subject.model.parameters() if w.is_floating_point())
    norms = np.empty(len(records))
    with evaluating(subject.model), torch.enable_grad(), tensor_norms(subject.model, p) as found:
        for i in range(len(records)):
            found.clear()
            view = ForwardPass(subject.model, collate(encoded, torch.tensor([i])), (1, 1))
            view.nll_mean[0].backward()
            norms[i] = float(torch.stack([n.cpu() for n in found]).sum()) / count
    if np.isnan(norms).any():
        row = int(np.isnan(norms).argmax()) + 1
        raise RunError(f"Split {where!r}, row {row}: the gradient is NaN; the model is broken.")
    return norms


@dataclass(frozen=True)
class GradientNorm:
    """Membership inference by the size of each record's gradient: small for what was trained on.

    Costs a forward and a backward pass for every record, one record at a time.

    Attributes:
        members: Records whose training is to be detected. Source: reference code.
        non_members: Records no model was trained on. Source: reference code.
        p: Order of the norm of each tensor's gradient. Source: reference code.
        seed: Seeds the bootstrap. Source: ours.
        draws: Bootstrap draws. Source: ours.
    """

    paper: ClassVar[str] = (
        "gradnorm of Dorna et al., OpenUnlearning, 2025 (arXiv 2506.12618), after Wang et al., Pandora's White-Box: "
        "Precise Training Data Detection and Extraction in Large Language Models, 2024 (arXiv 2402.17012)"
    )
    needs_gold: ClassVar[bool] = False

    members: str = "forget"
    non_members: str = "holdout"
    p: float = 2.0
    seed: int = 0
    draws: int = 1000

    def __post_init__(self) -> None:
        if not self.p > 0:
            raise InputError(f"gradient-norm: p={self.p} must be positive.")

    def measure(self, model: EvidenceStore, gold: EvidenceStore | None) -> list[Finding]:
        """Findings ``membership.gradient_norm.auroc``, ``.tpr_at_1_fpr`` and ``.tpr_at_0_1_fpr``.

        The score is minus the norm: higher = more like a member (the reference code has the opposite sign and
        the same AUROC).

        Raises:
            InputError: A split is missing, a record has no token to score or is on both sides.
            RunError: A gradient that is not a number.
        """
        splits = (self.members, self.non_members)
        members, others = (model.records(s) for s in splits)
        require_strangers(members, others, splits)
        sides = [
            -gradient_norms(model.subject, rows, p=self.p, where=s)
            for s, rows in zip(splits, (members, others), strict=True)
        ]
        return detection("gradient_norm", model, splits, sides, seed=self.seed, draws=self.draws)
