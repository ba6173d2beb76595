"""How a model is trained: the settings of the loop, and the pure functions of (seed, step) it stands on.

No torch here: recipes are checked, and `expunge --help` starts, without it.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from typing import Literal

from expunge.errors import InputError


@dataclass(frozen=True)
class Training:
    """Settings of one training run.

    Attributes:
        steps: Optimiser steps; None derives them from `epochs`.
        epochs: Passes over the driving set (the forget set when unlearning) when `steps` is None.
        batch_size: Rows of the driving set per optimiser step, over all micro-batches and processes.
        micro_batch: Rows per forward pass; None takes the whole batch at once. Results do not depend on it.
        optimizer: ``adamw``, ``muon`` (Muon on the hidden matrices, AdamW on embeddings and norms) or ``sgd``.
        lr: Peak learning rate of AdamW and SGD.
        muon_lr: Peak learning rate of Muon for the hidden matrices.
        weight_decay: Decoupled weight decay; under SGD an L2 penalty in the gradient, as usual there.
        betas: AdamW's moment decay rates.
        momentum: SGD's momentum.
        schedule: ``constant``, ``linear`` (to zero), ``cosine`` (to 5% of the peak) or ``step`` (a tenth at each
            of the `milestones`).
        milestones: Shares of the run after which ``step`` lowers the rate.
        warmup: Share of the steps spent on linear warm-up.
        clip: Largest global gradient norm; None for no clipping.
        precision: ``fp32``, or ``bf16`` autocast over fp32 weights.
        gradient_checkpointing: Recompute activations in the backward pass to save memory.
        smoothing: How the forget loss is made flat in weight space: ``none``, ``sam`` (sharpness-aware: the
            gradient at the worst point within `rho`), ``rs`` (randomised smoothing), ``gp`` (gradient
            penalty), ``cr`` (curvature regularisation) or ``wa`` (the mean of the last weights).
        rho: Radius of sharpness-aware smoothing (joint L2 norm over the trained weights).
        smoothed_blocks: Perturb the first blocks only under ``sam``; None for all weights.
        sigma: Standard deviation of the noise on each weight under ``rs``.
        draws: Draws of that noise per step.
        penalty: Weight of the penalty under ``gp`` and ``cr``.
        mu: Length of the step over which ``cr`` compares gradients.
        average_from: Step after which ``wa`` takes its first snapshot; None for 80% of the run.
        average_every: Steps between its snapshots.
        evaluate_every: Steps between probes during training; 0 for none.
        utility_floor: Stop rule and selection floor: share of the starting retain score to keep.
        stop_below_floor: Stop as soon as a probe falls under the utility floor.
        loss_cap: Stop rule: the run ends when the forget term rises above this value.
    """

    steps: int | None = None
    epochs: float = 5.0
    batch_size: int = 32
    micro_batch: int | None = None
    optimizer: Literal["adamw", "muon", "sgd"] = "adamw"
    lr: float = 1e-5
    muon_lr: float = 0.02
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    momentum: float = 0.0
    schedule: Literal["constant", "linear", "cosine", "step"] = "linear"
    milestones: tuple[float, ...] = ()
    warmup: float = 0.1
    clip: float | None = 1.0
    precision: Literal["fp32", "bf16"] = "fp32"
    gradient_checkpointing: bool = False
    smoothing: Literal["none", "sam", "rs", "gp", "cr", "wa"] = "none"
    rho: float = 0.01
    smoothed_blocks: int | None = None
    sigma: float = 1e-4
    draws: int = 3
    penalty: float = 10.0
    mu: float = 0.01
    average_from: int | None = None
    average_every: int = 5
    evaluate_every: int = 0
    utility_floor: float = 0.9
    stop_below_floor: bool = False
    loss_cap: float | None = None

    def __post_init__(self) -> None:
        rules = {
            "steps": self.steps is None or self.steps >= 0,
            "epochs": self.epochs > 0,
            "batch_size": self.batch_size >= 1,
            "micro_batch": self.micro_batch is None or self.micro_batch >= 1,
            "lr": self.lr > 0,
            "muon_lr": self.muon_lr > 0,
            "weight_decay": self.weight_decay >= 0,
            "warmup": 0 <= self.warmup <= 1,
            "clip": self.clip is None or self.clip > 0,
            "rho": self.rho >= 0,
            "smoothed_blocks": self.smoothed_blocks is None or self.smoothed_blocks >= 1,
            "sigma": self.sigma >= 0,
            "draws": self.draws >= 1,
            "penalty": self.penalty >= 0,
            "mu": self.mu > 0,
            "average_from": self.average_from is None or self.average_from >= 1,
            "average_every": self.average_every >= 1,
            "evaluate_every": self.evaluate_every >= 0,
            "utility_floor": 0 <= self.utility_floor <= 1,
            "betas": len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas),
            "momentum": 0 <= self.momentum < 1,
            "milestones": all(0 < share < 1 for share in self.milestones),
            "optimizer": self.optimizer in ("adamw", "muon", "sgd"),
            "schedule": self.schedule in ("constant", "linear", "cosine", "step"),
            "precision": self.precision in ("fp32", "bf16"),
            "smoothing": self.smoothing in ("none", "sam", "rs", "gp", "cr", "wa"),
        }
        wrong = [f"{name}={getattr(self, name)!r}" for name, holds in rules.items() if not holds]
        if wrong:
            raise InputError(f"Training settings out of range: {', '.join(wrong)}.")

    def total_steps(self, rows: int) -> int:
        """Optimiser steps for a driving set of `rows` records.

        >>> Training(epochs=2, batch_size=32).total_steps(40)
        4
        """
        if self.steps is not None:
            return self.steps
        return max(1, round(self.epochs * math.ceil(rows / self.batch_size)))

    def for_share(self, kept: int, everything: int) -> Training:
        """The same recipe for a part of the records: as many passes over fewer rows.

        >>> Training(steps=100).for_share(80, 100).steps
        80
        """
        if self.steps is None:
            return self
        return replace(self, steps=max(1, round(self.steps * kept / everything)))

    def rate(self, step: int, total: int) -> float:
        """Factor on the peak learning rate at `step` (0-based) of `total`: a pure function.

        >>> Training(schedule="linear", warmup=0.0).rate(0, 10)
        1.0
        >>> Training(schedule="constant", warmup=0.5).rate(0, 10)
        0.2
        >>> [round(Training(schedule="step", milestones=(0.5,), warmup=0.0).rate(s, 4), 2) for s in range(4)]
        [1.0, 1.0, 0.1, 0.1]
        """
        warm = round(self.warmup * total)
        ramp = min(1.0, (step + 1) / warm) if warm else 1.0
        done = (step - warm) / max(1, total - warm)
        if step < warm or self.schedule == "constant":
            return ramp
        if self.schedule == "linear":
            return 1.0 - done
        if self.schedule == "step":
            return float(0.1 ** sum(step >= round(share * total) for share in self.milestones))
        return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done))


def derive_seed(*parts: int | str) -> int:
    """Mix parts (seed, step, rank, purpose) into one 63-bit seed, the same on every machine.

    >>> derive_seed(0, "dropout", 3) == derive_seed(0, "dropout", 3) != derive_seed(0, "dropout", 4)
    True
    """
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
