"""Which rows each step sees: pure functions of (seed, step), the same on every machine and after a resume."""

from __future__ import annotations

import torch
from torch import Tensor

from expunge.engine.training import derive_seed


def generator(*parts: int | str) -> torch.Generator:
    """A CPU generator seeded from the parts alone."""
    return torch.Generator().manual_seed(derive_seed(*parts))


def epochs(rows: int, steps: int, batch: int, seed: int, purpose: str) -> Tensor:
    """Rows of every step when the set is passed epoch by epoch in a fresh random order.

    Args:
        rows: Size of the set.
        steps: Optimiser steps.
        batch: Rows per step.
        seed: The run's seed.
        purpose: Name of the stream; streams of one run are independent.

    Returns:
        [steps, batch] row indices. A batch may straddle two epochs, so no row is dropped.
    """
    needed = steps * batch
    passes = [torch.randperm(rows, generator=generator(seed, purpose, epoch)) for epoch in range(-(-needed // rows))]
    order = torch.cat(passes) if passes else torch.zeros(0, dtype=torch.long)
    return order[:needed].view(steps, batch)


def uniform(rows: int, steps: int, batch: int, seed: int, purpose: str) -> Tensor:
    """[steps, batch] row indices drawn uniformly with replacement (TOFU's pairing of retain rows)."""
    return torch.randint(rows, (steps, batch), generator=generator(seed, purpose))


def in_turn(groups: list[Tensor], steps: int, batch: int) -> Tensor:
    """Rows of every step when groups take turns, each passed in the order given, again and again.

    Args:
        groups: Row indices of each group; step i draws from group i mod K.
        steps: Optimiser steps.
        batch: Rows per step.

    Returns:
        [steps, batch] row indices.
    """
    column = torch.arange(batch)
    rows = [(group := groups[i % len(groups)])[(i // len(groups) * batch + column) % len(group)] for i in range(steps)]
    return torch.stack(rows) if rows else torch.zeros(0, batch, dtype=torch.long)
