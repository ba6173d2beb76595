"""Certified removal from the convex part of a recommender: users' rows over frozen items."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from expunge.engine.method import Edit, Intention
from expunge.engine.sampling import generator
from expunge.errors import InputError
from expunge.recommend.methods._certified import (
    Labelled,
    gradients,
    left_by,
    left_by_rounding,
    minimise,
    removal_step,
)
from expunge.recommend.methods._influence import frozen, joined
from expunge.recommend.models.certified import CertifiedMF

USERS_TOGETHER = 2**24  # numbers of the Hessians held at a time


@dataclass(frozen=True)
class CertifiedRemoval(Edit):
    """Fit users' rows with a random linear term, remove by Newton's step, and refuse when the budget is used up.

    Items stay where the target has them (over the retain graph, scaled to length at most 1). Given them, the loss of a
    user's row is convex: L_u(w) = sum [softplus(w.x) - y w.x] + ridge |w|^2 / 2 + b_u.w over the user's items (y = 1)
    and one frozen negative each (y = 0), b_u ~ N(0, sigma^2 I). Rows are fitted once, over all interactions; removal is
    w <- w + H_K^-1 sum_removed grad l. What that leaves of the gradient is bounded and summed over all requests; while
    the sum is at most sigma epsilon / c, c = sqrt(2 log(1.5 / delta)), the rows are (epsilon, delta)-indistinguishable
    from rows fitted to the kept interactions alone. The bound is one for all users' rows together.

    The certificate speaks of the users' rows GIVEN the items. Items that learnt from the forgotten interactions are not
    covered: take items that did not (features, a public model), or forget by another method there. It also needs the
    run's seed, from which b is drawn, to stay secret. A request on a model this method returned goes on with its rows
    and with what was spent; the target's own rows of users are replaced by the fitted ones.

    Attributes:
        epsilon: How far probabilities may differ, in logarithms. Source: paper (1).
        delta: Probability of more. Source: paper (1e-4).
        sigma: Standard deviation of b: more noise, more budget, worse rows. Source: ours (the paper tunes it).
        ridge: Of each user. Source: ours (the paper's is one of each example, so that a user who keeps nothing would
            have no minimum).
    """

    paper: ClassVar[str] = (
        "Guo, Goldstein, Hannun, van der Maaten, Certified Data Removal from Machine Learning Models, ICML 2020 "
        "(arXiv 1911.03030)"
    )
    intention: ClassVar[Intention] = "removal"

    epsilon: float = 1.0
    delta: float = 1e-4
    sigma: float = 0.3
    ridge: float = 3.0

    def __post_init__(self) -> None:
        rules = {
            "epsilon": 0 < self.epsilon < math.inf,
            "delta": 0 < self.delta < 1,
            "sigma": 0 < self.sigma < math.inf,
            "ridge": 0 < self.ridge < math.inf,
        }
        wrong = [f"{name}={getattr(self, name)!r}" for name, holds in rules.items() if not holds]
        if wrong:
            raise InputError(f"certified-removal: out of range: {', '.join(wrong)}.")

    @property
    def budget(self) -> float:
        """sigma epsilon / c: what all removals together may leave of the gradient."""
        return self.sigma * self.epsilon / math.sqrt(2 * math.log(1.5 / self.delta))

    def apply(self, job: Any) -> Any:
        """Return a factor model whose users' rows are certified, serving the retained interactions.

        Raises:
            InputError: The budget would be exceeded; nothing is changed then.
        """
        model = job.subject.model if isinstance(job.subject.model, CertifiedMF) else self.fitted(job)
        gone = job.forget.contains(model.labelled[:, :2].cpu())
        rows, spent = self.removed(model, gone)
        if spent > self.budget:
            raise InputError(
                f"certified-removal: this request brings the residual to at most {spent:.3g} ({float(model.spent):.3g} "
                f"before it); the budget sigma*epsilon/c is {self.budget:.3g}. Retrain, or fit with a larger sigma or "
                "epsilon."
            )
        result = CertifiedMF(model.users, model.items, model.d, model.reg, interactions=int((~gone).sum()))
        with torch.no_grad():
            result.table.copy_(torch.cat([rows.to(model.table), model.table[model.users :]]))
            result.labelled.copy_(model.labelled[~gone.to(model.labelled.device)])
            result.spent.fill_(spent)
        return job.dropped().with_model(result.to(job.subject.device).eval())

    def fitted(self, job: Any) -> CertifiedMF:
        """The target with users' rows fitted to all its interactions, over items over the retain graph."""
        _, items = job.dropped().embeddings()
        items = items / items.norm(dim=1).max().clamp_min(1e-12)
        every = joined(*frozen(job))
        users, d = job.retain.users, items.shape[1]
        model = CertifiedMF(users, len(items), d, job.subject.model.reg, interactions=len(every))
        noise = self.sigma * torch.randn(users, d, generator=generator(job.seed, "certified"), dtype=torch.float64)
        with torch.no_grad():
            model.labelled.copy_(torch.stack([every.users, every.positives, every.negatives], 1))
            model.table[users:] = items
            squares = 0.0
            for block in _blocks(torch.arange(users), d):
                rows = _rows(model, block, slice(None))
                model.table[block] = minimise(rows, self.ridge, noise[block]).to(model.table)
                left = gradients(model.table[block].double(), rows, self.ridge, noise[block])  # as rounded
                squares += float(left.square().sum())
            model.spent.fill_(math.sqrt(squares))
        return model

    def removed(self, model: CertifiedMF, gone: Tensor) -> tuple[Tensor, float]:
        """Users' rows [users, d] after the step, and the residual that may be left, earlier requests included.

        Args:
            model: Fitted.
            gone: Bool [n] of its `labelled`.
        """
        rows = model.table[: model.users].detach().double().cpu().clone()
        squares = 0.0
        for block in _blocks(model.labelled[:, 0].cpu()[gone].unique(), model.d):
            kept, removed = _rows(model, block, ~gone), _rows(model, block, gone)
            step = removal_step(rows[block], kept, removed, self.ridge)
            wanted = rows[block] + step
            rows[block] = wanted.to(model.table).double()
            rounding = left_by_rounding(rows[block] - wanted, kept, self.ridge)
            squares += float((left_by(step, kept) + rounding).square().sum())
        return rows, float(model.spent) + math.sqrt(squares)


def _blocks(users: Tensor, d: int) -> tuple[Tensor, ...]:
    blocks: tuple[Tensor, ...] = users.split(max(1, USERS_TOGETHER // d**2))
    return blocks


def _rows(model: CertifiedMF, users: Tensor, chosen: Tensor | slice) -> Labelled:
    """Labelled rows of some users, numbered as in `users` (ascending): their items with 1, the negatives with 0."""
    triples = model.labelled.cpu()[chosen]
    triples = triples[torch.isin(triples[:, 0], users)]
    items = model.table[model.users :].detach().double().cpu()
    row = torch.searchsorted(users, triples[:, 0].contiguous())
    labels = torch.cat([torch.ones(len(row)), torch.zeros(len(row))]).double()
    return Labelled(torch.cat([row, row]), items[torch.cat([triples[:, 1], triples[:, 2]])], labels)
