"""The published defects do what their names say is wrong, and the methods of expunge do not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from expunge.language.compat import (
    kl_raw_logits_muse,
    kl_unmasked_open_unlearning,
    npo_raw_logits_muse,
    npo_token_mean_wmdp,
    rmu_unmasked_wmdp,
    simnpo_unshifted_count_simnpo,
)
from expunge.language.methods._retain import kl_positions
from expunge.language.methods.npo import npo
from expunge.language.methods.simnpo import simnpo


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_unmasked_kl_changes_with_padding() -> None:
    """Two rows of four positions, padded to eight with positions on which the models agree: half the value."""
    theirs, ours, agreed = normal(2, 4, 7, seed=0), normal(2, 4, 7, seed=1), normal(2, 4, 7, seed=2)
    plain = kl_unmasked_open_unlearning(theirs, ours)
    padded = kl_unmasked_open_unlearning(torch.cat([theirs, agreed], 1), torch.cat([ours, agreed], 1))
    torch.testing.assert_close(padded, plain / 2)
    by_position = kl_positions(theirs.log_softmax(-1), ours.log_softmax(-1))
    torch.testing.assert_close(plain, by_position.mean())  # the mean is right where every position is a label


def test_raw_logit_kl_pulls_at_the_reference_and_has_no_floor() -> None:
    """sum exp(l_ref) (l_ref - l) / B: slope -exp(l_ref) / B at l = l_ref; raising all logits by 10 lowers it."""
    theirs = normal(2, 3, 7, seed=3)
    ours = theirs.clone().requires_grad_()
    loss = kl_raw_logits_muse(theirs, ours)
    assert loss.item() == 0
    (grad,) = torch.autograd.grad(loss, ours)
    torch.testing.assert_close(grad, -theirs.exp() / 2)
    assert kl_raw_logits_muse(theirs, theirs + 10).item() == pytest.approx(-10 * theirs.exp().sum().item() / 2)
    proper = kl_positions(theirs.log_softmax(-1), (theirs + 10).log_softmax(-1))
    assert proper.abs().max().item() < 1e-14  # the distribution is the same one


def test_raw_logit_npo_moves_logits_but_no_probability() -> None:
    """On a free table every logit gets the same gradient, so 50 steps shift all of them and change nothing."""
    theirs = normal(2, 3, 7, seed=4)
    ours = theirs.clone().requires_grad_()
    for _ in range(50):
        (grad,) = torch.autograd.grad(npo_raw_logits_muse(theirs, ours) * ours.numel(), ours)
        ours = (ours - 0.2 * grad).detach().requires_grad_()
    assert (ours - theirs).max().item() < -5
    change = (ours.softmax(-1) - theirs.softmax(-1)).abs().max()
    assert change.item() < 1e-14


def test_raw_logit_npo_sees_a_shift_that_changes_no_distribution() -> None:
    theirs, ours = normal(2, 3, 7, seed=5), normal(2, 3, 7, seed=6)
    losses = [npo_raw_logits_muse(theirs, ours + shift).item() for shift in (0.0, 2.0)]
    assert losses[1] > losses[0] + 1
    sums = [-(ours + shift).log_softmax(-1)[..., 0].sum(-1) for shift in (0.0, 2.0)]
    reference = -theirs.log_softmax(-1)[..., 0].sum(-1)
    torch.testing.assert_close(npo(sums[0], reference), npo(sums[1], reference))


def test_token_mean_npo_is_gradient_ascent_in_all_but_name() -> None:
    """500 tokens, r = 100 nats forgotten, beta = 0.05: the argument is 0.05 * 100/500 = 0.01.

    Its slope is then 2 sigmoid(-0.01) = 0.995 of ascent's; the paper's is 2 sigmoid(-5) = 0.013.
    """
    reference, tokens = torch.tensor([50.0], dtype=torch.float64), torch.tensor([500])
    S = torch.tensor([150.0], dtype=torch.float64, requires_grad=True)
    (mean,) = torch.autograd.grad(npo_token_mean_wmdp(S, reference, tokens, 0.05), S)
    (paper,) = torch.autograd.grad(npo(S, reference, 0.05).sum(), S)
    assert mean.item() * 500 == pytest.approx(-0.995, abs=1e-3)
    assert paper.item() == pytest.approx(-0.0134, abs=1e-4)


def test_token_mean_npo_weighs_forgotten_rows_like_others() -> None:
    """One row forgotten, one not: the same slope for both, where the paper's differ a thousandfold."""
    reference, tokens = torch.zeros(2, dtype=torch.float64), torch.tensor([10, 10])
    S = torch.tensor([0.0, 80.0], dtype=torch.float64, requires_grad=True)
    (mean,) = torch.autograd.grad(npo_token_mean_wmdp(S, reference, tokens, 0.1), S)
    (paper,) = torch.autograd.grad(npo(S, reference, 0.1).sum(), S)
    assert mean[0].item() == mean[1].item()
    assert (paper[0] / paper[1]).item() > 1000


def test_unshifted_count_differs_when_the_first_token_is_labelled() -> None:
    """Three tokens with prompt: 2 labels either way. Plain text: 3 labels are counted, 2 are predicted."""
    S = torch.tensor([4.0, 4.0], dtype=torch.float64)
    labels = torch.tensor([[-100, 5, 6], [4, 5, 6]])
    theirs = simnpo_unshifted_count_simnpo(S, labels, beta=2.5)
    ours = simnpo(S / 2, beta=2.5)
    assert theirs[0].item() == ours[0].item()
    assert theirs[1].item() == pytest.approx(simnpo(S[1:] / 3, 2.5).item())
    assert theirs[1].item() > ours[1].item()


def test_unmasked_rmu_changes_with_padding_and_hangs_on_the_first_token() -> None:
    """A first token at distance 300 in one coordinate makes up nearly all of the mean."""
    states, target = normal(2, 4, 8, seed=7), torch.zeros(8, dtype=torch.float64)
    padded = torch.cat([states, torch.full((2, 2, 8), 3.0, dtype=torch.float64)], 1)
    assert rmu_unmasked_wmdp(padded, target).item() > 1.5 * rmu_unmasked_wmdp(states, target).item()
    states[:, 0, 0] = 300.0
    assert (300**2 / (4 * 8)) / rmu_unmasked_wmdp(states, target).item() > 0.99
