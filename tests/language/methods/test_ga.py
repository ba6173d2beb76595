"""Gradient ascent and its KL ablation, on free logits in float64."""

from __future__ import annotations

import pytest
import torch
from toys import free_view, gradient, random_logits, step_of

from expunge.errors import InputError
from expunge.language.methods.ga import GA, ga

LENGTHS, STARTS = [4, 6], [2, 1]


def test_gradient_is_minus_the_fine_tuning_gradient_exactly() -> None:
    """L_GA = -nll_tok, so every gradient is the other one with its sign bit flipped."""
    view = free_view(random_logits(2, 6, 0), LENGTHS, STARTS)
    up, down = gradient(GA().forget_loss(step_of(forget=view)), view), gradient(view.nll, view)
    assert torch.equal(up, -down)
    assert float(up.abs().max()) > 0


def test_plain_function_is_the_token_log_likelihood() -> None:
    """ln of (1/2, 1/8): the mean is -2 ln 2, and pushing it down raises the NLL 2 ln 2."""
    logprobs = torch.tensor([0.5, 0.125], dtype=torch.float64).log()
    torch.testing.assert_close(ga(logprobs).mean(), -2 * torch.tensor(2.0, dtype=torch.float64).log())


def test_kl_on_forget_rows_leaves_the_gradient_at_the_reference() -> None:
    """KL(ref || theta) has no slope at theta = ref, so there the ablation pulls like plain ascent."""
    logits = random_logits(2, 6, 1)
    view = free_view(logits, LENGTHS, STARTS, reference=logits)
    held = gradient(GA(forget_kl_weight=5.0).forget_loss(step_of(forget=view)), view)
    torch.testing.assert_close(held, gradient(GA().forget_loss(step_of(forget=view)), view), rtol=0, atol=1e-14)


def test_kl_on_forget_rows_adds_its_weight_away_from_the_reference() -> None:
    view = free_view(random_logits(2, 6, 2), LENGTHS, STARTS, reference=random_logits(2, 6, 3))
    losses = [GA(forget_kl_weight=w).forget_loss(step_of(forget=view)) for w in (0.0, 1.0, 3.0)]
    kl = losses[1] - losses[0]
    assert kl.item() > 0.1
    torch.testing.assert_close(losses[2], losses[0] + 3 * kl)


def test_asks_for_a_reference_only_with_the_kl() -> None:
    step = step_of(forget=free_view(random_logits(2, 6, 4), LENGTHS, STARTS))
    GA().forget_loss(step)
    with pytest.raises(InputError, match="needs a reference"):
        GA(forget_kl_weight=1.0).forget_loss(step)


def test_a_negative_weight_is_refused() -> None:
    with pytest.raises(InputError, match=r"ga: forget_kl_weight=-1 must not be below 0\."):
        GA(forget_kl_weight=-1)
