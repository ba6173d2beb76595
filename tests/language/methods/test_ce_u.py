"""CE-U: its gradient by softmax algebra, its tie to unlikelihood, and the skipped tokens, in float64."""

from __future__ import annotations

import pytest
import torch
from toys import both, free_view, gradient, random_logits, step_of

from expunge.errors import InputError
from expunge.language.methods.ce_u import CEU, ce_u, places

LENGTHS, STARTS = [4, 6, 3], [2, 1, 2]  # 2, 5 and 1 labels


def test_value_and_gradient_by_softmax_algebra() -> None:
    """With q_i = p_i / (1 - p_y): L = H(q) - ln(1 - p_y); dL/dz_y = p_y, dL/dz_i = -p_y q_i."""
    z = random_logits(1, 8, 0)[0].requires_grad_()
    labels = torch.arange(8) % 7
    losses = ce_u(z, labels)
    (found,) = torch.autograd.grad(losses.sum(), z)
    p, true = z.detach().softmax(-1), torch.nn.functional.one_hot(labels, 7).bool()
    q = p.masked_fill(true, 0) / (1 - p[true])[:, None]
    entropy = -(q[~true] * q[~true].log()).view(8, 6).sum(-1)
    torch.testing.assert_close(losses.detach(), entropy - (1 - p[true]).log())
    torch.testing.assert_close(found, p[true][:, None] * (true.double() - q), rtol=0, atol=1e-15)


def test_its_gradient_is_that_of_unlikelihood() -> None:
    """d/dz of -ln(1 - p_y) is p_y / (1 - p_y) (e_y - p) = p - q."""
    z = random_logits(1, 8, 1)[0].requires_grad_()
    labels = torch.arange(8) % 7
    (ours,) = torch.autograd.grad(ce_u(z, labels).sum(), z)
    p_y = z.softmax(-1).gather(-1, labels[:, None])[:, 0]
    (unlikelihood,) = torch.autograd.grad(-(1 - p_y).log().sum(), z)
    torch.testing.assert_close(ours, unlikelihood, rtol=0, atol=1e-14)


def test_a_certain_token_is_pushed_with_slope_one() -> None:
    """p_y = 1 in single precision: -ln(1 - p_y) is infinite, this is not; the slope is p_y = 1."""
    z = torch.tensor([[200.0, 1.0, 0.0]], requires_grad=True)
    loss = ce_u(z, torch.tensor([0]))
    (found,) = torch.autograd.grad(loss.sum(), z)
    assert torch.isfinite(loss).all()
    assert found[0, 0].item() == 1
    torch.testing.assert_close(-found[0, 1:], torch.tensor([1.0, 0.0]).softmax(-1))


def test_a_forgotten_token_is_left_alone() -> None:
    z = torch.tensor([[-30.0, 1.0, 0.0]], dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad(ce_u(z, torch.tensor([0])).sum(), z)
    assert found.abs().max().item() < 1e-13


def test_places_in_the_answer() -> None:
    assert places(torch.tensor([0, 0, 1, 1, 1, 2])).tolist() == [0, 1, 0, 1, 2, 0]
    assert places(torch.tensor([], dtype=torch.long)).tolist() == []


def test_the_first_tokens_of_every_answer_are_left_alone() -> None:
    """2, 5 and 1 labels: without the first of each, the mean is over 1 + 4 + 0 = 5 tokens."""
    view = free_view(random_logits(3, 6, 2), LENGTHS, STARTS)
    step = step_of(forget=view)
    each = ce_u(view.logits, view.labels)
    torch.testing.assert_close(CEU(skip_first=0).forget_loss(step), each.sum() / 8)
    loss = CEU().forget_loss(step)
    torch.testing.assert_close(loss, each[[1, 3, 4, 5, 6]].sum() / 5)
    touched = gradient(loss, view)[view._predicts].abs().sum(-1) > 0
    assert touched.tolist() == [False, True, False, True, True, True, True, False]


def test_nothing_left_is_no_loss_and_no_division_by_zero() -> None:
    view = free_view(random_logits(3, 6, 3), LENGTHS, STARTS)
    loss = CEU(skip_first=9).forget_loss(step_of(forget=view))
    assert loss.item() == 0
    assert not gradient(loss, view).any()


def test_a_retain_term_is_added_with_its_weight() -> None:
    assert CEU().streams == ("forget",)
    forget, retain = (free_view(random_logits(3, 6, s), LENGTHS, STARTS) for s in (4, 5))
    step = step_of(forget=forget, retain=retain)
    total = both(CEU(retain="nll", retain_weight=0.5), step)
    torch.testing.assert_close(total, CEU().forget_loss(step) + 0.5 * retain.nll)


@pytest.mark.parametrize("name", ["skip_first", "retain_weight"])
def test_a_negative_number_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"ce-u: {name}=-1 must not be below 0"):
        CEU(**{name: -1})


def test_half_a_token_is_refused() -> None:
    with pytest.raises(InputError, match=r"ce-u: skip_first=0\.5 must be a whole number"):
        CEU(skip_first=0.5)  # type: ignore[arg-type]
