"""Normalisation layers hold statistics of what passes through them in training: whether they may, is a choice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def frozen_norms(model: nn.Module, frozen: bool = True) -> Iterator[None]:
    """Within, batch normalisation keeps its running statistics, whatever mode the model is put into.

    Training on images that must go moves running means and variances towards them, which no loss asked for.
    """
    layers = [m for m in model.modules() if isinstance(m, _BatchNorm)] if frozen else []
    for layer in layers:
        layer.eval()
        layer.train = _stay(layer)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in layers:
            del layer.train


def _stay(layer: nn.Module):  # type: ignore[no-untyped-def]
    return lambda mode=True: layer
