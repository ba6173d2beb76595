"""WGA: value, slope and limits, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from toys import both, free_view, gradient, random_logits, step_of

from expunge.errors import InputError
from expunge.language.methods.ga import GA
from expunge.language.methods.wga import WGA, wga

LENGTHS, STARTS = [4, 6], [2, 1]


def test_beta_zero_is_gradient_ascent() -> None:
    """w = p^0 = 1: value and gradient of the token mean of log p."""
    view = free_view(random_logits(2, 6, 0), LENGTHS, STARTS)
    step = step_of(forget=view)
    ours, ascent = WGA(beta=0.0).forget_loss(step), GA().forget_loss(step)
    assert torch.equal(ours, ascent)
    assert torch.equal(gradient(ours, view), gradient(ascent, view))


@pytest.mark.parametrize("beta", [0.3, 1.0, 4.0])
def test_the_slope_is_the_weight_times_ascent(beta: float) -> None:
    """d/dz of p^b log p with the weight held fixed is p^b (e_y - p), averaged over the labelled tokens."""
    view = free_view(random_logits(2, 6, 1), LENGTHS, STARTS)
    found = gradient(WGA(beta=beta).forget_loss(step_of(forget=view)), view)[view._predicts]
    p = view.logits.softmax(-1).detach()
    true = torch.nn.functional.one_hot(view.labels, 7)
    weight = (p * true).sum(-1, keepdim=True) ** beta
    torch.testing.assert_close(found, weight * (true - p) / view.total_tokens, rtol=0, atol=1e-15)


def test_with_beta_one_it_descends_on_the_probability_itself() -> None:
    """p grad log p = grad p: the gradient of the mean token probability."""
    view = free_view(random_logits(2, 6, 2), LENGTHS, STARTS)
    found = gradient(WGA(beta=1.0).forget_loss(step_of(forget=view)), view)
    torch.testing.assert_close(found, gradient(view.per_token(view.token_logprobs.exp()), view), rtol=0, atol=1e-15)


@pytest.mark.parametrize("beta", [0.5, 1.0, 3.0])
def test_it_is_bounded_and_fades(beta: float) -> None:
    """p^b log p is lowest at p = e^(-1/b), where it is -1/(e b); its slope goes to 0 as p does, ascent's to 1."""
    logp = torch.linspace(-60, 0, 60001, dtype=torch.float64)
    losses = wga(logp, beta)
    assert losses.min().item() == pytest.approx(-1 / (math.e * beta), rel=1e-6)
    assert logp[losses.argmin()].item() == pytest.approx(-1 / beta, abs=2e-3)
    z = torch.tensor([-40.0], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(wga(-torch.nn.functional.softplus(-z), beta).sum(), z)
    assert 0 < slope.item() < math.exp(-40 * beta) * 1.01


def test_weights_multiply_their_sides() -> None:
    forget, retain = (free_view(random_logits(2, 6, s), LENGTHS, STARTS) for s in (3, 4))
    step = step_of(forget=forget, retain=retain)
    total = both(WGA(forget_weight=3.0, retain_weight=0.5), step)
    torch.testing.assert_close(total, 3 * WGA().forget_loss(step) + 0.5 * retain.nll)
    assert WGA(retain="none").streams == ("forget",)


@pytest.mark.parametrize("name", ["beta", "forget_weight", "retain_weight"])
def test_a_negative_number_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"wga: {name}=-1.0 must not be below 0"):
        WGA(**{name: -1.0})
