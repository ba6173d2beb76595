"""A factor model whose users' rows are minima of a convex loss, with what their certified removal has to remember."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from expunge.recommend.models.lightgcn import BPRMF


class CertifiedMF(BPRMF):
    """Matrix factorisation with frozen items, as `certified-removal` leaves it.

    The random linear terms of the users' losses are not kept: who knows them could undo the certificate.

    Attributes:
        labelled: int64 [n, 3] (user, item, frozen negative): what the users' rows are fitted to.
        spent: Float64 [] residual that all removals so far may have left.
    """

    kind: ClassVar[str] = "certified"
    labelled: Tensor
    spent: Tensor

    def __init__(
        self, users: int, items: int, d: int = 64, reg: float = 0.0, *, interactions: int = 0, seed: int = 0
    ) -> None:
        """Make room for some interactions.

        Args:
            users: Users of the catalogue.
            items: Items of the catalogue.
            d: Numbers of a row.
            reg: Weight of the ranking loss's penalty; nothing of the certificate depends on it.
            interactions: n.
            seed: Of the initial values.
        """
        super().__init__(users, items, d, reg, seed=seed)
        self.register_buffer("labelled", torch.zeros(interactions, 3, dtype=torch.int64))
        self.register_buffer("spent", torch.zeros((), dtype=torch.float64))

    def origin(self) -> dict[str, Any]:
        """See `Recommender`."""
        return {**super().origin(), "interactions": len(self.labelled)}
