"""Other labels than the true ones."""

from __future__ import annotations

import torch
from torch import Tensor

from expunge.errors import InputError


def random_labels(true: Tensor, classes: int, generator: torch.Generator, *, exclude_true: bool) -> Tensor:
    """A label for each image, drawn uniformly, with or without the true one among the candidates.

    Args:
        true: [n] classes, or [n, k] yes-or-no labels, of which a whole vector is drawn.
        classes: C.
        generator: Draws them.
        exclude_true: Draw among the others alone.

    Returns:
        [n] or [n, k], of the kind of `true`.

    Raises:
        InputError: There is no other label.
    """
    several = true.ndim == 2
    candidates = 2 ** true.shape[1] if several else classes
    if exclude_true and candidates < 2:
        raise InputError("Labels other than the true one are wanted, and there is one class only.")
    first = 1 if exclude_true else 0
    shift = torch.randint(first, candidates, (len(true),), generator=generator)
    if not several:
        return (true + shift) % classes
    bits = (shift[:, None] >> torch.arange(true.shape[1])) & 1
    return (true - bits).abs().to(true.dtype)
