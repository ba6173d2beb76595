"""KL minimisation on free logits in float64. The KL itself: test__retain.py."""

from __future__ import annotations

import torch
from toys import both, free_view, gradient, random_logits, step_of

from expunge.language.methods.ga import GA
from expunge.language.methods.kl_min import KLMin

LENGTHS, STARTS = [4, 6], [2, 1]


def test_at_the_reference_it_is_gradient_ascent() -> None:
    """The anchor has neither value nor slope at theta = ref."""
    logits = random_logits(2, 6, 0)
    forget = free_view(random_logits(2, 6, 1), LENGTHS, STARTS)
    retain = free_view(logits, LENGTHS, STARTS, reference=logits)
    step = step_of(forget=forget, retain=retain)
    total = both(KLMin(retain_weight=7.0), step)
    torch.testing.assert_close(total, GA().forget_loss(step), rtol=0, atol=1e-14)
    assert float(gradient(total, retain).abs().max()) < 1e-12


def test_value_by_hand() -> None:
    """Ascent -ln 7 on uniform forget logits, plus 2 KL.

    Retain: reference uniform over 7, theta with one logit at ln 8, so p = (8, 1, ..., 1) / 14 and
    KL = sum (1/7) ln((1/7) / p) = (1/7)(ln(1/4) + 6 ln 2) = (4/7) ln 2 at every labelled position.
    """
    zeros = torch.zeros(2, 6, 7, dtype=torch.float64)
    raised = zeros.clone()
    raised[..., 0] = torch.tensor(8.0, dtype=torch.float64).log()
    step = step_of(forget=free_view(zeros, LENGTHS, STARTS), retain=free_view(raised, LENGTHS, STARTS, reference=zeros))
    ln2, ln7 = torch.tensor([2.0, 7.0], dtype=torch.float64).log()
    torch.testing.assert_close(both(KLMin(retain_weight=2.0), step), -ln7 + 2 * 4 / 7 * ln2)
