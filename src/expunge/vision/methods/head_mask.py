"""The head mask: forgotten classes are made unsayable, and nothing else is changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from expunge.engine.method import Edit, Intention
from expunge.errors import InputError
from expunge.vision.forward import head_of
from expunge.vision.methods._checks import classes_only, gone_classes


@dataclass(frozen=True)
class HeadMask(Edit):
    """b_c = -offset for every class c of D_f that D_r has no image of: the cheat every audit of features must expose.

    Accuracy on the forgotten classes becomes 0 and that on the others is not touched, while each feature, its
    alignment with the target and what neighbours tell stay where they were. A method below it in H-LR has no business.

    Attributes:
        offset: Subtracted from the logits of forgotten classes. Source: ours (beyond any logit).
    """

    paper: ClassVar[str] = "baseline after Kim, Cha, Kim, Are We Truly Forgetting?, 2025 (arXiv 2503.06991)"
    intention: ClassVar[Intention] = "suppression"

    offset: float = 1e4

    def __post_init__(self) -> None:
        if not 0 < self.offset < float("inf"):
            raise InputError(f"head-mask: offset={self.offset} must be above 0.")

    def apply(self, job: Any) -> Any:
        """Return the masked subject.

        Raises:
            InputError: Several labels an image, a head without a bias, or no class that goes as a whole.
        """
        classes_only(self, job.forget)
        gone = gone_classes(job.forget, job.retain)
        bias = head_of(job.subject.model).bias
        if not gone:
            raise InputError("head-mask: every class of the forget images is among those to be kept; none can go.")
        if bias is None:
            raise InputError("head-mask: the head has no bias to mask classes with.")
        with torch.no_grad():
            bias[torch.tensor(gone, device=bias.device)] -= self.offset
        return job.subject
