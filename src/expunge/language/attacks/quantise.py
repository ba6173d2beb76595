"""Quantisation: round the weights and see whether what small weight changes hid comes back."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from expunge.engine.rounding import round_to_nearest
from expunge.errors import InputError
from expunge.language.attacks._common import AttackSetting, Reading
from expunge.language.forward import unwrap
from expunge.language.subject import Subject, merge_lora


@dataclass(frozen=True)
class Quantise:
    """Round the weights of all linear layers to 8 and 4 bits and ask again.

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
        measured = setting.workload.splits["forget"]
        readings = []
        for bits in self.bits:
            attacked = merge_lora(subject.with_model(copy.deepcopy(subject.model)))
            quantise_linear(attacked.model, bits)
            scores = setting.score(attacked, measured)[None]
            rows = list(range(len(measured)))
            readings.append(Reading(f"quantise-{bits}", f"{bits} bits", float(bits), rows, scores))
        return readings


@torch.no_grad()
def quantise_linear(model: nn.Module, bits: int) -> None:
    """Quantise the linear layers in place; embeddings and the head keep their precision, as is usual."""
    head = unwrap(model).get_output_embeddings()
    for module in model.modules():
        if isinstance(module, nn.Linear) and module is not head:
            module.weight.copy_(round_to_nearest(module.weight, bits))
