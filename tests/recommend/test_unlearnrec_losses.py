"""UnlearnRec's terms: values on paper, invariances, extremes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from expunge.errors import InputError
from expunge.recommend.unlearnrec_losses import contrast, log_shares, preserving, unlearning


def square(seed: int, size: int = 6) -> Tensor:
    return torch.randn(size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_unlearning_is_log_2_at_zero_and_falls_with_each_score() -> None:
    assert float(unlearning(torch.zeros(4))) == pytest.approx(math.log(2))
    s = square(0)[0].requires_grad_()
    loss = unlearning(s)
    loss.backward()
    assert s.grad is not None
    assert torch.allclose(s.grad, torch.sigmoid(s.detach()) / len(s), atol=1e-12)  # above 0: lower score, lower loss
    assert float(loss.detach()) > 0
    assert float(unlearning(torch.tensor([-1e4]))) == 0.0
    assert float(unlearning(torch.tensor([1.0, -3.0]), "v2")) == -1.0


def test_log_shares_by_hand() -> None:
    """[[log 3, 0], [0, 0]]: user 0 gives its positive 3 of 4, user 1 one of 2; softplus(0) = log 2 likewise."""
    scores = torch.tensor([[math.log(3), 0.0], [0.0, 0.0]], dtype=torch.float64)
    assert torch.allclose(log_shares(scores, 1.0).exp(), torch.tensor([0.75, 0.5], dtype=torch.float64))
    soft = log_shares(scores, 1.0, "softplus").exp()
    assert float(soft[0]) == pytest.approx(math.log(4) / (math.log(4) + math.log(2)))  # = 2/3
    assert float(soft[1]) == pytest.approx(0.5)


def test_preserving_does_not_see_what_a_user_adds_to_all_items() -> None:
    s, p, t = square(0), square(1), 0.7
    moved = s + square(2)[:, :1]
    assert float(preserving(s, s, t)) == 0.0
    assert float(preserving(moved, p, t)) == pytest.approx(float(preserving(s, p, t)), rel=1e-12)
    assert float(preserving(s, p, t)) > 0.1


def test_preserving_is_a_sum_over_the_batch() -> None:
    s, p = square(0), square(1)
    expected = sum(
        (
            math.log(math.exp(s[k, k]) / sum(math.exp(x) for x in s[k].tolist()))
            - math.log(math.exp(p[k, k]) / sum(math.exp(x) for x in p[k].tolist()))
        )
        ** 2
        for k in range(len(s))
    )
    assert float(preserving(s, p, 1.0)) == pytest.approx(expected)


@pytest.mark.parametrize("kernel", ["exp", "softplus"])
def test_shares_are_finite_for_extreme_scores(kernel: str) -> None:
    s = (square(0) * 1e4).requires_grad_()
    preserving(s, square(1) * 1e4, 1.0, kernel).backward()  # type: ignore[arg-type]
    assert s.grad is not None
    assert bool(s.grad.isfinite().all())
    far = torch.full((2, 2), -1e3, dtype=torch.float64)
    assert torch.allclose(log_shares(far, 1.0, kernel).exp(), torch.full((2,), 0.5, dtype=torch.float64))  # type: ignore[arg-type]


def test_contrast_by_hand() -> None:
    """Orthogonal unit rows against themselves: log(e^(1/t) + (m - 1)) - 1/t; lengths do not matter."""
    rows = torch.eye(4, dtype=torch.float64) * torch.tensor([[1.0], [2.0], [0.5], [9.0]])
    for t in (1.0, 0.5):
        expected = math.log(math.exp(1 / t) + 3) - 1 / t
        assert float(contrast(rows, rows, t)) == pytest.approx(expected)


def test_contrast_is_lower_for_rows_that_belong_together() -> None:
    a = square(0)
    assert float(contrast(a, a + 0.01 * square(1))) < float(contrast(a, (a + 0.01 * square(1)).roll(1, 0)))


def test_contrast_of_untouched_nodes_has_no_slope() -> None:
    """All states are 0 at the start of pre-training: log m, and a gradient of 0, not of 0/0."""
    v = torch.zeros(3, 4, requires_grad=True)
    loss = contrast(torch.zeros(3, 4), v)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(math.log(3))
    assert v.grad is not None
    assert not bool(v.grad.any())


def test_contrast_needs_a_negative() -> None:
    with pytest.raises(InputError, match="1 row; InfoNCE needs at least two"):
        contrast(torch.ones(1, 3), torch.ones(1, 3))
