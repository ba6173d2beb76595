"""Taking one modality of some items away from a recommender: their rows of its features become everybody's mean."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from expunge.errors import InputError, nearest
from expunge.recommend.models.base import Recommender

Fill = Literal["mean", "zero"]
PREFIX = "features_"  # of the buffers that hold features


def modalities(model: Recommender) -> list[str]:
    """Names of the modalities a recommender reads, in the order of its buffers."""
    return [name.removeprefix(PREFIX) for name, _ in model.named_buffers() if name.startswith(PREFIX)]


def replacement(table: Tensor, items: Tensor, fill: Fill) -> Tensor:
    """[F] what the rows of some items become: the mean of the rows of all the others, or zeros.

    Args:
        table: [items, F] features; the rows of `items` are not read.
        items: int64 [k].
        fill: ``mean`` or ``zero``.

    Raises:
        InputError: No other item is left to take the mean of.
    """
    if fill == "zero":
        return torch.zeros_like(table[0])
    others = torch.ones(len(table), dtype=torch.bool, device=table.device)
    others[items] = False
    if not bool(others.any()):
        raise InputError(f"All {len(table)} items lose their features: there is no mean of others; use fill=zero.")
    return table[others].mean(0)


@torch.no_grad()
def remove_modality(model: Recommender, items: Tensor, modality: str | None, fill: Fill = "mean") -> None:
    """Replace the features of some items in place, so that nothing depends on what they were.

    Args:
        model: Reads features from buffers ``features_<modality>``.
        items: int64 [k] whose rows go; ids keep their meaning, no row is taken out.
        modality: Which; None for all the model reads.
        fill: What comes in their place; see `replacement`.

    Raises:
        InputError: The model reads no features, or not these.
    """
    found = modalities(model)
    if not found:
        raise InputError(f"{type(model).__name__} reads no features of items: there is no modality to remove.")
    if modality is not None and modality not in found:
        raise InputError(f"modality={modality!r} is not read by this {type(model).__name__}.{nearest(modality, found)}")
    for name in found if modality is None else [modality]:
        table = model.get_buffer(f"{PREFIX}{name}")
        table[items] = replacement(table, items, fill)
