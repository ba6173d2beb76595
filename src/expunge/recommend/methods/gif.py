"""Graph influence function: the step of influence functions for any graph recommender, all parameters moving."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from expunge.engine.method import Intention
from expunge.recommend.methods._influence import LOSSES, Kind, Removal, frozen
from expunge.recommend.methods._rows import beside, entries, move, neighbourhood, nodes_of, opened
from expunge.recommend.methods._solver import Solved


@dataclass(frozen=True)
class GIF(Solved):
    """Move ALL parameters by (H + damping I)^-1 g, where g counts kept interactions within some hops of the removed.

    g = grad [ sum_D l(A) + sum_C (l(A) - l(A')) ] with C the kept interactions of users and items at most `hops`
    steps from D: those whose vectors change when the graph does. H is that of the kept interactions over A'. What
    belongs to no user or item (projections, weights of layers) moves like every row.

    Attributes:
        damping: As in the other influence methods. Weights that everybody shares are far from a minimum, and a step
            with less leaves the region where a second order means anything. Source: ours.
        hops: Reach of the model's layers. Source: paper (the number of layers).
        loss: ``bpr`` or ``bce``; what the model was trained with. Source: ours.
        newton: Subtract the gradient over all interactions from g, which vanishes at a minimum only. Source: ours.
    """

    paper: ClassVar[str] = (
        "Wu, Yang, Qian, Sui, Wang, He, GIF: A General Graph Unlearning Strategy via Influence Function, WWW 2023 "
        "(arXiv 2304.02835)"
    )
    intention: ClassVar[Intention] = "removal"

    damping: float = 1.0
    hops: int = 2
    loss: Kind = "bpr"
    newton: bool = False

    def rules(self) -> dict[str, bool]:
        """See `Solved`."""
        return {**super().rules(), "hops": self.hops >= 0, "loss": self.loss in LOSSES}

    def apply(self, job: Any) -> Any:
        """Return the target over the retain graph, with the step added to its parameters.

        Raises:
            InputError: A Hessian the solver refuses.
        """
        before, result = job.subject.graph, job.dropped()
        model, at = result.model, result.device
        forget, retain = frozen(job)
        near = neighbourhood(nodes_of(job.forget), job.retain.union(job.forget), self.hops)
        spilled = beside(retain, near, before.users, before.nodes)
        chosen = entries(model, torch.arange(before.nodes), shared=True).to(at)
        with opened(model):
            removal = Removal(
                model, before, result.graph, forget.to(at), retain.to(at), LOSSES[self.loss], chosen
            )  # fmt: skip
            g = removal.direction(spilled.to(at), self.newton)
            x = self.solve(removal.curvature(self.hessian), g)
        move(model, chosen, x)
        return result
