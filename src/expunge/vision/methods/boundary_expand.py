"""Boundary expand: what must go gets a class of its own, and the class is taken away."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from expunge.engine.method import Intention
from expunge.engine.sampling import epochs
from expunge.engine.training import derive_seed
from expunge.vision.forward import head_of
from expunge.vision.methods._checks import classes_only
from expunge.vision.methods._passes import Descend, OwnPasses


@dataclass(frozen=True)
class BoundaryExpand(OwnPasses):
    """Add a shadow class C to the head, min CE(D_f, C), and remove its row again.

    The rows of the classes are copied, the new one starts as a fresh layer's would. The model that is returned has C
    outputs, as the paper has it; its code evaluates with C + 1. No retained image is used. Running statistics of
    normalisation layers move with the forgotten images, unless they are frozen. Reference settings: SGD, lr 1e-5, 10
    epochs.

    Attributes:
        freeze_norms: Keep the running statistics of normalisation layers as they are. Source: ours (the reference
            code lets them move).
    """

    paper: ClassVar[str] = "Chen, Gao, Liu, Peng, Wang, Boundary Unlearning, CVPR 2023 (arXiv 2303.11570)"
    intention: ClassVar[Intention] = "removal"

    def apply(self, job: Any) -> Any:
        """Return the trained subject, with the outputs it had.

        Raises:
            InputError: Several labels an image.
        """
        classes_only(self, job.forget)
        model, training = job.subject.model, job.training
        head = head_of(model)
        torch.manual_seed(derive_seed(job.seed, "boundary-expand"))
        put_head(model, head, wider := with_rows(head, head.out_features + 1))
        labels = torch.full((len(job.forget),), head.out_features)
        steps = training.total_steps(len(job.forget))
        order = epochs(len(job.forget), steps, training.batch_size, job.seed, "forget")
        streams = {"forget": job.stream(job.forget, order, labels)}
        try:
            job.train(
                Descend(sides=("forget",)), job.subject, streams=streams, quiet=True, freeze_norms=self.freeze_norms
            )
        finally:
            put_head(model, wider, with_rows(wider, head.out_features))
        return job.subject


def with_rows(head: nn.Linear, rows: int) -> nn.Linear:
    """A copy of a linear layer with its first rows, and fresh ones where it has fewer."""
    made = nn.Linear(head.in_features, rows, head.bias is not None)
    made = made.to(head.weight.device, head.weight.dtype)
    common = min(rows, head.out_features)
    with torch.no_grad():
        made.weight[:common] = head.weight[:common]
        if head.bias is not None:
            made.bias[:common] = head.bias[:common]
    made.weight.requires_grad_(head.weight.requires_grad)
    made.train(head.training)
    return made


def put_head(model: nn.Module, head: nn.Linear, other: nn.Linear) -> None:
    """Put another layer in the place of the head."""
    name = next(n for n, m in model.named_modules() if m is head)
    owner, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(owner), attribute, other)
