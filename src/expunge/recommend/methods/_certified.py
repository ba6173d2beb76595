"""Many small logistic regressions at once, one for each user: minima, removal steps, and what a step leaves.

L_u(w) = sum over labelled rows of [softplus(w.x) - y w.x] + ridge |w|^2 / 2 + b_u.w, strictly convex in w. The ridge is
one for each user, not one for each interaction: a user of whom nothing is kept then still has a minimum, -b_u / ridge.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from expunge.errors import InputError

BEND = 1 / (6 * 3**0.5)  # largest slope of s (1 - s), the second derivative of softplus, for s a sigmoid
STEPS = 100
HALVINGS = 30
FITTED = 1e-9  # gradient norm of a fitted user, over 1 + |b|


@dataclass(frozen=True)
class Labelled:
    """Rows of the regressions of some users.

    Attributes:
        users: int64 [m] which regression a row belongs to, from 0.
        x: Float64 [m, d] what is regressed on.
        labels: Float64 [m] of 0 and 1.
    """

    users: Tensor
    x: Tensor
    labels: Tensor

    def take(self, rows: Tensor) -> Labelled:
        """Some of the rows."""
        return Labelled(self.users[rows], self.x[rows], self.labels[rows])


def gradients(w: Tensor, rows: Labelled, ridge: float, noise: Tensor) -> Tensor:
    """[users, d] gradient of L_u."""
    return slopes(w, rows) + ridge * w + noise


def scores(w: Tensor, rows: Labelled) -> Tensor:
    """[m] w.x."""
    return (w[rows.users] * rows.x).sum(1)


def losses(w: Tensor, rows: Labelled, ridge: float, noise: Tensor) -> Tensor:
    """[users] L_u."""
    s = scores(w, rows)
    of_rows = w.new_zeros(len(w)).index_add(0, rows.users, softplus(s) - rows.labels * s)
    return of_rows + ridge / 2 * w.square().sum(1) + (noise * w).sum(1)


def slopes(w: Tensor, rows: Labelled) -> Tensor:
    """[users, d] gradient of the logistic losses alone."""
    error = torch.sigmoid(scores(w, rows)) - rows.labels
    return torch.zeros_like(w).index_add(0, rows.users, error[:, None] * rows.x)


def hessians(w: Tensor, rows: Labelled, ridge: float) -> Tensor:
    """[users, d, d] Hessians of L_u."""
    share = torch.sigmoid(scores(w, rows))
    weight = share * (1 - share)
    d = w.shape[1]
    total = (ridge * torch.eye(d).to(w)).expand(len(w), d, d).clone()
    for part in torch.arange(len(rows.users)).split(max(1, 2**22 // d**2)):
        x = rows.x[part]
        total.index_add_(0, rows.users[part], weight[part, None, None] * x[:, :, None] * x[:, None, :])
    return total


def minimise(rows: Labelled, ridge: float, noise: Tensor) -> Tensor:
    """[users, d] minima of L_u, by Newton's method with halved steps.

    Raises:
        InputError: It does not arrive.
    """
    w = torch.zeros_like(noise)
    enough = FITTED * (1 + noise.norm(dim=1))
    for _ in range(STEPS):
        g = gradients(w, rows, ridge, noise)
        if bool((g.norm(dim=1) <= enough).all()):
            return w
        step = torch.linalg.solve(hessians(w, rows, ridge), g)
        length, before = w.new_ones(len(w)), losses(w, rows, ridge, noise)
        for _ in range(HALVINGS):
            worse = losses(w - length[:, None] * step, rows, ridge, noise) > before + 1e-12 * before.abs()
            if not bool(worse.any()):
                break
            length = torch.where(worse, length / 2, length)
        w = w - length[:, None] * step
    raise InputError(f"The users' rows were not fitted within {STEPS} steps of Newton's method; raise ridge.")


def removal_step(w: Tensor, kept: Labelled, removed: Labelled, ridge: float) -> Tensor:
    """[users, d] H_K^-1 sum over removed rows of the gradient: Newton's step from the minimum with them.

    Args:
        w: [users, d] minima of L_u over kept and removed rows.
        kept: Rows that stay.
        removed: Rows that go.
        ridge: Weight of |w|^2 / 2.
    """
    found: Tensor = torch.linalg.solve(hessians(w, kept, ridge), slopes(w, removed))
    return found


def left_by(step: Tensor, kept: Labelled) -> Tensor:
    """[users] bound on the gradient of L_u over the kept rows after the step: bend / 2 |X| |(X step)^2|.

    Along the step the second derivative of a row's loss changes by at most bend |x.step| t, t from 0 to 1; the mean of
    t is 1/2. |X| is the largest singular value of the user's kept rows. No length of x is assumed.
    """
    moved = (step[kept.users] * kept.x).sum(1)
    quartic = step.new_zeros(len(step)).index_add(0, kept.users, moved**4)
    bound: Tensor = BEND / 2 * singular(kept, len(step)) * quartic.sqrt()
    return bound


def left_by_rounding(error: Tensor, kept: Labelled, ridge: float) -> Tensor:
    """[users] bound on what a rounding error [users, d] of w adds to the gradient: (|X|^2 / 4 + ridge) |error|."""
    bound: Tensor = (singular(kept, len(error)).square() / 4 + ridge) * error.norm(dim=1)
    return bound


def singular(rows: Labelled, users: int) -> Tensor:
    """[users] largest singular value of each user's rows, 0 without any."""
    d = rows.x.shape[1]
    gram = torch.zeros(users, d, d).to(rows.x)
    for part in torch.arange(len(rows.users)).split(max(1, 2**22 // d**2)):
        x = rows.x[part]
        gram.index_add_(0, rows.users[part], x[:, :, None] * x[:, None, :])
    largest: Tensor = torch.linalg.eigvalsh(gram)[:, -1].clamp_min(0).sqrt()
    return largest
