"""SatImp: value, slope and limits, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from toys import both, free_view, gradient, random_logits, step_of

from expunge.errors import InputError
from expunge.language.methods.ga import GA
from expunge.language.methods.satimp import SatImp, satimp
from expunge.language.methods.wga import wga

LENGTHS, STARTS = [4, 6], [2, 1]


def test_without_exponents_it_is_gradient_ascent() -> None:
    view = free_view(random_logits(2, 6, 0), LENGTHS, STARTS)
    step = step_of(forget=view)
    ours, ascent = SatImp(beta1=0.0, beta2=0.0, forget_weight=1.0).forget_loss(step), GA().forget_loss(step)
    assert torch.equal(ours, ascent)
    assert torch.equal(gradient(ours, view), gradient(ascent, view))


def test_without_importance_it_is_wga() -> None:
    logp = -torch.rand(20, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 5
    torch.testing.assert_close(satimp(logp, 2.5, 0.0), wga(logp, 2.5), rtol=1e-14, atol=0)


def test_by_hand() -> None:
    """p = 1/4, b1 = 2, b2 = 1: w = (1/16)(3/4) = 3/64 and L = -(3/64) ln 4; 0 for a certain token."""
    logp = torch.tensor([-math.log(4), 0.0], dtype=torch.float64)
    losses = satimp(logp, 2.0, 1.0)
    assert losses[0].item() == pytest.approx(-3 / 64 * math.log(4), rel=1e-14)
    assert losses[1].item() == 0


@pytest.mark.parametrize(("beta1", "beta2"), [(5.0, 1.0), (0.5, 2.0)])
def test_the_slope_is_the_weight_times_ascent(beta1: float, beta2: float) -> None:
    """p^b1 (1-p)^b2 (e_y - p) on the logits, averaged over the labelled tokens; none through the weight."""
    view = free_view(random_logits(2, 6, 1), LENGTHS, STARTS)
    method = SatImp(beta1=beta1, beta2=beta2, forget_weight=1.0)
    found = gradient(method.forget_loss(step_of(forget=view)), view)[view._predicts]
    p = view.logits.softmax(-1).detach()
    true = torch.nn.functional.one_hot(view.labels, 7)
    py = (p * true).sum(-1, keepdim=True)
    expected = py**beta1 * (1 - py) ** beta2 * (true - p) / view.total_tokens
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-15)


def test_the_weight_peaks_between_forgotten_and_certain() -> None:
    """d/dp [b1 ln p + b2 ln(1-p)] = 0 at p = b1 / (b1 + b2)."""
    p = torch.linspace(0.001, 0.999, 9981, dtype=torch.float64)
    weight = satimp(p.log(), 5.0, 1.0) / p.log()
    assert p[weight.argmax()].item() == pytest.approx(5 / 6, abs=2e-4)


def test_an_almost_certain_token_keeps_its_weight_in_single_precision() -> None:
    """log p = -1e-9: 1 - p is 1e-9 and not 0, as 1 - exp(log p) would have it."""
    logp = torch.tensor([-1e-9])
    assert (1 - logp.exp()).item() == 0
    assert satimp(logp, 5.0, 1.0).item() == pytest.approx(-1e-18, rel=1e-5)


def test_weights_multiply_their_sides() -> None:
    forget, retain = (free_view(random_logits(2, 6, s), LENGTHS, STARTS) for s in (3, 4))
    step = step_of(forget=forget, retain=retain)
    total = both(SatImp(forget_weight=3.0, retain_weight=0.5), step)
    torch.testing.assert_close(total, 30 * SatImp().forget_loss(step) + 0.5 * retain.nll)
    assert SatImp(retain="none").streams == ("forget",)


@pytest.mark.parametrize("name", ["beta1", "beta2", "forget_weight", "retain_weight"])
def test_a_negative_number_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"satimp: {name}=-1.0 must not be below 0"):
        SatImp(**{name: -1.0})
