"""IHL: values, gradient by hand, and where the mass goes, in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from toys import both, free_view, gradient, random_logits, step_of

from expunge.errors import InputError
from expunge.language.methods.ga import ga
from expunge.language.methods.ihl import IHL, ihl

LENGTHS, STARTS = [4, 6, 3], [2, 1, 1]


def rows(count: int, seed: int, size: int = 9) -> tuple[Tensor, Tensor]:
    """[count, size] logits and [count] labels."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(count, size, generator=generator, dtype=torch.float64)
    return logits.requires_grad_(), torch.randint(size, (count,), generator=generator)


def by_hand(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """p, p_t, p_* and the place of *, written down without gather or topk."""
    p = logits.detach().softmax(-1)
    true = torch.stack([row[t] for row, t in zip(p, labels, strict=True)])
    rest = p.clone()
    for row, t in zip(rest, labels, strict=True):
        row[t] = -1
    return p, true, rest.amax(-1), rest.argmax(-1)


def test_uniform_is_1_the_label_alone_2_another_token_alone_0() -> None:
    labels = torch.tensor([3, 0])
    flat = torch.zeros(2, 9, dtype=torch.float64)
    torch.testing.assert_close(ihl(flat, labels), torch.ones(2).double(), rtol=0, atol=1e-15)
    sure = flat.clone().scatter(-1, labels[:, None], 1e3)
    assert ihl(sure, labels).tolist() == [2, 2]
    wrong = flat.clone().scatter(-1, labels[:, None] + 1, 1e3)
    assert ihl(wrong, labels).tolist() == [0, 0]


def test_value_is_one_plus_the_label_minus_the_best_other() -> None:
    """Also where the label itself is the most likely token, and never outside [0, 2]."""
    logits, labels = rows(200, 0)
    _, true, other, _ = by_hand(logits, labels)
    assert {bool(x) for x in true > other} == {True, False}
    losses = ihl(logits, labels).detach()
    torch.testing.assert_close(losses, 1 + true - other, rtol=0, atol=1e-12)
    assert float(losses.min()) >= 0
    assert float(losses.max()) <= 2


def test_gradient_is_the_formula() -> None:
    """At t p_t (1 - p_t + p_*), at * -p_* (1 + p_t - p_*), elsewhere p_v (p_* - p_t)."""
    logits, labels = rows(200, 1)
    (grad,) = torch.autograd.grad(ihl(logits, labels).sum(), logits)
    p, true, other, place = by_hand(logits, labels)
    expected = p * (other - true)[:, None]
    expected = expected.scatter(-1, labels[:, None], (true * (1 - true + other))[:, None])
    expected = expected.scatter(-1, place[:, None], (-other * (1 + true - other))[:, None])
    torch.testing.assert_close(grad, expected, rtol=0, atol=1e-12)


def test_pull_on_the_label_fades_with_its_probability_where_ascent_keeps_pulling() -> None:
    """p_t = 1e-6: ascent's gradient at t is 1 - p_t, the hinge's at most 2 p_t. p_t = 1 - 1e-6: both vanish."""
    labels = torch.tensor([0])
    for logit, hinge, ascent in ((-13.8, 2e-6, 0.99), (16.0, 4e-6, 0.0)):
        logits = torch.tensor([[logit, 0.0, -1.0]], dtype=torch.float64, requires_grad=True)
        (ours,) = torch.autograd.grad(ihl(logits, labels).sum(), logits)
        (theirs,) = torch.autograd.grad(ga(logits.log_softmax(-1)[:, 0]).sum(), logits)
        assert 0 < ours[0, 0].item() < hinge
        assert abs(theirs[0, 0].item()) >= ascent


def test_descent_hands_the_mass_to_the_first_runner_up() -> None:
    """p = (.6, .2, .1, .06, .04): the label's mass goes to token 1; the others together change by less."""
    start = torch.tensor([[0.6, 0.2, 0.1, 0.06, 0.04]], dtype=torch.float64)
    logits, labels = start.log(), torch.tensor([0])
    for _ in range(400):
        logits.requires_grad_()
        (grad,) = torch.autograd.grad(ihl(logits, labels).sum(), logits)
        logits = (logits - 0.1 * grad).detach()
    change = (logits.softmax(-1) - start)[0]
    assert change[0] < -0.5
    assert change[1] > 0.6
    assert change[2:].abs().sum() < change[1] / 2


def test_a_shift_shared_by_a_positions_logits_changes_nothing() -> None:
    """So log-probabilities serve as well as logits."""
    logits, labels = rows(50, 2)
    shift = torch.linspace(-30, 30, 50, dtype=torch.float64)[:, None]
    torch.testing.assert_close(ihl(logits + shift, labels), ihl(logits, labels), rtol=0, atol=1e-12)
    torch.testing.assert_close(ihl(logits.log_softmax(-1), labels), ihl(logits, labels), rtol=0, atol=1e-12)


def test_padding_changes_nothing_and_tokens_count_alike() -> None:
    """3 rows of 2, 5 and 2 labels: the mean runs over the 9 tokens, whatever stands beside them."""
    plain = random_logits(3, 6, 3)
    wide = torch.cat([plain, random_logits(3, 4, 4)], 1)
    views = [free_view(t, LENGTHS, STARTS) for t in (plain, wide)]
    losses = [IHL().forget_loss(step_of(forget=view)) for view in views]
    assert torch.equal(*losses)
    grads = [gradient(loss, view) for loss, view in zip(losses, views, strict=True)]
    assert torch.equal(grads[1][:, :6], grads[0])
    assert not grads[1][:, 6:].any()
    assert len(views[0].labels) == 9
    torch.testing.assert_close(losses[0], ihl(views[0].logits, views[0].labels).mean())


@pytest.mark.parametrize("kind", ["nll", "kl"])
def test_weights_multiply_their_sides(kind: str) -> None:
    forget, retain = (
        free_view(random_logits(3, 6, s), LENGTHS, STARTS, reference=random_logits(3, 6, s + 1)) for s in (8, 10)
    )
    step = step_of(forget=forget, retain=retain)
    plain = IHL(retain=kind)  # type: ignore[arg-type]
    total = both(IHL(3.0, kind, 0.5), step)  # type: ignore[arg-type]
    torch.testing.assert_close(total, 3 * plain.forget_loss(step) + 0.5 * plain.retain_loss(step))


def test_without_retain_it_is_the_hinge_alone_and_loads_no_retain_rows() -> None:
    assert IHL(retain="none").streams == ("forget",)
    assert IHL().streams == ("forget", "retain")


def test_bad_settings_are_one_sentence() -> None:
    with pytest.raises(InputError, match="ihl: retain='mse'; one of nll, kl, none"):
        IHL(retain="mse")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="ihl: forget_weight=-1 must not be below 0"):
        IHL(forget_weight=-1)
