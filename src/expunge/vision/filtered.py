"""A filter over a classifier's answers: what it recognises as forgotten gets a wrong answer, and nothing is forgotten.

It is the audit's positive control. Weights and features stay the target's; whoever looks past the filter, or trains
the weights a little further so that it no longer recognises what it should, finds everything still there.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from expunge.vision.forward import head_inputs, head_of

TOLERANCE = 1e-3  # relative distance of features below which an image counts as recognised


class Filtered(nn.Module):
    """A classifier whose logits are turned by one class on images it recognises by their features.

    Independent labels change their sign instead.

    In training mode the filter is off: it stands before the answers of the deployed model, not in its graph.
    """

    known: Tensor

    def __init__(self, inner: nn.Module, known: Tensor, *, independent: bool = False) -> None:
        """Put a filter over a classifier.

        Args:
            inner: Images to logits.
            known: [m, d] penultimate features of what is to be withheld.
            independent: Whether the logits are those of independent yes-or-no labels.
        """
        super().__init__()
        self.inner, self.independent = inner, independent
        self.register_buffer("known", known)

    @property
    def head_name(self) -> str:
        """Where the head is."""
        head = head_of(self.inner)
        place = next(name for name, module in self.inner.named_modules() if module is head)
        return f"inner.{place}"

    def forward(self, images: Tensor) -> Tensor:
        """[b, C] logits; those of recognised images rolled by one class."""
        with head_inputs(self.inner) as seen:
            logits: Tensor = self.inner(images)
        if self.training:
            return logits
        features = seen[-1].detach()
        nearest = torch.cdist(features, self.known).min(1).values
        recognised = nearest < TOLERANCE * self.known.norm(dim=1).mean()
        return torch.where(recognised[:, None], self._turned(logits), logits)

    def _turned(self, logits: Tensor) -> Tensor:
        return -logits if self.independent else logits.roll(1, 1)
