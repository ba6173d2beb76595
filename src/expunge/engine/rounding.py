"""Rounding weights to few bits and back, as deployment does."""

from __future__ import annotations

import torch
from torch import Tensor


def round_to_nearest(weight: Tensor, bits: int) -> Tensor:
    """Symmetric absolute-maximum quantisation of each output row, dequantised again.

    Args:
        weight: [out, ...]; everything after the first dimension is one row.
        bits: Word length b; levels are the integers in [-(2^(b-1) - 1), 2^(b-1) - 1].

    Returns:
        The same shape; each entry differs from the input by at most half a level of its row.
    """
    top = 2 ** (bits - 1) - 1
    rows = weight.flatten(1)
    scale: Tensor = rows.abs().amax(1, keepdim=True) / top
    safe = torch.where(scale == 0, 1.0, scale)  # an all-zero row stays zero
    return ((rows / safe).round().clamp(-top, top) * scale).view_as(weight)
