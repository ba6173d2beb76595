"""Retraining of the last stages from their first values: exact for them, blind to the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from expunge.engine.method import Intention
from expunge.engine.training import derive_seed
from expunge.errors import InputError
from expunge.vision.methods._checks import one_of
from expunge.vision.methods._stages import chosen_modules, is_below
from expunge.vision.methods.cf_k import CFk
from expunge.vision.subject import reset
from expunge.vision.unlearn import require


@dataclass(frozen=True)
class EUk(CFk):
    """Exact unlearning of the last k stages: they start anew and are trained on D_r, everything else frozen.

    They are put back to the values they had before the target was trained, where those are known, and to fresh ones
    otherwise. What the frozen stages learnt of D_f stays.

    Attributes:
        k: Stages that start anew, counted from the head, which is one. Source: reference code (as CF-k's).
        trainable: Patterns of module names instead, such as ``layer4*``. Source: ours.
        recipe: ``original`` trains by the target's own recipe, as long as the original run, where it is known;
            ``own`` by the run's training settings. Source: paper; ours.
    """

    paper: ClassVar[str] = (
        "Goel et al., Towards Adversarial Evaluations for Inexact Machine Unlearning, 2022 (arXiv 2201.06640)"
    )
    intention: ClassVar[Intention] = "removal"

    recipe: Literal["original", "own"] = "original"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(self, "recipe", ("original", "own"))

    @property
    def _name(self) -> str:
        return "eu-k"

    def apply(self, job: Any) -> Any:
        """Return the subject with its last stages retrained.

        Raises:
            InputError: No retained images, no such modules, or first values of other shapes.
        """
        require(job.retain, "retain", self)
        modules = chosen_modules(job.subject.model, self.k, self.trainable, self._name)
        if job.base is None:
            torch.manual_seed(derive_seed(job.seed, "eu-k"))
            reset(job.subject.model, modules)
        else:
            put_back(job.subject.model, job.base().model, modules)
        training = job.training
        if self.recipe == "original" and job.base_training is not None:
            training = job.base_training.for_share(len(job.retain), len(job.retain) + len(job.forget))
        return self.fine_tune(job, modules, training)


@torch.no_grad()
def put_back(model: nn.Module, initial: nn.Module, modules: Sequence[str]) -> None:
    """Give some modules the parameters and buffers of another network of the same kind.

    Raises:
        InputError: It has no such tensor, or one of another shape.
    """
    first = initial.state_dict(keep_vars=True)
    for name, value in model.state_dict(keep_vars=True).items():
        if is_below(name, modules):
            if name not in first or first[name].shape != value.shape:
                raise InputError(f"eu-k: the model before training has no {name} of shape {tuple(value.shape)}.")
            value.copy_(first[name])
