"""Task-vector negation: learn the forget set harder, then walk the other way (Ilharco et al. 2023)."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from expunge.engine.method import Edit, Intention, Step, Trained
from expunge.engine.reference import fresh_adapters
from expunge.errors import InputError
from expunge.language.forward import ForwardPass
from expunge.language.methods._checks import not_negative
from expunge.language.subject import Subject
from expunge.language.unlearn import UnlearnJob


def task_vector(start: Mapping[str, Tensor], reinforced: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Task vector tau = theta_re - theta_0, tensor by tensor (Ilharco et al. 2023, section 2).

    Args:
        start: State of the model before reinforcement; integer and boolean tensors are left out.
        reinforced: State of the same model after it.

    Raises:
        InputError: The two states differ in names or shapes, or in no value at all.
    """
    odd = sorted(set(start) ^ set(reinforced))
    odd += [name for name in start if name not in odd and start[name].shape != reinforced[name].shape]
    if odd:
        raise InputError(f"task-vector: the two models differ in {len(odd)} tensors (first: {odd[0]}).")
    vector = {name: reinforced[name] - value for name, value in start.items() if torch.is_floating_point(value)}
    if not any(bool(v.any()) for v in vector.values()):
        raise InputError("task-vector: reinforcement on the forget set changed nothing; there is no direction.")
    return vector


def negate(start: Mapping[str, Tensor], vector: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
    """theta_u = theta_0 - scale * tau; tensors without a vector are kept, and scale 0 keeps every bit.

    Args:
        start: theta_0.
        vector: tau, from `task_vector`.
        scale: Step along -tau.

    Returns:
        New tensors under the names of `start`.
    """
    return {
        name: value - scale * vector[name] if scale and name in vector else value.clone()
        for name, value in start.items()
    }


@dataclass(frozen=True)
class Reinforce(Trained):
    """Plain fine-tuning on the forget set: the step that makes the task vector."""

    def forget_loss(self, step: Step) -> Tensor:
        view: ForwardPass = step.forget
        return view.nll


@dataclass(frozen=True)
class TaskVector(Edit):
    """Task-vector negation: fine-tune a copy on the forget set, subtract what that changed.

    theta_u = theta_0 - scale * (theta_re - theta_0). The training settings are those of the reinforcement.
    With LoRA the direction lives in the adapters: the reinforced update B A is kept with B times -scale,
    which is the same negation of the merged weights.

    Attributes:
        scale: How far to walk against the vector. Source: reference code (MUSE takes the smallest of 1, 2,
            4, 8, 16 that forgets as much as retraining; start with 1).
    """

    paper: ClassVar[str] = (
        "Ilharco et al., Editing Models with Task Arithmetic, ICLR 2023 (arXiv 2212.04089); selection as in MUSE "
        "(Shi et al., ICLR 2025, arXiv 2407.06460)"
    )
    intention: ClassVar[Intention] = "removal"

    scale: float = 1.0

    def __post_init__(self) -> None:
        not_negative(self, "scale")

    def apply(self, job: UnlearnJob) -> Subject:
        """Return the job's subject with the negated weights.

        Raises:
            InputError: Reinforcement changed nothing, or the subject's adapters are already trained.
        """
        subject = job.subject
        adapters = any(".lora_B." in name for name, _ in subject.model.named_parameters())
        if adapters and not fresh_adapters(subject.model):
            raise InputError("task-vector: the model's adapters are already trained; merge them first.")
        reinforced = subject.with_model(copy.deepcopy(subject.model))
        job.train(Reinforce(), reinforced, part="reinforce", quiet=True)
        start, end = subject.model.state_dict(), reinforced.model.state_dict()
        vector = task_vector(start, end)
        if adapters:  # B starts at 0, so -scale * B_re A_re is the whole negated update
            down = {name: end[name] for name in vector if ".lora_A." in name}
            up = {name: -self.scale * end[name] for name in vector if ".lora_B." in name}
            subject.model.load_state_dict({**start, **down, **up})
        else:
            subject.model.load_state_dict(negate(start, vector, self.scale))
        return subject
