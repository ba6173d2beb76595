"""Unlearning by alternating least squares: D's entries become entries never seen, and few sweeps follow.

Each half of a sweep is a closed form, so that users' factors forget at once (given the items') and items' factors with
the next half. From the factors as they are, few sweeps come to where many from fresh ones would.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from expunge.engine.method import Edit, Intention
from expunge.errors import InputError
from expunge.recommend.models.lightgcn import BPRMF

TOGETHER = 2**22  # numbers of the systems formed at a time


@dataclass(frozen=True)
class UnlearnALS(Edit):
    """Sweeps of alternating least squares over the kept interactions, from the old vectors of users and items.

    Minimises sum_{(u,i) kept} (1 - p_u.q_i)^2 + w0 sum_{others} (p_u.q_i)^2 + ridge (|P|^2 + |Q|^2); a forgotten pair
    is one of the others, like every pair that was never seen. Meant for models that were trained so. The result is a
    matrix factorisation with as many factors as the target's vectors; for a target trained for ranking or over a
    graph the sweeps also change what it optimises, and they start from its vectors over the retain graph. Users and
    items of which nothing is kept get 0.

    Attributes:
        sweeps: Passes over users and items. Source: paper (few); ours.
        ridge: Weight of the squared norms. Source: ours.
        w0: Weight of the pairs without an interaction, whose target is 0; 0 leaves them missing altogether, which
            with targets that are all 1 has a trivial solution. Source: ours.
    """

    paper: ClassVar[str] = (
        "Xu, Sun, Yang, Yao, Wang, Netflix and Forget: Efficient and Exact Machine Unlearning from Bi-linear "
        "Recommendations, 2023 (arXiv 2302.06676)"
    )
    intention: ClassVar[Intention] = "removal"
    aliases: ClassVar[str] = "als"

    sweeps: int = 3
    ridge: float = 3.0
    w0: float = 0.1

    def __post_init__(self) -> None:
        if self.sweeps < 0 or not 0 < self.ridge < float("inf") or not 0 <= self.w0 <= 1:
            raise InputError(
                f"unlearn-als: sweeps={self.sweeps} (at least 0), ridge={self.ridge} (above 0), w0={self.w0} (0 to 1)."
            )

    def apply(self, job: Any) -> Any:
        """Return a matrix factorisation that serves the retained interactions."""
        result = job.dropped()
        users, items = result.embeddings()
        p, q = sweep(users.double(), items.double(), job.retain.pairs, self.sweeps, self.ridge, self.w0)
        factors = torch.cat([p, q]).float()
        model = BPRMF(len(p), len(q), factors.shape[1], result.model.reg).to(result.device)
        with torch.no_grad():
            model.table.copy_(factors)
        return result.with_model(model.eval())


def sweep(p: Tensor, q: Tensor, pairs: Tensor, sweeps: int, ridge: float, w0: float) -> tuple[Tensor, Tensor]:
    """Factors of users [users, d] and of items [items, d] after some sweeps, users first.

    Args:
        p: [users, d] where to start.
        q: [items, d] where to start.
        pairs: int64 [n, 2] (user, item), the entries that are 1.
        sweeps: Number of them.
        ridge: Weight of the squared norms.
        w0: Weight of all other entries, which are 0.
    """
    for _ in range(sweeps):
        p = solve(q, pairs, len(p), ridge, w0)
        q = solve(p, pairs.flip(1), len(q), ridge, w0)
    return p, q


def solve(other: Tensor, pairs: Tensor, rows: int, ridge: float, w0: float) -> Tensor:
    """The best factors of one side given the other's: (w0 Q^T Q + (1 - w0) sum q q^T + ridge I) p = sum q.

    Args:
        other: [m, d] factors of the other side.
        pairs: int64 [n, 2] (row of this side, row of the other).
        rows: Rows of this side.
        ridge: Weight of the squared norms.
        w0: Weight of the entries without a pair.
    """
    d = other.shape[1]
    base = w0 * other.T @ other + ridge * torch.eye(d).to(other)
    target = torch.zeros(rows, d).to(other).index_add(0, pairs[:, 0], other[pairs[:, 1]])
    ordered = pairs[pairs[:, 0].argsort(stable=True)]
    found = torch.zeros_like(target)
    for block in torch.arange(rows).split(max(1, TOGETHER // d**2)):
        low, high = torch.searchsorted(ordered[:, 0].contiguous(), torch.tensor([int(block[0]), int(block[-1]) + 1]))
        systems = base.expand(len(block), d, d).clone()
        for mine in ordered[int(low) : int(high)].split(max(1, TOGETHER // d**2)):
            q = other[mine[:, 1]]
            systems.index_add_(0, mine[:, 0] - block[0], (1 - w0) * q[:, :, None] * q[:, None, :])
        found[block] = torch.linalg.solve(systems, target[block])
    return found
