"""What the influence methods share of hyper-parameters: how (H + damping I) x = g is solved."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from expunge.engine.method import Edit
from expunge.errors import InputError
from expunge.recommend.influence import Product, adam_solve, conjugate_gradient, neumann_solve
from expunge.recommend.methods._influence import Curvature


@dataclass(frozen=True)
class Solved(Edit):
    """A method whose step solves (H + damping I) x = g.

    Attributes:
        hessian: ``gauss-newton`` takes scores as linear in the parameters, so that H has no negative curvature;
            ``exact`` is the papers', indefinite wherever training was stopped early: conjugate gradients refuses it
            until damping exceeds its most negative curvature, which leaves little of the step. Source: ours.
        damping: Added to the Hessian of the SUM of losses; n times the delta of the papers (there 1e-3 to 1e-2 on a
            mean, tens on a sum). Source: ours, see the module.
        solver: ``cg`` (conjugate gradients), ``adam`` (Adam on x, as in IFRU's code, keeping the iterate with the best
            validation AUC if there are validation interactions) or ``neumann`` (the recursion of GIF). Source: paper
            of IFRU; its reference code; paper of GIF.
        iterations: Most products with H. Source: paper (IFRU: 50 suffice).
        tolerance: Relative residual at which ``cg`` stops. Source: ours.
        lr: Rate of ``adam``, in the unit of the parameters: the code's 1e3 to 2e4 over its n. Source: ours.
        patience: Steps without a better AUC after which ``adam`` stops. Source: ours.
        scale: What ``neumann`` divides by: above half the largest curvature. Source: ours (the paper searches it).
    """

    hessian: Curvature = "gauss-newton"
    damping: float = 0.2
    solver: Literal["cg", "adam", "neumann"] = "cg"
    iterations: int = 50
    tolerance: float = 1e-4
    lr: float = 1e-2
    patience: int = 10
    scale: float = 50.0

    def __post_init__(self) -> None:
        """Refuse hyper-parameters out of range, all of them in one sentence.

        Raises:
            InputError: Names them.
        """
        wrong = [f"{field}={getattr(self, field)!r}" for field, holds in self.rules().items() if not holds]
        if wrong:
            name = type(self).__module__.rpartition(".")[2].replace("_", "-")
            raise InputError(f"{name}: out of range: {', '.join(wrong)}.")

    def rules(self) -> dict[str, bool]:
        """Hyper-parameter -> whether it is as it must be."""
        return {
            "hessian": self.hessian in ("gauss-newton", "exact"),
            "damping": 0 <= self.damping < float("inf"),
            "solver": self.solver in ("cg", "adam", "neumann"),
            "iterations": self.iterations >= 1,
            "tolerance": 0 < self.tolerance < 1,
            "lr": 0 < self.lr < float("inf"),
            "patience": self.patience >= 1,
            "scale": 0 < self.scale < float("inf"),
        }

    def solve(self, product: Product, target: Tensor, score: Callable[[Tensor], float] | None = None) -> Tensor:
        """x with (H + damping I) x = g, as far as the solver goes.

        Args:
            product: v -> H v.
            target: [n] g.
            score: How good the model is after a step x, for ``adam``.

        Raises:
            InputError: The solver cannot handle this Hessian.
        """
        if self.solver == "cg":
            return conjugate_gradient(product, target, self.damping, self.iterations, self.tolerance).x
        if self.solver == "neumann":
            return neumann_solve(product, target, self.damping, self.scale, self.iterations).x
        return adam_solve(product, target, self.damping, self.lr, self.iterations, score, self.patience).x
