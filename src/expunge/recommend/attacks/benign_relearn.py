"""Benign relearning: train on what nobody forgot, and see whether the forgotten comes back by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from expunge.errors import InputError
from expunge.recommend.attacks._common import AttackSetting
from expunge.recommend.attacks.relearn import PAPER, Relearn, fine_tuning_readings
from expunge.recommend.subject import Subject
from expunge.report.readings import Reading


@dataclass(frozen=True)
class BenignRelearn(Relearn):
    """Train on retained interactions only: what comes back was hidden, for nothing of it was shown.

    Collaborative filtering infers some of the forgotten from what was kept; gold under the same attack does too, and
    only what exceeds it counts.

    Attributes:
        steps: Budgets in optimiser steps. Source: ours (on planted interactions of MovieLens what was merely dropped
            from the graph comes back after 64 to 256).
        lr: Learning rate of AdamW, constant; choose what brings most back of the positive control. Source: ours (that
            of the base models).
        batch_size: Interactions per step. Source: ours.
        seeds: Attack seeds. Source: ours.
    """

    paper: ClassVar[str] = PAPER
    channel: ClassVar[str] = "benign-relearn"

    batch_size: int = 2048

    def run(self, subject: Subject, setting: AttackSetting) -> list[Reading]:
        """Attack copies of a model; the model itself is left as it is.

        Raises:
            InputError: No retained interactions.
        """
        retain, dev = setting.workload.retain, setting.groups["dev"]
        if not len(retain):
            raise InputError("The benign relearning attack needs retained interactions.")
        kept_back = set(dev)
        everyone = sorted(i for rows in setting.groups.values() for i in rows if i not in kept_back)
        return fine_tuning_readings(self, subject, setting, retain, everyone, dev)
