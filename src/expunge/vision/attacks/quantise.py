"""Quantisation: round the weights and see whether what small weight changes hid comes back."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from expunge.engine.rounding import round_to_nearest
from expunge.errors import InputError
from expunge.report.readings import Reading
from expunge.vision.attacks._common import AttackSetting, right
from expunge.vision.forward import head_of
from expunge.vision.subject import Subject


@dataclass(frozen=True)
class Quantise:
    """Round the weights of all convolutions and linear layers but the head to 8 and 4 bits and ask again.

    Attributes:
        bits: Word lengths. Source: paper, section 4 (8 and 4 bits, round to nearest).
    """

    paper: ClassVar[str] = (
        "Zhang, Wang, Li, Wu, Tang, Liu, He, Yin, Wang, Catastrophic Failure of LLM Unlearning via "
        "Quantization, ICLR 2025 (arXiv 2410.16454)"
    )

    bits: tuple[int, ...] = (8, 4)

    def __post_init__(self) -> None:
        if any(not 2 <= b <= 16 for b in self.bits):
            raise InputError(f"quantise: bits={self.bits} must lie between 2 and 16.")

    def run(self, subject: Subject, setting: AttackSetting) -> list[Reading]:
        """Attack copies of a model; the model itself is left as it is."""
        images = setting.workload.splits["forget"]
        rows = list(range(len(images)))
        readings = []
        for bits in self.bits:
            attacked = subject.with_model(copy.deepcopy(subject.model))
            quantise_layers(attacked.model, bits)
            scores = right(attacked, images)[None]
            readings.append(Reading(f"quantise-{bits}", f"{bits} bits", float(bits), rows, scores))
        return readings


@torch.no_grad()
def quantise_layers(model: nn.Module, bits: int) -> None:
    """Quantise convolutions and linear layers in place; the head keeps its precision, as is usual."""
    head = head_of(model)
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d) and module is not head:
            module.weight.copy_(round_to_nearest(module.weight, bits))
