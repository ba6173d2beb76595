"""Images that are made, not taken: noise that a network finds as wrong, or as strange, as can be."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from expunge.vision.data import Images, Pixels


@contextmanager
def resting(model: nn.Module) -> Iterator[None]:
    """Within, gradients are on and the model is in evaluation mode: what passes leaves no trace in it."""
    mode = model.training
    model.eval()
    try:
        with torch.enable_grad():
            yield
    finally:
        model.train(mode)


def optimised(start: Tensor, loss_of: Callable[[Tensor], Tensor], steps: int, lr: float) -> Tensor:
    """Inputs moved by Adam down a loss, all at once; the model's own gradients are not touched.

    Args:
        start: [b, c, h, w].
        loss_of: Scalar of such a tensor.
        steps: Of Adam.
        lr: Of Adam.
    """
    z = start.clone().requires_grad_(True)
    adam = torch.optim.Adam([z], lr=lr)
    for _ in range(steps):
        (z.grad,) = torch.autograd.grad(loss_of(z), [z])
        adam.step()
    return z.detach()


@dataclass(frozen=True, eq=False)
class Made(Pixels):
    """Made images before taken ones, as one source; made ones need not lie in [0, 1].

    Attributes:
        made: [m, c, h, w] float, 1 for the brightest byte.
        copies: How often each made image counts.
        taken: The others.
    """

    made: Tensor
    copies: int
    taken: Images

    def __len__(self) -> int:
        return len(self.made) * self.copies + len(self.taken)

    def read(self, rows: Tensor) -> Tensor:
        """See `Pixels`; in units of a byte."""
        first = len(self.made) * self.copies
        found = torch.empty(len(rows), *self.made.shape[1:])
        new = rows < first
        found[new] = 255 * self.made[rows[new] % len(self.made)]
        if not bool(new.all()):
            found[~new] = 255 * self.taken.pixels(rows[~new] - first)
        return found

    def digest(self, row: int) -> bytes:
        """See `Pixels`."""
        first = len(self.made) * self.copies
        if row >= first:
            return self.taken.source.digest(int(self.taken.rows[row - first]))
        return hashlib.blake2b(self.made[row % len(self.made)].numpy().tobytes(), digest_size=12).digest()


def with_made(made: Tensor, labels: Tensor, copies: int, taken: Images) -> Images:
    """Copies of made images with their labels, then taken ones with theirs."""
    count = len(made) * copies
    source = Made(made, copies, taken)
    return Images(
        source, torch.arange(len(source)), torch.cat([labels.repeat(copies), taken.labels]),
        (*("",) * count, *taken.clusters), (*("noise",) * count, *taken.names),
    )  # fmt: skip
