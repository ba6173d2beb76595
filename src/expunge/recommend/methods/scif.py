"""Selective and collaborative influence function: forgotten labels are replaced by a mean, on the users' rows only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import softplus

from expunge.engine.method import Intention
from expunge.recommend.influence import gradient
from expunge.recommend.methods._influence import Triples, Values, curvature_of, frozen, joined, score, total
from expunge.recommend.methods._rows import entries, move, opened
from expunge.recommend.methods._solver import Solved

KNOWN = 1.0, 0.0  # labels of a positive and of its negative


@dataclass(frozen=True)
class SCIF(Solved):
    """Replace the labels of D by the mean label of what is kept, and move the users' rows by one influence step.

    g = sum_D (grad l(y) - grad l(y~)) over the retain graph, l pointwise binary cross-entropy, and
    theta_u <- theta_u + (H + damping I)^-1 g for the rows of the users of D alone; H is that of all interactions with
    the new labels, restricted to these rows. y~ is the mean label of the user's kept interactions and their frozen
    negatives (the item's for a user who keeps nothing, and the mean of all where the item keeps nothing either). The
    forgotten interaction and its negative get it both: together they are what the model was told of the pair.

    With matrix factorisation scores are linear in the users' rows: both kinds of Hessian are the same there.

    Attributes:
        damping: As in the other influence methods; rows whose scores are far out need more of it. Source: ours.
        newton: Subtract the gradient over all interactions with their old labels from g: a whole Newton step towards
            the minimum with the new labels, for a model that is not at the minimum of this loss (one trained for
            ranking never is). Source: reference code.
    """

    paper: ClassVar[str] = (
        "Li, Chen, Zheng, Zhang, Zhang, Lyu, Selective and Collaborative Influence Function for Efficient "
        "Recommendation Unlearning, Expert Systems with Applications 2023 (arXiv 2304.10199)"
    )
    intention: ClassVar[Intention] = "removal"

    damping: float = 0.3
    newton: bool = False

    def apply(self, job: Any) -> Any:
        """Return the target over the retain graph, with the step added to the users' rows.

        Raises:
            InputError: A Hessian the solver refuses.
        """
        result = job.dropped()
        model, graph, at = result.model, result.graph, result.device
        forget, retain = (part.to(at) for part in frozen(job))
        users = job.forget.pairs[:, 0].unique()
        chosen = entries(model, users).to(at)
        positive, negative = mean_labels(forget, retain, job.retain.users, job.retain.items)
        corrected = labelled(positive, negative)
        with opened(model):
            parameters = list(model.parameters())
            s = score(model, graph, forget)
            changed = ((positive - KNOWN[0]) * s[0] + (negative - KNOWN[1]) * s[1]).sum()  # l(y) - l(y~) = (y~ - y) s
            every = joined(forget, retain)
            if self.newton:
                changed = changed - total(model, graph, every, KNOWN_LABELS)
            g = gradient(changed, parameters, chosen)
            values = split_values(corrected, KNOWN_LABELS, len(forget))
            x = self.solve(curvature_of(model, graph, every, values, self.hessian, chosen), g)
        move(model, chosen, x)
        return result


def labelled(positive: Tensor | float, negative: Tensor | float) -> Values:
    """Binary cross-entropy softplus(s) - y s with labels y of the positives and of the negatives."""

    def values(of_positive: Tensor, of_negative: Tensor) -> Tensor:
        return softplus(of_positive) - positive * of_positive + softplus(of_negative) - negative * of_negative

    return values


KNOWN_LABELS = labelled(*KNOWN)


def split_values(first: Values, second: Values, count: int) -> Values:
    """One loss for the first `count` triples and another for the rest."""

    def values(positive: Tensor, negative: Tensor) -> Tensor:
        parts = first(positive[:count], negative[:count]), second(positive[count:], negative[count:])
        return torch.cat(parts)

    return values


def mean_labels(forget: Triples, retain: Triples, users: int, items: int) -> tuple[Tensor, Tensor]:
    """Mean labels that stand in for those of the forgotten triples.

    Args:
        forget: [m] triples.
        retain: [n] triples, labelled 1 and 0.
        users: Users of the catalogue.
        items: Items of the catalogue.

    Returns:
        [m] for the positives and [m] for the negatives. With one negative for every positive the mean of a user who
        keeps anything is 1/2; an item's is its share of positives.
    """
    kept = torch.bincount(retain.users, minlength=users)
    ones = torch.bincount(retain.positives, minlength=items).float()
    seen = ones + torch.bincount(retain.negatives, minlength=items)
    of_item = torch.where(seen > 0, ones / seen.clamp_min(1), 0.5)
    alone = kept[forget.users] == 0
    positive = torch.where(alone, of_item[forget.positives], 0.5)
    return positive, torch.where(alone, of_item[forget.negatives], 0.5)
