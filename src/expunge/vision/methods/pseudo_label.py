"""Pseudo-labels: what must go is trained on the best class that stays, by the original's own ranking."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from expunge.engine.method import Intention
from expunge.engine.sampling import epochs
from expunge.errors import InputError
from expunge.vision.methods._checks import classes_only, gone_classes
from expunge.vision.methods._passes import Descend, OwnPasses


@dataclass(frozen=True)
class PseudoLabel(OwnPasses):
    """min CE(D_f, y~), with y~ = argmax of the original's logits over the classes that stay.

    An image's own class never is its pseudo-label, so that single images can be forgotten too. Labels are those of the
    images as they are (not augmented). No retained image is used. Running statistics of normalisation layers move
    with the forgotten images, unless they are frozen. Reference settings: SGD, lr 1e-5, 15 epochs, batch 128.

    Attributes:
        classes: Classes that are forgotten entirely; empty: those of D_f that D_r has no image of, none where there
            is no D_r. Source: ours.
    """

    paper: ClassVar[str] = "Kim, Cha, Kim, Are We Truly Forgetting?, 2025 (arXiv 2503.06991)"
    intention: ClassVar[Intention] = "removal"
    aliases: ClassVar[str] = "pl"

    classes: Sequence[int] = ()

    def apply(self, job: Any) -> Any:
        """Return the trained subject.

        Raises:
            InputError: Several labels an image; a class the model does not have; no class that stays.
        """
        classes_only(self, job.forget)
        total = job.subject.classes
        outside = [c for c in self.classes if not 0 <= c < total]
        if outside:
            raise InputError(f"pseudo-label: class {outside[0]} is outside the classes 0 to {total - 1}.")
        gone = self.classes or (gone_classes(job.forget, job.retain) if len(job.retain) else [])
        logits, _ = job.subject.outputs(job.forget)
        labels = best_kept(logits, job.forget.labels, gone)
        training = job.training
        steps = training.total_steps(len(job.forget))
        order = epochs(len(job.forget), steps, training.batch_size, job.seed, "forget")
        streams = {"forget": job.stream(job.forget, order, labels)}
        return job.train(Descend(sides=("forget",)), job.subject, streams=streams, freeze_norms=self.freeze_norms)


def best_kept(logits: Tensor, labels: Tensor, gone: Sequence[int]) -> Tensor:
    """[n] the class with the largest logit that is neither forgotten nor the image's own.

    Args:
        logits: [n, C] of the original model.
        labels: [n] own classes.
        gone: Forgotten classes.

    Raises:
        InputError: There is none.
    """
    allowed = torch.ones_like(logits, dtype=torch.bool)
    allowed[:, list(gone)] = False
    allowed.scatter_(1, labels[:, None], False)
    if not bool(allowed.any(1).all()):
        raise InputError("pseudo-label: no class is left that a forgotten image could be given.")
    return logits.masked_fill(~allowed, -torch.inf).argmax(1)
