"""Gradient difference: limits and weights, on free logits in float64."""

from __future__ import annotations

import pytest
import torch
from toys import both, free_view, gradient, random_logits, step_of

from expunge.errors import InputError
from expunge.language.methods.ga import GA
from expunge.language.methods.grad_diff import GradDiff

LENGTHS, STARTS = [4, 6], [2, 1]


def test_forget_and_retain_alike_it_is_zero_with_zero_gradient() -> None:
    """-nll_tok(B) + nll_tok(B) = 0 for every model, so nothing moves."""
    view = free_view(random_logits(2, 6, 0), LENGTHS, STARTS)
    total = both(GradDiff(), step_of(forget=view, retain=view))
    assert total.item() == 0
    assert not gradient(total, view).any()


def test_terms_by_hand() -> None:
    """Uniform logits over 7 tokens: nll_tok = ln 7 on both sides, so L = (alpha - gamma) ln 7."""
    forget = free_view(torch.zeros(2, 6, 7, dtype=torch.float64), LENGTHS, STARTS)
    retain = free_view(torch.zeros(2, 6, 7, dtype=torch.float64), LENGTHS, STARTS, ids=2)
    total = both(GradDiff(forget_weight=0.5, retain_weight=3.0), step_of(forget=forget, retain=retain))
    torch.testing.assert_close(total, 2.5 * torch.tensor(7.0, dtype=torch.float64).log())


def test_retain_weight_zero_is_gradient_ascent() -> None:
    forget, retain = (free_view(random_logits(2, 6, s), LENGTHS, STARTS) for s in (1, 2))
    step = step_of(forget=forget, retain=retain)
    total = both(GradDiff(retain_weight=0.0), step)
    assert torch.equal(gradient(total, forget), gradient(GA().forget_loss(step), forget))
    assert not gradient(total, retain).any()


def test_a_negative_weight_is_refused() -> None:
    with pytest.raises(InputError, match=r"grad-diff: retain_weight=-0\.5 must not be below 0\."):
        GradDiff(retain_weight=-0.5)
