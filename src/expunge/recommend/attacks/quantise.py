"""Quantisation: round the tables and see whether what small changes hid comes back."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from expunge.engine.rounding import round_to_nearest
from expunge.errors import InputError
from expunge.recommend.attacks._common import AttackSetting, found
from expunge.recommend.subject import Subject
from expunge.report.readings import Reading


@dataclass(frozen=True)
class Quantise:
    """Round every table and weight matrix to 8 and 4 bits, row by row, and rank again.

    Attributes:
        bits: Word lengths. Source: paper, section 4 (8 and 4 bits, round to nearest).
    """

    paper: ClassVar[str] = (
        "Zhang, Wang, Li, Wu, Tang, Liu, He, Yin, Wang, Catastrophic Failure of LLM Unlearning via "
        "Quantization, ICLR 2025 (arXiv 2410.16454); on tables of vectors: ours"
    )

    bits: tuple[int, ...] = (8, 4)

    def __post_init__(self) -> None:
        if any(not 2 <= b <= 16 for b in self.bits):
            raise InputError(f"quantise: bits={self.bits} must lie between 2 and 16.")

    def run(self, subject: Subject, setting: AttackSetting) -> list[Reading]:
        """Attack copies of a model; the model itself is left as it is."""
        work = setting.workload
        rows = list(range(len(work.forget)))
        readings = []
        for bits in self.bits:
            attacked = subject.with_model(copy.deepcopy(subject.model))
            quantise_tables(attacked.model, bits)
            scores = found(attacked, work.forget, work.retain, work.k)[None]
            readings.append(Reading(f"quantise-{bits}", f"{bits} bits", float(bits), rows, scores))
        return readings


@torch.no_grad()
def quantise_tables(model: nn.Module, bits: int) -> None:
    """Quantise every parameter of two dimensions in place, each row on a scale of its own; biases stay."""
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.copy_(round_to_nearest(parameter, bits))
