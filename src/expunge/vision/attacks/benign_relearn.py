"""Benign relearning: fine-tune on images nobody forgot, and see whether forgotten ones come back by themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from expunge.errors import InputError
from expunge.report.readings import Reading
from expunge.vision.attacks._common import AttackSetting
from expunge.vision.attacks.relearn import PAPER, Relearn, fine_tuning_readings
from expunge.vision.subject import Subject


@dataclass(frozen=True)
class BenignRelearn(Relearn):
    """Fine-tune on retain images only: what comes back was hidden, for nothing of it was shown.

    Attributes:
        steps: Budgets in optimiser steps. Source: ours (as for language models).
        lr: Learning rate of AdamW, constant; choose what brings most back of the positive control. Source: ours.
        batch_size: Images per step. Source: ours.
        seeds: Attack seeds. Source: ours.
    """

    paper: ClassVar[str] = PAPER
    channel: ClassVar[str] = "benign-relearn"

    def run(self, subject: Subject, setting: AttackSetting) -> list[Reading]:
        """Attack copies of a model; the model itself is left as it is.

        Raises:
            InputError: No retain images.
        """
        if not len(setting.workload.retain):
            raise InputError("The benign relearning attack needs retain images.")
        kept = set(setting.groups["dev"])
        everyone = sorted(i for rows in setting.groups.values() for i in rows if i not in kept)
        return fine_tuning_readings(self, subject, setting, setting.workload.retain, everyone, setting.groups["dev"])
