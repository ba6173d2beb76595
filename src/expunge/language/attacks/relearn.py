"""Relearning: fine-tune on some forget records, and see whether OTHER forget records come back."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from expunge.engine.loop import Loop, Observers
from expunge.engine.training import Training
from expunge.errors import InputError
from expunge.language.attacks._common import AttackSetting, Reading
from expunge.language.data import Record
from expunge.language.methods.fine_tune import FineTune
from expunge.language.subject import Subject, add_lora
from expunge.language.unlearn import make_streams

PAPER = (
    "Che, Casper et al., Model Tampering Attacks Enable More Rigorous Evaluations of LLM Capabilities, "
    "TMLR 2025 (arXiv 2502.05209); scoring held-out facts beside gold is ours"
)


@dataclass(frozen=True)
class Relearn:
    """Fine-tune on the facts of some forgotten people and score the facts of the others.

    Scoring the facts that were trained on would only show that any model can learn; a model that never
    saw the data learns them too. Facts of people the attacker did not use come back only if they were
    still there.

    Attributes:
        steps: Budgets in optimiser steps. Source: ours (card of the verdict).
        lr: Learning rate, constant; choose what brings most back of the positive control. Source: ours
            (paper: 2e-5 to 1e-4 on models of 8 billion parameters).
        batch_size: Records per step. Source: ours.
        attacker: Share of forget clusters the attacker trains on. Source: ours.
        dev: Share of forget clusters that choose the budget. Source: ours.
        seeds: Attack seeds. Source: ours.
        lora: Train LoRA adapters instead of all weights. Source: paper (attack 10).
    """

    paper: ClassVar[str] = PAPER
    channel: ClassVar[str] = "relearn"

    steps: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    lr: float = 1e-4
    batch_size: int = 16
    attacker: float = 0.4
    dev: float = 0.1
    seeds: int = 3
    lora: bool = False

    def run(self, subject: Subject, setting: AttackSetting) -> list[Reading]:
        """Attack copies of a model; the model itself is left as it is."""
        measured = setting.workload.splits["forget"]
        groups = setting.groups
        attacker = [measured[i] for i in groups["attacker"]]
        if not attacker or not groups["scored"]:
            raise InputError("The relearning attack needs forget records about at least two different subjects.")
        return fine_tuning_readings(self, subject, setting, attacker, groups["scored"], groups["dev"])


def fine_tuning_readings(
    attack: Relearn,
    subject: Subject,
    setting: AttackSetting,
    train_on: list[Record],
    rows: list[int],
    dev: list[int],
) -> list[Reading]:
    """Fine-tune on some records and score others after each budget, once per attack seed."""
    measured = setting.workload.splits["forget"]
    scored = [measured[i] for i in (*rows, *dev)]
    curves = np.stack(
        [_curve(attack, subject, setting, train_on, scored, setting.seed + 1000 * k) for k in range(attack.seeds)]
    )  # [seeds, budgets, scored]
    return [
        Reading(
            channel=attack.channel,
            budget=f"{steps} steps",
            strength=float(steps),
            rows=rows,
            scores=curves[:, i, : len(rows)],
            dev_score=float(curves[:, i, len(rows) :].mean()) if dev else None,
        )
        for i, steps in enumerate((0, *attack.steps))
    ]


def _curve(
    attack: Relearn,
    subject: Subject,
    setting: AttackSetting,
    train_on: list[Record],
    scored: list[Record],
    seed: int,
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    attacked = subject.with_model(copy.deepcopy(subject.model))
    if attack.lora:
        attacked = add_lora(attacked, 16, 32, "all-linear", 0.05, seed)
    training = Training(
        steps=max(attack.steps),
        batch_size=min(attack.batch_size, len(train_on)),
        lr=attack.lr,
        schedule="constant",
        warmup=0.0,
        weight_decay=0.0,
    )
    curve = [setting.score(attacked, scored)]

    def after_step(step: int, _: int, __: dict[str, float]) -> None:
        if step in attack.steps:
            curve.append(setting.score(attacked, scored))

    streams = make_streams(FineTune(), attacked, [], train_on, training, seed)
    Loop(attacked.model, FineTune(), streams, training, seed=seed, observers=Observers(progress=after_step)).run()
    return np.stack(curve)
