"""What influence functions of recommenders share: frozen triples and their loss, which rows move, what removal changes.

Losses are SUMS over triples, not means, so that damping is in the unit of one interaction whatever the data's size:
(H_mean + delta I)^-1 g / n of the papers is (H_sum + n delta I)^-1 g here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import softplus

from expunge.engine.sampling import generator
from expunge.errors import InputError
from expunge.recommend.graph import Graph
from expunge.recommend.influence import Product, gauss_newton_product, gradient, hessian_product
from expunge.recommend.losses import forward_bpr
from expunge.recommend.models.base import Recommender
from expunge.recommend.models.lightgcn import BPRMF
from expunge.recommend.sampling import Negatives

Kind = Literal["bpr", "bce"]
Curvature = Literal["gauss-newton", "exact"]
Over = Literal["retain", "all"]
Values = Callable[[Tensor, Tensor], Tensor]  # scores of positives and of negatives [b] -> [b]


@dataclass(frozen=True)
class Triples:
    """Positives, each with one frozen negative, and what they are labelled with.

    Attributes:
        users: int64 [n].
        positives: int64 [n] items.
        negatives: int64 [n] items.
    """

    users: Tensor
    positives: Tensor
    negatives: Tensor

    def __len__(self) -> int:
        return len(self.users)

    def take(self, rows: Tensor) -> Triples:
        """Some of them, by index or bool mask."""
        return Triples(self.users[rows], self.positives[rows], self.negatives[rows])

    def to(self, device: torch.device) -> Triples:
        """On a device."""
        return Triples(self.users.to(device), self.positives.to(device), self.negatives.to(device))


def frozen(job: Any) -> tuple[Triples, Triples]:
    """Give every positive one negative its user has not taken: the finite sum whose influence is asked for.

    Args:
        job: The request.

    Returns:
        The triples of the forgotten interactions and of the kept ones.
    """
    negatives = Negatives(job.retain.union(job.forget), job.subject.catalogue)
    found = []
    for name, part in (("forget", job.forget), ("retain", job.retain)):
        users, items = part.pairs.unbind(1)
        found.append(Triples(users, items, negatives.draw(users, generator(job.seed, "influence", name))))
    return found[0], found[1]


def pairwise(positive: Tensor, negative: Tensor) -> Tensor:
    """BPR: -log sigmoid(s_ui - s_uj)."""
    return forward_bpr(positive - negative)


def pointwise(positive: Tensor, negative: Tensor) -> Tensor:
    """Binary cross-entropy of label 1 at the positive and label 0 at its negative."""
    return softplus(-positive) + softplus(negative)


LOSSES: dict[Kind, Values] = {"bpr": pairwise, "bce": pointwise}


def score(model: Recommender, graph: Graph | None, triples: Triples) -> Tensor:
    """[2, b] scores of positives and of negatives.

    Args:
        model: With its parameters open.
        graph: What is propagated over; None scores by the table itself, as matrix factorisation does.
        triples: On the model's device.
    """
    if graph is None:
        z_user, z_item = one_table(model).split([model.users, model.items])
    else:
        z_user, z_item = model(graph)
    of_user = z_user.index_select(0, triples.users)
    both = [z_item.index_select(0, items) for items in (triples.positives, triples.negatives)]
    return torch.stack([(of_user * z).sum(1) for z in both])


def penalty(model: Recommender, triples: Triples) -> Tensor:
    """Sum of the model's own regulariser; 0 for one of a batch as a whole, which is no sum over triples."""
    if model.couples_batch:
        return torch.zeros((), device=triples.users.device)
    return model.reg * model.penalty(triples.users, triples.positives, triples.negatives).sum()


def total(model: Recommender, graph: Graph | None, triples: Triples, values: Values) -> Tensor:
    """Sum over triples of the loss and of the model's own regulariser; arguments as in `score`."""
    positive, negative = score(model, graph, triples)
    return values(positive, negative).sum() + penalty(model, triples)


def one_table(model: Recommender) -> Tensor:
    """[nodes, d] the only parameter of a model that has one row per node and nothing else.

    Raises:
        InputError: Another kind of model.
    """
    if not isinstance(model, BPRMF):
        raise InputError(
            f"propagated=false looks at one table of users and items (BPR-MF, LightGCN); {type(model).__name__} has "
            "other parameters: leave propagated at true."
        )
    return model.table


@dataclass(frozen=True)
class Removal:
    """The sum of losses before and after some interactions are taken away.

    Attributes:
        model: The target, within `opened`.
        before: Graph of all interactions.
        after: Graph of those kept.
        forget: Triples of the forgotten.
        retain: Triples of the kept.
        values: Loss of a triple.
        chosen: Entries of the flat parameters that may move.
    """

    model: Recommender
    before: Graph
    after: Graph
    forget: Triples
    retain: Triples
    values: Values
    chosen: Tensor

    def direction(self, spilled: Tensor, newton: bool = False) -> Tensor:
        """G = grad [ sum_D l(A) + sum_C (l(A) - l(A')) ], A before and A' after; C are the `spilled` kept triples.

        With all kept triples in C and `newton` it is minus the gradient of the kept interactions' loss over A'.

        Args:
            spilled: Bool [retain], the kept triples whose loss changes with the graph.
            newton: Subtract the gradient of everything over A, which is 0 only where training ended at a minimum.
        """
        others = self.retain.take(spilled)
        changed = total(self.model, self.before, joined(self.forget, others), self.values)
        changed = changed - total(self.model, self.after, others, self.values)
        if newton:
            every = joined(self.forget, self.retain)
            changed = changed - total(self.model, self.before, every, self.values)
        return gradient(changed, list(self.model.parameters()), self.chosen)

    def curvature(self, hessian: Curvature, over: Over = "retain", propagated: bool = True) -> Product:
        """v -> H v of the sum of losses of what is kept (over A'), or of all interactions (over A).

        Args:
            hessian: ``exact``, or ``gauss-newton``, which takes scores as linear in the parameters.
            over: ``retain`` or ``all``.
            propagated: False scores by the table itself.
        """
        kept = over == "retain"
        triples = self.retain if kept else joined(self.forget, self.retain)
        graph = self.after if kept else self.before
        return curvature_of(self.model, graph if propagated else None, triples, self.values, hessian, self.chosen)


def curvature_of(
    model: Recommender, graph: Graph | None, triples: Triples, values: Values, hessian: Curvature, chosen: Tensor
) -> Product:
    """v -> H v of `total`, of one of two kinds; see `Removal.curvature`."""
    parameters = list(model.parameters())
    if hessian == "exact":
        return hessian_product(total(model, graph, triples, values), parameters, chosen)
    of_loss = gauss_newton_product(score(model, graph, triples), lambda s: values(s[0], s[1]).sum(), parameters, chosen)
    if model.couples_batch or not model.reg:
        return of_loss
    of_penalty = hessian_product(penalty(model, triples), parameters, chosen)
    return lambda v: of_loss(v) + of_penalty(v)


def joined(first: Triples, second: Triples) -> Triples:
    """Both, one after the other."""
    return Triples(
        torch.cat([first.users, second.users]),
        torch.cat([first.positives, second.positives]),
        torch.cat([first.negatives, second.negatives]),
    )
