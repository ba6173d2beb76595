"""NPO: value, gradient, limits and its slow divergence, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from toys import both, free_view, gradient, random_logits, step_of

from expunge.errors import InputError
from expunge.language.methods.npo import NPO, npo

LENGTHS, STARTS = [4, 6, 3], [2, 1, 1]


def sums(seed: int) -> Tensor:
    """[5] negative log-likelihoods of whole answers."""
    return torch.rand(5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 20


def slope(nll_sum: Tensor, reference: Tensor, beta: float) -> Tensor:
    """-dL/dS of each sequence."""
    S = nll_sum.clone().requires_grad_()
    (grad,) = torch.autograd.grad(npo(S, reference, beta).sum(), S)
    return -grad


@pytest.mark.parametrize("beta", [1e-3, 0.1, 1.0, 7.0])
def test_at_the_reference(beta: float) -> None:
    """theta = ref: L = (2/beta) ln 2, and the gradient is that of ascent on the sequence sums."""
    logits = random_logits(3, 6, 0)
    view = free_view(logits, LENGTHS, STARTS, reference=logits)
    loss = NPO(beta=beta, retain="none").forget_loss(step_of(forget=view))
    assert loss.item() == pytest.approx(2 / beta * math.log(2), rel=1e-12)
    ascent = gradient(-view.nll_sum.mean(), view)
    torch.testing.assert_close(gradient(loss, view), ascent, rtol=0, atol=1e-15)


@pytest.mark.parametrize("beta", [0.1, 0.5, 3.0])
def test_gradient_is_weighted_ascent(beta: float) -> None:
    """grad L = -mean W grad S with W = 2 sigmoid(-beta r) = 2 pi^beta / (pi^beta + pi_ref^beta)."""
    view = free_view(random_logits(3, 6, 1), LENGTHS, STARTS, reference=random_logits(3, 6, 2))
    S, S_ref = view.nll_sum, view.reference.nll_sum
    W = (2 * (-beta * S).exp() / ((-beta * S).exp() + (-beta * S_ref).exp())).detach()
    loss = NPO(beta=beta).forget_loss(step_of(forget=view))
    torch.testing.assert_close(gradient(loss, view), gradient(-(W * S).mean(), view), rtol=0, atol=1e-15)


def test_beta_to_zero_is_gradient_ascent_on_sums() -> None:
    """L - (2/beta) ln 2 -> -r, with an error of order beta r^2 (here beta = 1e-6, |r| < 20)."""
    S, S_ref = sums(0), sums(1)
    torch.testing.assert_close(slope(S, S_ref, 1e-6), torch.ones(5).double(), rtol=0, atol=2e-5)
    rest = npo(S, S_ref, 1e-6) - 2e6 * math.log(2)
    torch.testing.assert_close(rest, -(S - S_ref), rtol=0, atol=1e-6 * 20**2)
    close = sums(2) * 1e-2
    torch.testing.assert_close(slope(close, torch.zeros(5).double(), 1e-6), torch.ones(5).double(), rtol=1e-6, atol=0)


def test_large_beta_is_a_hinge() -> None:
    """beta = 10: forgotten rows (r > 3) have W = 2 sigmoid(-30) < 1e-12; rows above ref have 1 < W < 2."""
    r = torch.tensor([3.01, 5.0, -0.01, -0.2, -2.0], dtype=torch.float64)
    W = slope(10 + r, torch.full((5,), 10.0).double(), 10.0)
    assert float(W[:2].max()) < 1e-12
    assert bool(((W[2:] > 1) & (W[2:] < 2)).all())


def test_at_least_zero_and_falling() -> None:
    r = torch.linspace(-50, 200, 500, dtype=torch.float64)
    losses = npo(r, torch.zeros_like(r), 0.5)
    assert float(losses.min()) >= 0
    assert bool((losses.diff() < 0).all())


def test_diverges_logarithmically_where_ascent_diverges_linearly() -> None:
    """Two classes with logit z, p = sigmoid(z): slow by the exponential of beta.

    Far out p ~ e^z. Ascent: dz/dt = -lr (1 - p) -> -lr, so 500 more steps subtract 500 lr from log p. NPO:
    dz/dt = -lr W with W ~ 2 (p / p_ref)^beta, so e^(-beta z) grows linearly in t and doubling t subtracts
    (ln 2) / beta.
    """
    lr, beta = 1.0, 1.0
    paths = {}
    for name in ("ga", "npo"):
        z = torch.tensor([0.0], dtype=torch.float64, requires_grad=True)
        reference = math.log(2) * torch.ones(1, dtype=torch.float64)
        path = []
        for _ in range(1000):
            S = torch.nn.functional.softplus(-z)
            loss = (-S if name == "ga" else npo(S, reference, beta)).sum()
            (grad,) = torch.autograd.grad(loss, z)
            z = (z - lr * grad).detach().requires_grad_()
            path.append(-S.item())
        paths[name] = path
    assert paths["ga"][-1] - paths["ga"][499] == pytest.approx(-500 * lr, rel=1e-3)
    assert paths["npo"][-1] - paths["npo"][499] == pytest.approx(-math.log(2) / beta, rel=0.05)


def test_a_shift_shared_by_all_logits_changes_nothing() -> None:
    ours, theirs = random_logits(3, 6, 3), random_logits(3, 6, 4)
    shift = torch.linspace(-4, 4, 18, dtype=torch.float64).view(3, 6, 1)
    views = [free_view(t, LENGTHS, STARTS, reference=theirs) for t in (ours, ours + shift)]
    losses = [NPO().forget_loss(step_of(forget=view)) for view in views]
    torch.testing.assert_close(losses[0], losses[1], rtol=0, atol=1e-12)
    grads = [gradient(loss, view) for loss, view in zip(losses, views, strict=True)]
    torch.testing.assert_close(grads[0], grads[1], rtol=0, atol=1e-14)


def test_padding_changes_nothing() -> None:
    ours, theirs = random_logits(3, 6, 5), random_logits(3, 6, 6)
    wide = [torch.cat([t, random_logits(3, 4, 7)], 1) for t in (ours, theirs)]
    views = [free_view(a, LENGTHS, STARTS, reference=b) for a, b in ((ours, theirs), wide)]
    losses = [NPO().forget_loss(step_of(forget=view)) for view in views]
    assert torch.equal(*losses)
    grads = [gradient(loss, view) for loss, view in zip(losses, views, strict=True)]
    assert torch.equal(grads[1][:, :6], grads[0])
    assert not grads[1][:, 6:].any()


def test_retain_none_is_pure_npo_and_loads_no_retain_rows() -> None:
    assert NPO(retain="none").streams == ("forget",)
    assert NPO(retain="kl").streams == NPO().streams == ("forget", "retain")


@pytest.mark.parametrize("kind", ["nll", "kl"])
def test_weights_multiply_their_sides(kind: str) -> None:
    forget, retain = (
        free_view(random_logits(3, 6, s), LENGTHS, STARTS, reference=random_logits(3, 6, s + 1)) for s in (8, 10)
    )
    step = step_of(forget=forget, retain=retain)
    plain = NPO(retain=kind)  # type: ignore[arg-type]
    total = both(NPO(forget_weight=3.0, retain=kind, retain_weight=0.5), step)  # type: ignore[arg-type]
    torch.testing.assert_close(total, 3 * plain.forget_loss(step) + 0.5 * plain.retain_loss(step))


@pytest.mark.parametrize("beta", [0.0, -0.1, math.nan])
def test_beta_must_be_above_zero(beta: float) -> None:
    with pytest.raises(InputError, match=r"npo: beta=.* must be above 0"):
        NPO(beta=beta)


def test_without_a_reference_it_is_refused() -> None:
    with pytest.raises(InputError, match="needs a reference"):
        NPO().forget_loss(step_of(forget=free_view(random_logits(3, 6, 0), LENGTHS, STARTS)))
