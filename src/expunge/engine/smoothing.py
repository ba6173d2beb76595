"""Smoothing of the forget loss in weight space, orthogonal to the loss itself (Fan et al. 2025, arXiv 2502.05374).

The relearning adversary moves the weights, so the forget loss is made flat around them. Only the forget side is
smoothed; the retain gradient is always taken at the unperturbed weights. Averaging the weights themselves is
in `engine.averaging`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from expunge.engine.training import Training
from expunge.engine.weights import Weights

Gradient = list[Tensor | None]


class ForgetSide(Protocol):
    """The forget loss of one step, as smoothing sees it."""

    @property
    def weights(self) -> Weights:
        """What is trained."""
        ...

    def backward(self) -> None:
        """Add the gradient at the current weights to ``.grad``."""
        ...

    def backward_along(self, vector: Gradient) -> None:
        """Add the Hessian at the current weights times `vector` to ``.grad``."""
        ...

    def generator(self, draw: int) -> torch.Generator:
        """Random numbers of this step, the same in every process."""
        ...


Smoothing = Callable[[ForgetSide], None]


def plain(side: ForgetSide) -> None:
    """No smoothing: the gradient where we stand."""
    side.backward()


class SAM:
    """Sharpness-aware minimisation over the joint L2 ball (section 4, equation 5).

    eps = rho * g / (||g||_2 + 1e-12) with g the forget gradient, up the forget loss, which is where relearning
    goes; the gradient used is the one at theta + eps. Costs one extra forget pass and one copy of the
    trained weights. With `blocks` only the first blocks are perturbed.
    """

    def __init__(self, rho: float, blocks: int | None = None) -> None:
        self.rho, self.blocks = rho, blocks

    def __call__(self, side: ForgetSide) -> None:
        """Leave the gradient at theta + eps. A gradient that is not finite is left; the loop refuses it."""
        side.backward()
        chosen = [
            p.grad if self.blocks is None or in_first_blocks(n, self.blocks) else None
            for n, p in side.weights.moved.items()
        ]
        norm = joint_norm(chosen)
        if not torch.isfinite(norm):
            return
        scale = self.rho / (norm.item() + 1e-12)
        clear(side.weights)
        for g in chosen:
            if g is not None:
                g.mul_(scale)
        with side.weights.moved_by(chosen):
            side.backward()


class RandomisedSmoothing:
    """The mean gradient over n draws of N(0, sigma^2) noise on every weight (section 5)."""

    def __init__(self, sigma: float, draws: int) -> None:
        self.sigma, self.draws = sigma, draws

    def __call__(self, side: ForgetSide) -> None:
        """Leave the mean gradient."""
        weights = side.weights
        if not self.sigma:  # the mean of equal gradients is equal to each only up to rounding
            side.backward()
            return
        for draw in range(self.draws):
            generator = side.generator(draw)
            noise: Gradient = [
                torch.randn(p.shape, generator=generator, dtype=p.dtype).to(p.device).mul_(self.sigma)
                for p in weights.parameters
            ]
            with weights.moved_by(noise):
                side.backward()
        for p in weights.parameters:
            if p.grad is not None:
                p.grad.div_(self.draws)


class GradientPenalty:
    """l_f + rho_g * ||grad l_f||_2 (section 5), whose gradient is g + rho_g * H g / ||g||.

    The Hessian-vector product is exact under accumulation, because g of the whole step is known before it.
    """

    def __init__(self, weight: float) -> None:
        self.weight = weight

    def __call__(self, side: ForgetSide) -> None:
        """Leave the gradient of the penalised loss."""
        side.backward()
        unit = unit_of([None if g is None else g.clone() for g in gradients(side.weights)])
        if self.weight and unit is not None:
            side.backward_along(scaled(unit, self.weight))


class CurvatureRegularisation:
    """l_f + gamma * ||grad l_f(theta + mu v) - grad l_f(theta)||_2 with v = g/||g|| held constant (section 5).

    With u the unit vector of that difference, the penalty's gradient is H(theta + mu v) u - H(theta) u.
    """

    def __init__(self, weight: float, mu: float) -> None:
        self.weight, self.mu = weight, mu

    def __call__(self, side: ForgetSide) -> None:
        """Leave the gradient of the regularised loss."""
        weights = side.weights
        side.backward()
        here = [None if g is None else g.clone() for g in gradients(weights)]
        v = unit_of([None if g is None else g.clone() for g in here])
        if not self.weight or v is None:
            return
        clear(weights)
        with weights.moved_by(scaled(v, self.mu)):
            side.backward()
            change = [_difference(a, b) for a, b in zip(gradients(weights), here, strict=True)]
            if not torch.isfinite(joint_norm(change)):
                return  # the gradient that is not finite is left; the loop refuses it
            u = unit_of(change)
            clear(weights)
            if u is not None:
                side.backward_along(scaled(u, self.weight))
        if u is not None:
            side.backward_along(scaled(u, -self.weight))
        for p, g in zip(weights.parameters, here, strict=True):
            if g is not None:
                p.grad = g if p.grad is None else p.grad + g


def smoothing(training: Training) -> Smoothing:
    """The smoothing named in the training settings; weight averaging leaves the gradient plain."""
    makers: dict[str, Callable[[], Smoothing]] = {
        "sam": lambda: SAM(training.rho, training.smoothed_blocks),
        "rs": lambda: RandomisedSmoothing(training.sigma, training.draws),
        "gp": lambda: GradientPenalty(training.penalty),
        "cr": lambda: CurvatureRegularisation(training.penalty, training.mu),
    }
    return makers.get(training.smoothing, lambda: plain)()


def gradients(weights: Weights) -> Gradient:
    """Gradients of the moved parameters; None keeps its place where there is none."""
    return [p.grad for p in weights.parameters]


def clear(weights: Weights) -> None:
    """Forget the gradients."""
    for p in weights.parameters:
        p.grad = None


def joint_norm(tensors: Sequence[Tensor | None]) -> Tensor:
    """L2 norm over all tensors together; 0 without any."""
    norms = [torch.linalg.vector_norm(t) for t in tensors if t is not None]
    return torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.zeros(())


def unit_of(vector: Gradient) -> Gradient | None:
    """The vector divided in place by its joint norm; None when that is zero or not finite."""
    norm = joint_norm(vector)
    if norm == 0 or not torch.isfinite(norm):
        return None
    return [None if t is None else t.div_(norm) for t in vector]


def scaled(vector: Gradient, factor: float) -> Gradient:
    """A multiple of a vector."""
    return [None if t is None else t * factor for t in vector]


def in_first_blocks(name: str, blocks: int) -> bool:
    """Whether a parameter belongs to the first blocks: the first number in its name counts them.

    >>> in_first_blocks("model.layers.1.mlp.up_proj.weight", 2), in_first_blocks("model.norm.weight", 2)
    (True, False)
    """
    found = re.search(r"\.(\d+)\.", name)
    return found is not None and int(found[1]) < blocks


def _difference(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return None if a is None or b is None else a - b
