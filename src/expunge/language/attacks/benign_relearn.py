"""Benign relearning: fine-tune on harmless text and see whether forgotten facts come back by themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from expunge.errors import InputError
from expunge.language.attacks._common import AttackSetting, Reading
from expunge.language.attacks.relearn import PAPER, Relearn, fine_tuning_readings
from expunge.language.subject import Subject


@dataclass(frozen=True)
class BenignRelearn(Relearn):
    """Fine-tune on retain records only: what comes back was hidden, for nothing about it was shown.

    Attributes:
        steps: Budgets in optimiser steps. Source: ours (card of the verdict).
        lr: Learning rate, constant; choose what brings most back of the positive control. Source: ours
            (paper: 2e-5 to 1e-4 on models of 8 billion parameters).
        batch_size: Records per step. Source: ours.
        seeds: Attack seeds. Source: ours.
        lora: Train LoRA adapters instead of all weights. Source: paper (attack 9).
    """

    paper: ClassVar[str] = PAPER
    channel: ClassVar[str] = "benign-relearn"

    def run(self, subject: Subject, setting: AttackSetting) -> list[Reading]:
        """Attack copies of a model; the model itself is left as it is."""
        retain = setting.workload.retain
        if not retain:
            raise InputError("The benign relearning attack needs retain records.")
        everyone = sorted(i for rows in setting.groups.values() for i in rows if i not in set(setting.groups["dev"]))
        return fine_tuning_readings(self, subject, setting, retain, everyone, setting.groups["dev"])
