"""Fine-tuning of the last stages: the rest of the network is not touched."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from expunge.engine.method import Edit, Intention
from expunge.engine.training import Training
from expunge.errors import InputError
from expunge.vision.methods._stages import chosen_modules, is_below
from expunge.vision.methods.fine_tune import FineTune
from expunge.vision.norms import frozen_norms
from expunge.vision.unlearn import require


@dataclass(frozen=True)
class Partial(FineTune):
    """Fine-tuning of some modules.

    Attributes:
        modules: Their names.
    """

    modules: tuple[str, ...] = ()

    def trainable(self, model: nn.Module) -> list[str]:
        """Their parameters."""
        return [n for n, p in model.named_parameters() if p.requires_grad and is_below(n, self.modules)]


@dataclass(frozen=True)
class CFk(Edit):
    """Catastrophic forgetting of the last k stages: min CE(D_r) over their weights, everything else frozen.

    Frozen weights stay as they are bit for bit, and so do the running statistics of frozen normalisation layers;
    those of the trained stages move with the retained images. MUFAC's CF-3 is k = 3 on a ResNet: its last two blocks
    and its head. Reference settings: SGD, momentum 0.9, lr 0.01, 10 epochs (MUFAC: lr 0.001, 2 epochs).

    Attributes:
        k: Stages that are trained, counted from the head, which is one. Source: reference code (MUFAC).
        trainable: Patterns of module names to train instead, such as ``layer4*``. Source: ours.
    """

    paper: ClassVar[str] = (
        "Goel et al., Towards Adversarial Evaluations for Inexact Machine Unlearning, 2022 (arXiv 2201.06640)"
    )
    intention: ClassVar[Intention] = "removal"

    k: int = 3
    trainable: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.k < 1:
            raise InputError(f"{self._name}: k={self.k} must be at least 1.")
        if isinstance(self.trainable, str):
            raise InputError(f"{self._name}: trainable={self.trainable!r} must be a list of module names.")

    @property
    def _name(self) -> str:
        return "cf-k"

    def apply(self, job: Any) -> Any:
        """Return the subject with its last stages fine-tuned.

        Raises:
            InputError: No retained images, or no such modules.
        """
        require(job.retain, "retain", self)
        modules = chosen_modules(job.subject.model, self.k, self.trainable, self._name)
        return self.fine_tune(job, modules, job.training)

    def fine_tune(self, job: Any, modules: Sequence[str], training: Training) -> Any:
        """Train the modules alone."""
        model = job.subject.model
        frozen = [m for n, m in model.named_modules() if isinstance(m, _BatchNorm) and not is_below(n, modules)]
        with ExitStack() as stack:
            for layer in frozen:
                stack.enter_context(frozen_norms(layer))
            return job.train(Partial(tuple(modules)), job.subject, training)
