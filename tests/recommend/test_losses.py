"""Forward BPR, reverse BPR and ascent as functions of the margin: identities, limits and slopes."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from expunge.recommend.losses import ascent, forward_bpr, reverse_bpr

Loss = Callable[[Tensor], Tensor]


def margins() -> Tensor:
    return torch.randn(200, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 4


def test_they_differ_by_the_margin() -> None:
    """softplus(d) - softplus(-d) = d, and reverse - ascent = softplus(d) + softplus(-d)."""
    d = margins()
    assert torch.allclose(reverse_bpr(d) - forward_bpr(d), d, atol=1e-12)
    assert torch.allclose(reverse_bpr(d) - ascent(d), reverse_bpr(d) + forward_bpr(d), atol=1e-12)


def test_the_sum_is_smallest_at_a_tie() -> None:
    """softplus(d) + softplus(-d) = 2 log 2 + 2 log cosh(d/2): above 2 log 2 unless d = 0, where each is log 2."""
    d = margins()
    total = reverse_bpr(d) + forward_bpr(d)
    assert torch.allclose(total, 2 * math.log(2) + 2 * torch.cosh(d / 2).log(), atol=1e-12)
    assert bool((total[d != 0] > 2 * math.log(2)).all())
    tie = torch.zeros(1, dtype=torch.float64)
    assert float(reverse_bpr(tie)) == float(forward_bpr(tie)) == pytest.approx(math.log(2), abs=1e-15)


@pytest.mark.parametrize(
    ("loss", "slope"),
    [
        (reverse_bpr, torch.sigmoid),
        (forward_bpr, lambda d: -torch.sigmoid(-d)),
        (ascent, lambda d: torch.sigmoid(-d)),
    ],
)
def test_slopes(loss: Loss, slope: Loss) -> None:
    """dL_F/ds_ui = sigmoid(d)/n >= 0 and dL_F/ds_uj = -sigmoid(d)/n for reverse BPR; the others by their formulas."""
    positive, negative = margins().requires_grad_(), margins().flip(0).requires_grad_()
    loss(positive - negative).mean().backward()
    expected = slope((positive - negative).detach()) / len(positive)
    assert positive.grad is not None
    assert negative.grad is not None
    assert torch.allclose(positive.grad, expected, atol=1e-12)
    assert torch.allclose(negative.grad, -expected, atol=1e-12)


@pytest.mark.parametrize("loss", [reverse_bpr, forward_bpr, ascent])
def test_finite_far_out(loss: Loss) -> None:
    d = torch.tensor([-1e4, 1e4], requires_grad=True)
    loss(d).sum().backward()
    assert d.grad is not None
    assert bool(loss(d).isfinite().all())
    assert bool(d.grad.isfinite().all())


def test_reverse_rests_where_ascent_runs_on() -> None:
    """On a pair that is already forgotten (d << 0) reverse BPR has no slope left, ascent has all of it."""
    slopes = []
    for loss in (reverse_bpr, ascent):
        d = torch.tensor(-20.0, requires_grad=True)
        loss(d).backward()
        slopes.append(float(d.grad))  # type: ignore[arg-type]
    assert slopes[0] < 1e-8
    assert slopes[1] > 1 - 1e-8
