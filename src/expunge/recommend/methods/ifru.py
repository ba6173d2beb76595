"""Influence-function recommendation unlearning: one Newton step on the rows a request touches, with spill-over.

Measured on a drawn world (200 users, 150 items, 3,600 interactions, 5% requests): with the Hessian over ALL
interactions and a damping of tens, as the paper has it, the step hardly moves the forgotten; with the Hessian over the
kept ones and a damping of 0.1 to 0.3 it lands near retraining. Users of whom nothing is kept have no curvature there at
all, so that damping alone decides how far their rows go: smaller is further, and too small sends a user's row and an
item's the same way at once, which the second order of a product of both does not see. LightGCN takes 0.1, matrix
factorisation 0.3, and the default lies between them.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from expunge.engine.method import Intention
from expunge.engine.sampling import generator
from expunge.recommend.data import Interactions
from expunge.recommend.graph import Graph
from expunge.recommend.methods._influence import LOSSES, Kind, Over, Removal, Triples, frozen
from expunge.recommend.methods._rows import (
    beside,
    entries,
    move,
    neighbourhood,
    nodes_of,
    opened,
    relevant,
    removed_share,
)
from expunge.recommend.methods._solver import Solved
from expunge.recommend.models.base import Recommender
from expunge.recommend.sampling import Negatives


@dataclass(frozen=True)
class IFRU(Solved):
    """Move the rows a request touches by (H + damping I)^-1 g, then serve from the kept interactions alone.

    g = grad [ sum_D l(A) + sum_C (l(A) - l(A')) ]: the loss of the forgotten interactions, and how much removing them
    changes the loss of kept ones through the graph (the spill-over; nothing for matrix factorisation). Sums, not
    means; one negative per interaction, drawn once. Parameters that belong to no user or item stay.

    Attributes:
        rows: ``hop-0``: users and items of D; ``hop-1``: their neighbours too; ``relevance``: by the share of their
            edges that is gone, spread by one hop. Source: paper (IFRU-MF: hops; IFRU-LightGCN: relevance).
        percentile: Share of the touched nodes that ``relevance`` leaves out. Source: reference code (0.3 to 0.4).
        spill_over: Count the change of kept interactions' losses. Source: paper.
        ratio: C: kept interactions of nodes that lost more than this share of their edges. Source: reference code.
        loss: ``bpr``, or ``bce`` (label 1, and 0 for the negative). What the model was trained with: another loss is
            not at a minimum, and its spill-over is then large and wrong. Source: paper (bce, as its models are).
        over: H of the kept interactions (``retain``: exact for a quadratic loss) or of ``all``. Source: ours; paper.
        propagated: False computes H from the table without propagation, that of matrix factorisation, for LightGCN
            too. Source: reference code (false); paper (true).
        newton: Subtract the gradient over all interactions from g, which vanishes at a minimum only. Source: ours.
    """

    paper: ClassVar[str] = (
        "Zhang, Hu, Bai, Feng, Wang, He, Recommendation Unlearning via Influence Function, ACM TORS 2024 "
        "(arXiv 2307.02147)"
    )
    intention: ClassVar[Intention] = "removal"

    rows: Literal["hop-0", "hop-1", "relevance"] = "hop-0"
    percentile: float = 0.35
    spill_over: bool = True
    ratio: float = 0.01
    loss: Kind = "bpr"
    over: Over = "retain"
    propagated: bool = True
    newton: bool = False

    def rules(self) -> dict[str, bool]:
        """See `Solved`."""
        return {
            **super().rules(),
            "rows": self.rows in ("hop-0", "hop-1", "relevance"),
            "percentile": 0 <= self.percentile < 1,
            "ratio": 0 <= self.ratio < 1,
            "loss": self.loss in LOSSES,
            "over": self.over in ("retain", "all"),
        }

    def apply(self, job: Any) -> Any:
        """Return the target over the retain graph, with the step added to its rows.

        Raises:
            InputError: A Hessian the solver refuses, or ``propagated: false`` for a model of other parameters.
        """
        before, result = job.subject.graph, job.dropped()
        after, model = result.graph, result.model
        forget, retain = frozen(job)
        nodes = self.nodes(job, before, after)
        spilled = torch.zeros(len(retain), dtype=torch.bool)
        if self.spill_over:
            changed = (removed_share(before, after) > self.ratio).nonzero()[:, 0]
            spilled = beside(retain, changed, before.users, before.nodes)
        at = result.device
        chosen = entries(model, nodes).to(at)
        with opened(model):
            removal = Removal(
                model, before, after, forget.to(at), retain.to(at), LOSSES[self.loss], chosen
            )  # fmt: skip
            g = removal.direction(spilled.to(at), self.newton)
            product = removal.curvature(self.hessian, self.over, self.propagated)
            score = Validation(model, after, chosen, job) if job.held_out is not None else None
            x = self.solve(product, g, score)
        move(model, chosen, x)
        return result

    def nodes(self, job: Any, before: Graph, after: Graph) -> Tensor:
        """Nodes whose rows move."""
        if self.rows == "relevance":
            return relevant(before, after, self.percentile)
        hops = 0 if self.rows == "hop-0" else 1
        return neighbourhood(nodes_of(job.forget), job.retain.union(job.forget), hops)


class Validation:
    """AUC of held-out interactions against one frozen negative each, after a step."""

    def __init__(self, model: Recommender, graph: Graph, chosen: Tensor, job: Any) -> None:
        """Draw the negatives, among what nobody has taken."""
        held_out: Interactions = job.held_out
        seen = job.retain.union(job.forget).union(held_out)
        users, items = held_out.pairs.unbind(1)
        negatives = Negatives(seen, job.catalogue).draw(users, generator(job.seed, "influence", "validation"))
        self.triples = Triples(users, items, negatives)
        self.model, self.graph, self.chosen = model, graph, chosen

    @torch.no_grad()
    def __call__(self, x: Tensor) -> float:
        """Share of the held-out interactions that are ranked above their negative, ties counting half."""
        moved = copy.deepcopy(self.model)
        move(moved, self.chosen, x)
        z_user, z_item = moved(self.graph)
        of_user = z_user[self.triples.users]
        margin = (of_user * (z_item[self.triples.positives] - z_item[self.triples.negatives])).sum(1)
        return float(((margin > 0).double() + 0.5 * (margin == 0)).mean())
