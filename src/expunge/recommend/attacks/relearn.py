"""Relearning: train on some forgotten users or items, and see whether the interactions of OTHERS come back."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from expunge.engine.loop import Loop, Observers
from expunge.engine.sampling import epochs
from expunge.engine.training import Training, derive_seed
from expunge.errors import InputError
from expunge.recommend.attacks._common import AttackSetting, Floats, found
from expunge.recommend.data import Interactions
from expunge.recommend.forward import pair_stream
from expunge.recommend.methods.fine_tune import FineTune
from expunge.recommend.sampling import Negatives
from expunge.recommend.subject import Subject
from expunge.recommend.unlearn import erased_items
from expunge.report.readings import Reading

PAPER = (
    "relearning as in Golatkar, Achille, Soatto, CVPR 2020 (arXiv 1911.04933); scoring held-out users and items "
    "beside gold is ours"
)


@dataclass(frozen=True)
class Relearn:
    """Train on the forgotten interactions of some users (or items) and rank those of the others.

    Scoring what was trained on would only show that any model can learn. What was forgotten of users or items that
    the attacker does not have comes back only if it was still there. The graph stays what the model serves from: the
    weights are attacked. Negatives are, for every model alike, items that the user has neither kept nor among the
    attacker's interactions, and none whose erasure was asked for: training would push down what is looked for.

    Attributes:
        steps: Budgets in optimiser steps. Source: ours (on planted interactions of MovieLens what was merely dropped
            from the graph comes back after 64 to 256).
        lr: Learning rate of AdamW, constant; choose what brings most back of the positive control. Source: ours (that
            of the base models).
        batch_size: Interactions per step. Source: ours.
        seeds: Attack seeds. Source: ours.
    """

    paper: ClassVar[str] = PAPER
    channel: ClassVar[str] = "relearn"

    steps: tuple[int, ...] = (4, 16, 64, 128, 256)
    lr: float = 5e-3
    batch_size: int = 512
    seeds: int = 2

    def __post_init__(self) -> None:
        if not self.steps or min(self.steps) < 1 or self.batch_size < 1 or self.seeds < 1 or not self.lr > 0:
            raise InputError(
                f"{self.channel}: steps={self.steps}, batch_size={self.batch_size} and seeds={self.seeds} must be at "
                f"least 1, and lr={self.lr} above 0."
            )

    def run(self, subject: Subject, setting: AttackSetting) -> list[Reading]:
        """Attack copies of a model; the model itself is left as it is.

        Raises:
            InputError: Fewer than two users (or items) were forgotten.
        """
        groups = setting.groups
        if not groups["attacker"] or not groups["scored"]:
            raise InputError("The relearning attack needs forgotten interactions of at least two users or items.")
        train_on = setting.workload.forget.take(groups["attacker"])
        return fine_tuning_readings(self, subject, setting, train_on, groups["scored"], groups["dev"])


def fine_tuning_readings(
    attack: Relearn, subject: Subject, setting: AttackSetting, train_on: Interactions, rows: list[int], dev: list[int]
) -> list[Reading]:
    """Fine-tune on some interactions and score others after each budget, once per attack seed."""
    scored = setting.workload.forget.take([*rows, *dev])
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
        for i, steps in enumerate((0, *sorted(attack.steps)))
    ]


def _curve(
    attack: Relearn, subject: Subject, setting: AttackSetting, train_on: Interactions, scored: Interactions, seed: int
) -> Floats:
    """[budgets, scored] after no step and after each budget."""
    work, attacked = setting.workload, subject.with_model(copy.deepcopy(subject.model))
    training = Training(
        steps=max(attack.steps),
        batch_size=min(attack.batch_size, len(train_on)),
        lr=attack.lr,
        schedule="constant",
        warmup=0.0,
        weight_decay=0.0,
        clip=None,
    )
    curve = [found(attacked, scored, work.retain, work.k)]

    def after_step(step: int, _: int, __: dict[str, float]) -> None:
        if step in attack.steps:
            training_mode = attacked.model.training
            curve.append(found(attacked, scored, work.retain, work.k))
            attacked.model.train(training_mode)

    order = epochs(len(train_on), max(attack.steps), training.batch_size, seed, "attack")
    offered = torch.ones(scored.items, dtype=torch.bool)
    offered[erased_items(work.forget)] = False
    negatives = Negatives(work.retain.union(train_on), offered)
    stream = pair_stream(train_on.pairs, order, subject.graph, negatives, derive_seed(seed, "attack"))
    with torch.random.fork_rng():
        loop = Loop(
            attacked.model, FineTune(), {"retain": stream}, training, seed=seed,
            observers=Observers(progress=after_step),
        )  # fmt: skip
        loop.run()
    return np.stack(curve)
