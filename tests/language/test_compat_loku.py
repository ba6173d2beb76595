"""LoKU's published defects do what their names say is wrong, and expunge's own functions do not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from expunge.language.compat_loku import (
    ihl_guessing_softmax,
    importance_batch_mean,
    relative_importance_absolute_floor,
)
from expunge.language.fila import relative_importance
from expunge.language.methods.ihl import ihl


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_absolute_floor_turns_the_ratio_into_the_forget_information_alone() -> None:
    """I_f = I_r = 1e-8: 0.001 instead of 1. A retain set a hundred times more sensitive changes under 10%."""
    small = torch.full((2, 3), 1e-8, dtype=torch.float64)
    assert relative_importance_absolute_floor(small, small)[0, 0].item() == pytest.approx(0.001, rel=1e-2)
    assert relative_importance(small, small)[0][0, 0].item() == pytest.approx(1, rel=2e-3)
    forget = normal(4, 5, seed=0).square() * 1e-8
    retain = torch.where(torch.arange(5) < 2, 1e-8, 1e-6).double().expand(4, 5)
    theirs = relative_importance_absolute_floor(forget, retain)
    torch.testing.assert_close(theirs, 1e5 * forget, rtol=0.1, atol=0)
    ours, _ = relative_importance(forget, retain)
    torch.testing.assert_close(ours[:, 2:], forget[:, 2:] * 1e6, rtol=2e-3, atol=0)
    assert bool((ours[:, :2] > 50e6 * forget[:, :2]).all())


def test_the_guessed_softmax_takes_small_logits_for_probabilities() -> None:
    """Logits (.9, .8, 0): 1 + .9 - .8 is no hinge, shifting them by 1 gives another value, the slope is 1."""
    logits, labels = torch.tensor([[0.9, 0.8, 0.0]], dtype=torch.float64), torch.tensor([0])
    assert ihl_guessing_softmax(logits, labels).item() == pytest.approx(1.1)
    assert ihl_guessing_softmax(logits + 1, labels).item() == pytest.approx(ihl(logits, labels).item())
    assert abs(ihl(logits, labels).item() - 1.1) > 0.05
    logits.requires_grad_()
    (grad,) = torch.autograd.grad(ihl_guessing_softmax(logits, labels).sum(), logits)
    assert grad.tolist() == [[1, -1, 0]]


def test_one_position_outside_decides_for_all() -> None:
    inside, labels = torch.tensor([[0.9, 0.8, 0.0]], dtype=torch.float64), torch.tensor([0])
    both = torch.cat([inside, inside + 5])
    alone = ihl_guessing_softmax(inside, labels)[0]
    beside = ihl_guessing_softmax(both, labels.repeat(2))[0]
    assert abs(alone.item() - beside.item()) > 0.05
    torch.testing.assert_close(ihl(both, labels.repeat(2))[0], ihl(inside, labels)[0])


def test_batch_means_shrink_the_information_unevenly() -> None:
    """Two coordinates, gradients of one token each. Independent signs: batch 4 gives about a quarter of batch 1.

    Where all examples agree the value stays, so the ratio of the two coordinates is off by four.
    """
    gradients = torch.stack([normal(4000, seed=1).sign(), torch.ones(4000).double()], 1)
    tokens = torch.ones(4000, dtype=torch.long)
    single, four = (importance_batch_mean(gradients, tokens, batch) for batch in (1, 4))
    assert single.tolist() == [1, 1]
    assert four[1].item() == pytest.approx(1)
    assert four[0].item() == pytest.approx(0.25, rel=0.1)
