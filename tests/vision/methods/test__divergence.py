"""Divergences against their definitions, and where they are nothing."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from expunge.vision.methods._divergence import js_divergence, kl_divergence
from tiny_vision import draw

P, Q = draw(6, 5, seed=1), draw(6, 5, seed=2)


def test_kl_is_that_of_the_softmax_at_a_temperature() -> None:
    for T in (1.0, 4.0):
        expected = F.kl_div((Q / T).log_softmax(1), (P / T).softmax(1), reduction="none").sum(1)
        torch.testing.assert_close(kl_divergence(P, Q, temperature=T), expected)


def test_of_several_labels_it_is_the_sum_of_bernoullis() -> None:
    """Two outcomes each: KL = p ln(p/q) + (1-p) ln((1-p)/(1-q)); one label is a softmax of its logit and 0."""
    p, q = P.sigmoid(), Q.sigmoid()
    expected = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).sum(1)
    torch.testing.assert_close(kl_divergence(P, Q, several=True), expected)
    pair = [torch.stack([x[:, 0], torch.zeros(6, dtype=x.dtype)], 1) for x in (P, Q)]
    torch.testing.assert_close(kl_divergence(P[:, :1], Q[:, :1], several=True), kl_divergence(*pair))


def test_at_equal_logits_both_are_zero_and_flat() -> None:
    """Divergences are at their minimum there: the gradient of a step away from it is zero."""
    for several in (False, True):
        q = P.clone().requires_grad_(True)
        value = kl_divergence(P, q, several).sum()
        value.backward()
        assert value.item() == 0
        assert float(q.grad.abs().max()) < 1e-14
    assert float(js_divergence(P, P).abs().max()) < 1e-14


def test_js_is_symmetric_and_at_most_ln_2() -> None:
    torch.testing.assert_close(js_divergence(P, Q), js_divergence(Q, P))
    sure = torch.tensor([[100.0, 0.0]]), torch.tensor([[0.0, 100.0]])
    assert float(js_divergence(*sure)[0]) == pytest.approx(math.log(2))
    p, q = P.softmax(1), Q.softmax(1)
    m = (p + q) / 2
    expected = ((p * (p / m).log()).sum(1) + (q * (q / m).log()).sum(1)) / 2
    torch.testing.assert_close(js_divergence(P, Q), expected)
