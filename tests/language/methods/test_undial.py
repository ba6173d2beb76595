"""UNDIAL: its target, its gradient and its fixed point, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from toys import FreeView, both, free_view, gradient, random_logits, step_of

from expunge.errors import InputError
from expunge.language.methods.ce_u import CEU
from expunge.language.methods.undial import UNDIAL, undial, undial_target

LENGTHS, STARTS = [4, 6], [2, 1]


def view(ours: int, theirs: int) -> FreeView:
    return free_view(random_logits(2, 6, ours), LENGTHS, STARTS, reference=random_logits(2, 6, theirs))


def labelled(values: Tensor, of: FreeView) -> Tensor:
    """The rows of a gradient [B, L, V] that predict labels: [T, V]."""
    return values[of._predicts]


@pytest.mark.parametrize("beta", [0.0, 0.5, 10.0])
def test_the_target_by_its_closed_form(beta: float) -> None:
    """q_y = p_y e^-b / (1 - c p_y), q_i = p_i / (1 - c p_y), c = 1 - e^-b: all other tokens keep their ratios."""
    logits, labels = random_logits(1, 9, 0)[0], torch.arange(9) % 7
    p, q = logits.softmax(-1), undial_target(logits, labels, beta)
    true = torch.nn.functional.one_hot(labels, 7).bool()
    rest = 1 - (1 - math.exp(-beta)) * p[true]
    torch.testing.assert_close(q[true], p[true] * math.exp(-beta) / rest)
    torch.testing.assert_close(q[~true], (p / rest[:, None])[~true])
    torch.testing.assert_close(q.sum(-1), torch.ones(9).double())


def test_the_reference_is_not_written_to() -> None:
    logits = random_logits(1, 3, 1)[0]
    before = logits.clone()
    undial_target(logits, torch.tensor([0, 1, 2]), 4.0)
    assert torch.equal(logits, before)


def test_by_hand() -> None:
    """Uniform reference and model over 7 tokens: whatever q is, -sum q ln(1/7) = ln 7."""
    zeros = torch.zeros(2, 6, 7, dtype=torch.float64)
    flat = free_view(zeros, LENGTHS, STARTS, reference=zeros)
    assert UNDIAL(beta=2.0).forget_loss(step_of(forget=flat)).item() == pytest.approx(math.log(7), rel=1e-12)
    q = undial_target(zeros[0], flat.labels[:6], 2.0)
    assert q[0, flat.labels[0]].item() == pytest.approx(math.exp(-2) / (math.exp(-2) + 6), rel=1e-12)


def test_beta_zero_is_self_distillation_without_gradient_at_the_reference() -> None:
    """q = p_ref, so at theta = ref the loss is the entropy of p and its gradient p - q = 0."""
    here = view(3, 3)
    loss = UNDIAL(beta=0.0).forget_loss(step_of(forget=here))
    entropy = here.per_token(-(here.logprobs.exp() * here.logprobs).sum(-1))
    torch.testing.assert_close(loss, entropy)
    assert gradient(loss, here).abs().max().item() < 1e-16


def test_the_gradient_is_p_minus_q() -> None:
    here = view(4, 5)
    loss = UNDIAL(beta=3.0).forget_loss(step_of(forget=here))
    q = undial_target(here.reference.logits, here.labels, 3.0)
    expected = (here.logits.softmax(-1) - q) / here.total_tokens
    torch.testing.assert_close(labelled(gradient(loss, here), here), expected.detach(), rtol=0, atol=1e-15)


def test_prompt_and_padding_do_not_count() -> None:
    ours, theirs = random_logits(2, 6, 6), random_logits(2, 6, 7)
    wide = [torch.cat([t, random_logits(2, 4, 8)], 1) for t in (ours, theirs)]
    views = [free_view(a, LENGTHS, STARTS, reference=b) for a, b in ((ours, theirs), wide)]
    losses = [UNDIAL().forget_loss(step_of(forget=v)) for v in views]
    assert torch.equal(*losses)
    assert not gradient(losses[1], views[1])[~views[1]._predicts].any()


def test_far_down_it_starts_as_cross_entropy_unlearning() -> None:
    """beta -> infinity takes the true token out of q; at theta = ref that is CE-U's target."""
    here = view(9, 9)
    step = step_of(forget=here)
    ours, theirs = UNDIAL(beta=60.0).forget_loss(step), CEU(skip_first=0).forget_loss(step)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(gradient(ours, here), gradient(theirs, here), rtol=0, atol=1e-15)


def test_descent_ends_at_the_target() -> None:
    """The fixed point is p = q, where the loss is the entropy of q: nothing runs away."""
    logits, labels = random_logits(1, 5, 10)[0], torch.tensor([0, 3, 6, 2, 2])
    q = undial_target(logits, labels, 2.0)
    z = logits.clone().requires_grad_()
    for _ in range(3000):
        (grad,) = torch.autograd.grad(undial(q, z.log_softmax(-1)).sum(), z)
        z = (z - grad).detach().requires_grad_()
    torch.testing.assert_close(z.softmax(-1).detach(), q, rtol=0, atol=1e-6)
    entropy = -(q * q.log()).sum(-1)
    torch.testing.assert_close(undial(q, z.log_softmax(-1)).detach(), entropy, rtol=0, atol=1e-6)


def test_a_retain_term_is_added_with_its_weight() -> None:
    assert UNDIAL().streams == ("forget",)
    assert UNDIAL(retain="nll").streams == ("forget", "retain")
    forget, retain = view(11, 12), view(13, 14)
    step = step_of(forget=forget, retain=retain)
    total = both(UNDIAL(retain="nll", retain_weight=0.5), step)
    torch.testing.assert_close(total, UNDIAL().forget_loss(step) + 0.5 * retain.nll)


@pytest.mark.parametrize("name", ["beta", "retain_weight"])
def test_a_negative_number_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"undial: {name}=-1.0 must not be below 0"):
        UNDIAL(**{name: -1.0})


def test_without_a_reference_it_is_refused() -> None:
    with pytest.raises(InputError, match="needs a reference"):
        UNDIAL().forget_loss(step_of(forget=free_view(random_logits(2, 6, 0), LENGTHS, STARTS)))
