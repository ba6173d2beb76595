"""Solving (H + delta I) x = g with a Hessian that is never formed: products by double backward, and four solvers.

All vectors are flat: the tensors of a list of parameters one after the other, in double precision whatever the model
computes in. A Hessian may be restricted to chosen entries: H_SS, the rows and columns of the others left out.

Hessians of factor models are singular where they are stationary (scores do not change when all factors are rotated
together: d(d-1)/2 flat directions) and indefinite where training was stopped early. Conjugate gradients is only for
positive definite matrices, so it refuses in words what it cannot solve instead of returning numbers that mean nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from expunge.engine.sampling import generator
from expunge.errors import InputError

Product = Callable[[Tensor], Tensor]  # v [n] -> H v [n]
LANCZOS_STEPS = 60
FLAT = 1e-8  # share of the largest curvature below which a direction counts as flat


class Solution(NamedTuple):
    """What a solver found.

    Attributes:
        x: [n] the solution.
        iterations: Products with H it took.
        residual: |g - (H + delta I) x| / |g|.
    """

    x: Tensor
    iterations: int
    residual: float


def flatten(tensors: Sequence[Tensor], chosen: Tensor | None = None) -> Tensor:
    """[n] of all tensors in double precision; only the `chosen` entries (indices into the whole) if given."""
    whole = torch.cat([t.detach().reshape(-1).double() for t in tensors])
    return whole if chosen is None else whole[chosen]


def unflatten(vector: Tensor, like: Sequence[Tensor], chosen: Tensor | None = None) -> list[Tensor]:
    """The inverse of `flatten`, in the shapes and types of `like`; entries that were not chosen are 0."""
    sizes = [t.numel() for t in like]
    if chosen is not None:
        vector = vector.new_zeros(sum(sizes)).index_put((chosen,), vector)
    return [piece.view_as(t).to(t) for piece, t in zip(vector.split(sizes), like, strict=True)]


def gradient(value: Tensor, parameters: Sequence[Tensor], chosen: Tensor | None = None) -> Tensor:
    """[n] gradient of a scalar, 0 for what it does not depend on.

    Raises:
        InputError: It is not finite.
    """
    found = torch.autograd.grad(value, parameters, materialize_grads=True)
    vector = flatten(found, chosen)
    if not bool(vector.isfinite().all()):
        raise InputError("The gradient of the loss is not finite: the model has diverged or holds NaN.")
    return vector


def hessian_product(value: Tensor, parameters: Sequence[Tensor], chosen: Tensor | None = None) -> Product:
    """v -> H v for the Hessian H of a scalar, by a second backward pass through its gradient.

    The graph of the gradient is built once and kept, so a product costs one backward pass.

    Args:
        value: The scalar, with its graph.
        parameters: What it is differentiated by.
        chosen: Indices of the entries H is restricted to; None for all.
    """
    first = torch.autograd.grad(value, parameters, create_graph=True, materialize_grads=True)
    bent = [g for g in first if g.requires_grad]  # a gradient that depends on nothing has no second derivative

    def product(v: Tensor) -> Tensor:
        directions = [d for d, g in zip(unflatten(v, parameters, chosen), first, strict=True) if g.requires_grad]
        if not bent:
            return torch.zeros_like(v)
        found = torch.autograd.grad(bent, parameters, directions, retain_graph=True, materialize_grads=True)
        return flatten(found, chosen)

    return product


def gauss_newton_product(
    outputs: Tensor, loss: Callable[[Tensor], Tensor], parameters: Sequence[Tensor], chosen: Tensor | None = None
) -> Product:
    """v -> J^T W J v, the Hessian without the curvature of the outputs themselves: never indefinite for a convex loss.

    J is the Jacobian of the outputs and W the Hessian of the loss by the outputs. It equals the Hessian where outputs
    are linear in the parameters (one side of a factor model), and where the slope of the loss vanishes.

    Args:
        outputs: What the loss is a function of, with its graph.
        loss: Sum of losses of such outputs, convex.
        parameters: What it is differentiated by.
        chosen: Indices of the entries it is restricted to; None for all.
    """
    dual = torch.zeros_like(outputs, requires_grad=True)
    pulled = torch.autograd.grad(outputs, parameters, dual, create_graph=True, materialize_grads=True)  # J^T dual
    at = outputs.detach().requires_grad_(True)
    (slope,) = torch.autograd.grad(loss(at), at, create_graph=True)

    def product(v: Tensor) -> Tensor:
        pairs = [(p, d) for p, d in zip(pulled, unflatten(v, parameters, chosen), strict=True) if p.requires_grad]
        (pushed,) = torch.autograd.grad([p for p, _ in pairs], dual, [d for _, d in pairs], retain_graph=True)  # J v
        (bent,) = torch.autograd.grad(slope, at, pushed, retain_graph=True)
        found = torch.autograd.grad(outputs, parameters, bent, retain_graph=True, materialize_grads=True)
        return flatten(found, chosen)

    return product


def conjugate_gradient(
    product: Product, target: Tensor, damping: float, iterations: int = 50, tolerance: float = 1e-4
) -> Solution:
    """Solve (H + damping I) x = g by conjugate gradients from x = 0.

    With damping 0 the spectrum is probed first, so that a singular or indefinite H is refused. With damping the
    first direction of negative curvature is refused when it is met. Running out of iterations is no error with
    damping (a truncated solve is a smaller step in the directions of little curvature); without, it is.

    Args:
        product: v -> H v.
        target: [n] g.
        damping: delta, in the unit of H.
        iterations: Most products. Source: paper of influence functions for recommenders (50 suffice).
        tolerance: Residual relative to |g| at which it stops.

    Raises:
        InputError: H + damping I is not positive definite (the sentence names the curvature met), or the iterations
            did not suffice without damping.
    """
    if damping == 0:
        _probe(product, target)
    x, residual = torch.zeros_like(target), target.clone()
    size = float(target.norm())
    direction, squared = residual.clone(), float(residual @ residual)
    done = 0
    while done < iterations and squared**0.5 > tolerance * size:
        image = product(direction) + damping * direction
        curvature = float(direction @ image)
        length = float(direction @ direction)
        if not curvature > 0:
            raise InputError(_indefinite(curvature / length - damping, damping))
        step = squared / curvature
        x += step * direction
        residual -= step * image
        previous, squared = squared, float(residual @ residual)
        direction = residual + squared / previous * direction
        done += 1
    left = squared**0.5 / size if size else 0.0
    if damping == 0 and left > tolerance:
        raise InputError(
            f"Conjugate gradients without damping left a residual of {left:.2g} after {done} iterations (wanted: "
            f"{tolerance:g}): set damping above 0, or allow more iterations."
        )
    return Solution(x, done, left)


def _indefinite(curvature: float, damping: float) -> str:
    return (
        f"The Hessian has curvature {curvature:.3g} along a search direction and damping is {damping:g}: conjugate "
        f"gradients needs a positive definite matrix, so set damping well above {max(0.0, -curvature):.3g}."
    )


def _probe(product: Product, target: Tensor) -> None:
    """Refuse a Hessian whose smallest curvature is not clearly positive."""
    low, high = curvature_range(product, target)
    if low < -FLAT * max(high, -low):
        raise InputError(_indefinite(low, 0.0))
    if low <= FLAT * high:
        raise InputError(
            f"The Hessian is singular (smallest curvature {low:.2g}, largest {high:.2g}), as that of every factor "
            "model at a minimum: scores do not change when the factors are rotated. Set damping above 0."
        )


def curvature_range(product: Product, like: Tensor, steps: int = LANCZOS_STEPS, seed: int = 0) -> tuple[float, float]:
    """Smallest and largest curvature by Lanczos' method from a random vector, with full reorthogonalisation.

    Exact when `steps` reaches the number of distinct eigenvalues; otherwise the extremes are found first, from
    inside: the true smallest is at most the first number, the true largest at least the second.

    Args:
        product: v -> H v.
        like: [n] any vector, for size and device.
        steps: Most products.
        seed: Of the random vector.
    """
    start = torch.randn(len(like), generator=generator(seed, "lanczos"), dtype=torch.float64).to(like.device)
    basis = [start / start.norm()]
    diagonal: list[float] = []
    beside: list[float] = []
    for _ in range(min(steps, len(like))):
        image = product(basis[-1])
        diagonal.append(float(image @ basis[-1]))
        known = torch.stack(basis)
        for _ in range(2):  # once is not enough in floating point
            image = image - known.T @ (known @ image)
        norm = float(image.norm())
        if norm <= 1e-10 * max(map(abs, (*diagonal, *beside, 1e-300))):
            break
        beside.append(norm)
        basis.append(image / norm)
    between = torch.tensor(beside[: len(diagonal) - 1], dtype=torch.float64)
    matrix = torch.tensor(diagonal, dtype=torch.float64).diag() + between.diag(1) + between.diag(-1)
    values = torch.linalg.eigvalsh(matrix)
    return float(values[0]), float(values[-1])


def adam_solve(
    product: Product,
    target: Tensor,
    damping: float,
    lr: float,
    iterations: int,
    score: Callable[[Tensor], float] | None = None,
    patience: int = 10,
) -> Solution:
    """Approach the solution with Adam on x, the gradient being (H + damping I) x - g, from x = 0.

    This is how the public code of influence unlearning for recommenders solves the system. It accepts any H, and
    what it returns depends on when it stops: on an indefinite H it drifts on without end.

    Args:
        product: v -> H v.
        target: [n] g.
        damping: delta.
        lr: Adam's rate, in the unit of x (with g a sum over interactions and H a mean: thousands).
        iterations: Most steps.
        score: Of an iterate, higher is better (validation AUC of the model moved by it); the best iterate is returned.
            None returns the last.
        patience: Steps without a better score after which it stops.
    """
    x = torch.zeros_like(target).requires_grad_(True)
    optimizer = torch.optim.Adam([x], lr=lr)
    best, kept, since, done = float("-inf"), x.detach().clone(), 0, 0
    while done < iterations and since < patience:
        done += 1
        with torch.no_grad():
            x.grad = product(x.detach()) + damping * x.detach() - target
        optimizer.step()
        if score is None:
            continue
        value = score(x.detach())
        since = 0 if value > best else since + 1
        if value > best:
            best, kept = value, x.detach().clone()
    found = x.detach() if score is None else kept
    left = float((target - product(found) - damping * found).norm()) / max(float(target.norm()), 1e-300)
    return Solution(found, done, left)


def neumann_solve(product: Product, target: Tensor, damping: float, scale: float, iterations: int) -> Solution:
    """Sum the series of (H + damping I)^-1 g: x <- x + (g - (H + damping I) x) / scale, from x = 0.

    The recursion of the graph influence function (there written h <- g + h - (H h) / scale, with x = h / scale). It
    converges when scale exceeds half the largest curvature and H + damping I is positive definite.

    Args:
        product: v -> H v.
        target: [n] g.
        damping: delta.
        scale: What the steps are divided by, in the unit of H.
        iterations: Steps.

    Raises:
        InputError: The series diverged.
    """
    x = target / scale  # the first step, from 0, needs no product
    residual = target
    size = max(float(target.norm()), 1e-300)
    for _ in range(iterations):
        residual = target - product(x) - damping * x
        if not float(residual.norm()) < 1e6 * size:
            raise InputError(
                f"The series of the inverse Hessian diverges at scale={scale:g}: set scale above half the largest "
                "curvature, or damping above the most negative one."
            )
        x = x + residual / scale
    left = float((target - product(x) - damping * x).norm()) / size
    return Solution(x, iterations, left)
