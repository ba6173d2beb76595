"""Relearning: fine-tune on some forgotten identities, and see whether OTHERS come back."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from expunge.engine.loop import Loop, Observers, Stream
from expunge.engine.sampling import epochs
from expunge.engine.training import Training
from expunge.errors import InputError
from expunge.report.readings import Reading
from expunge.vision.attacks._common import AttackSetting, Floats, right
from expunge.vision.data import Images
from expunge.vision.forward import ImageExamples
from expunge.vision.methods.fine_tune import FineTune
from expunge.vision.norms import frozen_norms
from expunge.vision.subject import Subject

PAPER = (
    "relearning as in Golatkar, Achille, Soatto, CVPR 2020 (arXiv 1911.04933); scoring held-out identities beside "
    "gold is ours"
)


@dataclass(frozen=True)
class Relearn:
    """Fine-tune on the images of some forgotten identities and score the images of the others.

    Scoring what was trained on would only show that any model can learn. Images of identities the attacker did not
    use come back only if they were still there.

    Attributes:
        steps: Budgets in optimiser steps. Source: ours (as for language models).
        lr: Learning rate of AdamW, constant; choose what brings most back of the positive control. Source: ours.
        batch_size: Images per step. Source: ours.
        seeds: Attack seeds. Source: ours.
    """

    paper: ClassVar[str] = PAPER
    channel: ClassVar[str] = "relearn"

    steps: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    lr: float = 3e-4
    batch_size: int = 32
    seeds: int = 2

    def run(self, subject: Subject, setting: AttackSetting) -> list[Reading]:
        """Attack copies of a model; the model itself is left as it is.

        Raises:
            InputError: Fewer than two identities.
        """
        groups = setting.groups
        if not groups["attacker"] or not groups["scored"]:
            raise InputError("The relearning attack needs forget images of at least two different identities.")
        train_on = setting.workload.splits["forget"].take(groups["attacker"])
        return fine_tuning_readings(self, subject, setting, train_on, groups["scored"], groups["dev"])


def fine_tuning_readings(
    attack: Relearn, subject: Subject, setting: AttackSetting, train_on: Images, rows: list[int], dev: list[int]
) -> list[Reading]:
    """Fine-tune on some images and score others after each budget, once per attack seed."""
    scored = setting.workload.splits["forget"].take([*rows, *dev])
    curves = np.stack(
        [_curve(attack, subject, train_on, scored, setting.seed + 1000 * k) for k in range(attack.seeds)]
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


def _curve(attack: Relearn, subject: Subject, train_on: Images, scored: Images, seed: int) -> Floats:
    attacked = subject.with_model(copy.deepcopy(subject.model))
    training = Training(
        steps=max(attack.steps),
        batch_size=min(attack.batch_size, len(train_on)),
        lr=attack.lr,
        schedule="constant",
        warmup=0.0,
        weight_decay=0.0,
    )
    curve = [right(attacked, scored)]

    def after_step(step: int, _: int, __: dict[str, float]) -> None:
        if step in attack.steps:
            training_mode = attacked.model.training
            curve.append(right(attacked, scored))
            attacked.model.train(training_mode)

    order = epochs(len(train_on), max(attack.steps), training.batch_size, seed, "attack")
    streams = {"retain": Stream(ImageExamples(train_on), order)}
    with frozen_norms(attacked.model), torch.random.fork_rng():
        Loop(attacked.model, FineTune(), streams, training, seed=seed, observers=Observers(progress=after_step)).run()
    return np.stack(curve)
