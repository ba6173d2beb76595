"""Smoothing of the forget loss in weight space, orthogonal to the loss itself.

Only the forget side is smoothed; the retain gradient is always taken at the unperturbed weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from expunge.engine.training import Training


class Smoothing(Protocol):
    """Leaves the (smoothed) gradient of the forget loss in ``.grad`` of the trained parameters."""

    def __call__(self, parameters: list[Tensor], backward: Callable[[], None]) -> None:
        """`backward` adds the gradient of the forget loss at the current weights to ``.grad``."""
        ...


def plain(parameters: list[Tensor], backward: Callable[[], None]) -> None:
    """No smoothing: the gradient where we stand."""
    backward()


class SAM:
    """Sharpness-aware minimisation over the joint L2 ball (Fan et al. 2025, arXiv 2502.05374, section 4).

    eps = rho * g / (||g||_2 + 1e-12) with g the forget gradient; the gradient used is the one at
    theta + eps. Costs one extra forget pass and one copy of the trained weights, which are restored
    byte for byte.
    """

    def __init__(self, rho: float) -> None:
        self.rho = rho

    def __call__(self, parameters: list[Tensor], backward: Callable[[], None]) -> None:
        """See `Smoothing`. A gradient that is not finite is left as it is; the loop refuses it."""
        backward()
        moved = [p for p in parameters if p.grad is not None]
        if not moved:
            return
        norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(p.grad) for p in moved]))
        if not torch.isfinite(norm):
            return
        saved = [p.detach().clone() for p in moved]
        with torch.no_grad():
            for p in moved:
                p.add_(p.grad, alpha=self.rho / (norm.item() + 1e-12))  # type: ignore[arg-type]
                p.grad = None
        try:
            backward()
        finally:
            with torch.no_grad():
                for p, original in zip(moved, saved, strict=True):
                    p.copy_(original)


def smoothing(training: Training) -> Smoothing:
    """The smoothing named in the training settings."""
    return SAM(training.rho) if training.smoothing == "sam" else plain
