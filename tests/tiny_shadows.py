"""A training that leaves a trace, for tests that count trainings, also from other processes."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from expunge.membership.classifier import Floats, Inputs, Records


def records() -> Records:
    rng = np.random.default_rng(1)
    return Records(rng.normal(size=(12, 2)), np.arange(12) % 2, "continuous", -3.0, 3.0)


class Nearest:
    """The logit of a class is minus the distance to the mean of its rows."""

    classes = 2

    def __init__(self, means: Floats) -> None:
        self.means = means

    def logits(self, x: Inputs) -> Floats:
        return -np.linalg.norm(np.asarray(x)[:, None] - self.means, axis=-1)


@dataclass
class Counting:
    folder: Path
    slow_after: int | None = None

    def __call__(self, rows: Any, seed: int) -> Nearest:
        log = self.folder / "log"
        log.mkdir(parents=True, exist_ok=True)
        before = len(list(log.glob("*")))
        (log / f"{time.time_ns()}-{os.getpid()}").touch()
        if self.slow_after is not None and before >= self.slow_after:
            time.sleep(60)
        noise = np.random.default_rng(seed).normal(size=(2, 2))
        return Nearest(np.asarray(records().inputs)[rows].mean(0) + noise)


@dataclass
class Dying:
    def __call__(self, rows: Any, seed: int) -> Nearest:
        os._exit(9)
