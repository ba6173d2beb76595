"""DPO of refusals over true answers: value, slope and symmetry, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from toys import FreeView, free_view, gradient, random_logits, step_of

from expunge.errors import InputError
from expunge.language.methods.dpo import DPO, dpo
from expunge.language.methods.npo import npo

LENGTHS, STARTS = [4, 6], [2, 1]


def pair(moved: bool) -> tuple[FreeView, FreeView]:
    """Views of refusals and true answers, at the reference or away from it."""
    win, lose = random_logits(2, 6, 0), random_logits(2, 6, 1)
    far = (random_logits(2, 6, 2), random_logits(2, 6, 3)) if moved else (win, lose)
    return (
        free_view(win, LENGTHS, STARTS, reference=far[0]),
        free_view(lose, LENGTHS, STARTS, reference=far[1], ids=2),
    )


@pytest.mark.parametrize("beta", [0.1, 2.0])
def test_at_the_reference(beta: float) -> None:
    """m = 0: the scaled loss is (2/beta) ln 2, the plain one ln 2; slopes 1 and beta/2.

    d/dm of -(2/beta) ln sigmoid(beta m) at 0 is -1, and dm = dS_l - dS_w = d log p(y_w) - d log p(y_l), so
    the gradient is mean(grad log p(y_l) - grad log p(y_w)).
    """
    win, lose = pair(moved=False)
    step = step_of(substitute=win, forget=lose)
    scaled, plain = (DPO(beta=beta, scaled=s).forget_loss(step) for s in (True, False))
    assert scaled.item() == pytest.approx(2 / beta * math.log(2), rel=1e-12)
    assert plain.item() == pytest.approx(math.log(2), rel=1e-12)
    for view, sign in ((lose, 1.0), (win, -1.0)):
        expected = sign * gradient(view.logprob.mean(), view)
        torch.testing.assert_close(gradient(scaled, view), expected, rtol=0, atol=1e-15)
        torch.testing.assert_close(gradient(plain, view), beta / 2 * expected, rtol=0, atol=1e-15)


def test_swapping_win_and_lose_flips_the_sign_of_m() -> None:
    """ln sigmoid(x) - ln sigmoid(-x) = x, so the scaled loss minus the swapped one is -2 m."""
    win, lose = pair(moved=True)
    S = [win.nll_sum, win.reference.nll_sum, lose.nll_sum, lose.reference.nll_sum]
    m = (S[2] - S[3]) - (S[0] - S[1])
    difference = dpo(*S, beta=0.3) - dpo(*S[2:], *S[:2], beta=0.3)
    torch.testing.assert_close(difference, -2 * m)
    assert m.abs().min().item() > 0.1


def test_with_a_refusal_that_stays_put_it_is_npo() -> None:
    S, S_ref = torch.linspace(0, 9, 4, dtype=torch.float64), torch.full((4,), 3.0, dtype=torch.float64)
    still = torch.full((4,), 5.0, dtype=torch.float64)
    assert torch.equal(dpo(still, still, S, S_ref, 0.7), npo(S, S_ref, 0.7))


def test_streams_and_ranges() -> None:
    assert DPO().streams == ("forget", "substitute", "retain")
    assert DPO(retain="none").streams == ("forget", "substitute")
    with pytest.raises(InputError, match="dpo: beta=0 must be above 0"):
        DPO(beta=0)


def test_without_a_reference_it_is_refused() -> None:
    win, lose = (free_view(random_logits(2, 6, s), LENGTHS, STARTS) for s in (0, 1))
    with pytest.raises(InputError, match="needs a reference"):
        DPO().forget_loss(step_of(substitute=win, forget=lose))
