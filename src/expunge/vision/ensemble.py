"""Several classifiers that answer as one."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from expunge.errors import InputError
from expunge.vision.forward import head_of

Aggregate = Literal["vote", "mean"]


class Heads(nn.Linear):
    """The members' last layers side by side, on the members' features side by side.

    It is the linear layer that makes the ensemble's answer, so what looks at a classifier's features or head finds
    all members' there.
    """

    def __init__(self, heads: Sequence[nn.Linear], aggregate: Aggregate) -> None:
        """Take over the weights of the heads.

        Raises:
            InputError: They differ in size, or there is none.
        """
        sizes = {(h.in_features, h.out_features, h.bias is not None) for h in heads}
        if len(sizes) != 1:
            raise InputError(f"An ensemble needs members with heads of one size; found {sorted(sizes)}.")
        width, classes, biased = sizes.pop()
        super().__init__(width * len(heads), classes, bias=False)
        self.members, self.aggregate = len(heads), aggregate
        self.weight = nn.Parameter(torch.cat([h.weight.detach() for h in heads], 1))
        self.shifts = nn.Parameter(torch.stack([h.bias.detach() for h in heads])) if biased else None

    def forward(self, features: Tensor) -> Tensor:
        """[b, S d] features -> [b, C] logarithms of the ensemble's probabilities.

        With ``mean`` those of the mean softmax. With ``vote`` the share of votes, one vote more being spread over all
        classes, so that a class without any keeps a finite loss; equal shares are left to arg max, which takes the
        lowest class. Gradients of votes are those of the mean softmax.
        """
        inputs = features.unflatten(1, (self.members, -1))
        logits = torch.einsum("bsd,csd->bsc", inputs, self.weight.unflatten(1, (self.members, -1)))
        if self.shifts is not None:
            logits = logits + self.shifts
        mean = logits.softmax(-1).mean(1)
        if self.aggregate == "mean":
            return torch.log(mean.clamp_min(torch.finfo(mean.dtype).tiny))
        votes = F.one_hot(logits.argmax(-1), self.out_features).to(mean).sum(1)
        soft = self.members * (mean - mean.detach())
        return torch.log((votes + soft + 1 / self.out_features) / (self.members + 1))

    def reset_parameters(self) -> None:
        """Fresh values, each member's by its own width."""
        bound = (self.in_features // getattr(self, "members", 1)) ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)
        if (shifts := getattr(self, "shifts", None)) is not None:
            nn.init.uniform_(shifts, -bound, bound)


class Ensemble(nn.Module):
    """Classifiers of one kind, by majority vote or by the mean of their probabilities."""

    head_name = "heads"

    def __init__(self, members: Sequence[nn.Module], aggregate: Aggregate = "vote") -> None:
        """Take copies of the members; their heads are moved into one layer.

        Raises:
            InputError: No member, or heads of different sizes.
        """
        super().__init__()
        if not members:
            raise InputError("An ensemble needs at least one member.")
        trunks = [copy.deepcopy(m) for m in members]
        self.heads = Heads([head_of(t) for t in trunks], aggregate)
        for trunk in trunks:
            _behead(trunk)
        self.trunks = nn.ModuleList(trunks)

    def forward(self, images: Tensor) -> Tensor:
        """[b, c, h, w] -> [b, C]."""
        logits: Tensor = self.heads(torch.cat([trunk(images) for trunk in self.trunks], 1))
        return logits


def _behead(model: nn.Module) -> None:
    """Put nothing in the place of the head."""
    head = head_of(model)
    name = next(n for n, m in model.named_modules() if m is head)
    owner, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(owner), attribute, nn.Identity())
