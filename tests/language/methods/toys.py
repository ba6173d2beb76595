"""Toys with free logits: the exact mathematics of a loss in float64, without a network in between."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from expunge.engine.method import Step
from expunge.language.encode import Batch
from expunge.language.forward import ForwardPass

VOCABULARY = 7


class Table(nn.Module):
    """A model whose parameters ARE its logits: one free number per row, position and token."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)


class FreeView(ForwardPass):
    """The lazy view over a table of logits [B, L, V] in float64."""

    @cached_property
    def _projected(self) -> tuple[Tensor, Tensor]:
        picked = self.model.logits[self._predicts]
        return picked, picked


class FrozenView:
    """Reference signals from a second table."""

    def __init__(self, view: FreeView) -> None:
        self.view = view

    def signal(self, name: str) -> Tensor:
        return self.view.signal(name).detach()


def free_view(
    logits: Tensor, lengths: list[int], starts: list[int], reference: Tensor | None = None, ids: int = 1
) -> FreeView:
    """A view of rows of given lengths whose labels begin at `starts`; `ids` seeds the token ids.

    Args:
        logits: [B, L, V] float64; L may exceed the longest row, the rest is padding.
        lengths: Real tokens of each row.
        starts: First labelled position of each row, at least 1.
        reference: [B, L, V] logits of the reference.
        ids: Seed of the token ids, which do not depend on L.
    """
    width = logits.shape[1]
    tokens = torch.zeros(len(lengths), width, dtype=torch.long)
    draw = torch.randint(VOCABULARY, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(ids))
    tokens[:, : max(lengths)] = draw
    position = torch.arange(width)
    mask = position < torch.tensor(lengths)[:, None]
    labelled = mask & (position >= torch.tensor(starts)[:, None])
    totals = (len(lengths), int(labelled.sum()))
    batch = Batch(tokens, mask, labelled)
    frozen = None if reference is None else FrozenView(FreeView(Table(reference), batch, totals))
    return FreeView(Table(logits.clone()), batch, totals, frozen)


def random_logits(rows: int, width: int, seed: int) -> Tensor:
    """[rows, width, V] standard normal logits in float64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, width, VOCABULARY, generator=generator, dtype=torch.float64)


def step_of(state: Mapping[str, Tensor] | None = None, seed: int = 0, **views: Any) -> Step:
    """One whole step over the given views."""
    tokens = {name: view.total_tokens for name, view in views.items()}
    return Step(0, seed, views, tokens, state or {})


def gradient(loss: Tensor, view: FreeView) -> Tensor:
    """Gradient of a loss with respect to a view's logits; zeros where it does not depend on them."""
    (found,) = torch.autograd.grad(loss, [view.model.logits], retain_graph=True, allow_unused=True)
    return torch.zeros_like(view.model.logits) if found is None else found


def both(method: Any, step: Step) -> Tensor:
    """The total loss of a method: its two sides added."""
    total = torch.zeros((), dtype=torch.float64)
    if method.has_forget:
        total = total + method.forget_loss(step)
    if method.has_retain:
        total = total + method.retain_loss(step)
    return total
