"""Stochastic weight averaging: the unlearned model is the mean of the last snapshots (Fan et al. 2025, section 5)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from expunge.engine.training import Training
from expunge.errors import InputError


class Average:
    """theta_bar <- (n * theta_bar + theta) / (n + 1), kept in float32 or better.

    Raises:
        InputError: The first snapshot lies beyond the last step.
    """

    def __init__(self, training: Training, total: int) -> None:
        self.on = training.smoothing == "wa" and total > 0
        first = training.average_from
        self.first = max(1, round(0.8 * total)) if first is None else first
        self.every, self.count = training.average_every, 0
        self.mean: dict[str, Tensor] = {}
        if self.on and self.first > total:
            raise InputError(f"average_from={self.first}: the run has {total} steps, so no snapshot would be taken.")

    @torch.no_grad()
    def see(self, done: int, state: Mapping[str, Tensor]) -> None:
        """Take a snapshot after `done` steps, if one is due."""
        if not self.on or done < self.first or (done - self.first) % self.every:
            return
        for name, value in state.items():
            if not value.is_floating_point():
                self.mean[name] = value.clone()
            elif self.count:
                self.mean[name] += (value - self.mean[name]) / (self.count + 1)
            else:
                self.mean[name] = value.to(torch.promote_types(value.dtype, torch.float32), copy=True)
        self.count += 1

    def restore(self, mean: dict[str, Tensor], count: int) -> None:
        """Go on from a checkpoint."""
        self.mean, self.count = mean, count
