"""SimNPO: length normalisation, gradient weight and margin, in float64."""

from __future__ import annotations

import pytest
import torch
from toys import free_view, gradient, random_logits, step_of

from expunge.errors import InputError
from expunge.language.methods.npo import npo
from expunge.language.methods.simnpo import SimNPO, simnpo

LENGTHS, STARTS = [4, 6, 3], [2, 1, 1]


def test_value_by_hand() -> None:
    """beta = 1, Sbar = ln 3, gamma = 0: sigmoid(ln 3) = 3/4, so L = -2 ln(3/4)."""
    mean = torch.tensor([3.0], dtype=torch.float64).log()
    torch.testing.assert_close(simnpo(mean, 1.0), -2 * torch.tensor([0.75], dtype=torch.float64).log())


def test_repeating_an_answer_leaves_the_loss() -> None:
    """Two labelled tokens with log-probabilities a and b, or the same two twice: Sbar is the same."""
    once = random_logits(1, 3, 0)
    twice = torch.cat([once[:, :2], once[:, :2], once[:, 2:]], 1)
    views = [free_view(once, [3], [1]), free_view(twice, [5], [1])]
    ids = views[0].input_ids
    views[1].input_ids = torch.cat([ids[:, :1], ids[:, 1:], ids[:, 1:]], 1)
    losses = [SimNPO().forget_loss(step_of(forget=view)) for view in views]
    torch.testing.assert_close(losses[0], losses[1], rtol=0, atol=1e-15)
    assert views[1].nll_sum.item() == pytest.approx(2 * views[0].nll_sum.item())


@pytest.mark.parametrize(("beta", "gamma"), [(2.5, 0.0), (4.5, 0.0), (1.0, 0.7)])
def test_gradient_is_ascent_weighted_by_w(beta: float, gamma: float) -> None:
    """grad L = -mean w grad S with w = 2 sigmoid(-beta (Sbar - gamma)) / |y|.

    At gamma = 0, w = 2 p^(beta/|y|) / (1 + p^(beta/|y|)) / |y|.
    """
    view = free_view(random_logits(3, 6, 1), LENGTHS, STARTS)
    S, size = view.nll_sum, view.lengths
    w = (2 * torch.sigmoid(-beta * (S / size - gamma)) / size).detach()
    if gamma == 0:
        power = (-S * beta / size).exp().detach()
        torch.testing.assert_close(w, 2 * power / (1 + power) / size)
    loss = SimNPO(beta=beta, gamma=gamma, forget_weight=1.0).forget_loss(step_of(forget=view))
    torch.testing.assert_close(gradient(loss, view), gradient(-(w * S).mean(), view), rtol=0, atol=1e-15)


def test_margin_only_shifts_the_argument() -> None:
    mean = torch.linspace(0, 5, 11, dtype=torch.float64)
    assert torch.equal(simnpo(mean, 2.5, gamma=0.5), simnpo(mean - 0.5, 2.5))


def test_it_is_npo_on_means_against_the_margin() -> None:
    mean = torch.linspace(0, 5, 11, dtype=torch.float64)
    assert torch.equal(simnpo(mean, 2.5, gamma=0.5), npo(mean, torch.full_like(mean, 0.5), 2.5))


def test_needs_no_reference() -> None:
    view = free_view(random_logits(3, 6, 2), LENGTHS, STARTS)
    assert SimNPO().forget_loss(step_of(forget=view)).isfinite()


@pytest.mark.parametrize("wrong", [{"beta": 0.0}, {"gamma": -0.1}, {"forget_weight": -1.0}])
def test_out_of_range(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match=f"simnpo: {next(iter(wrong))}="):
        SimNPO(**wrong)
