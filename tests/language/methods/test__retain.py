"""The shared retain terms: token-weighted NLL, and the masked forward KL."""

from __future__ import annotations

import pytest
import torch
from toys import free_view, gradient, random_logits, step_of

from expunge.errors import InputError
from expunge.language.methods._retain import kl_positions, retain_term
from expunge.language.methods.fine_tune import FineTune
from expunge.language.methods.kl_min import KLMin

LENGTHS, STARTS = [4, 6], [2, 1]  # 2 and 5 labelled tokens


def test_nll_weighs_tokens_not_sequences() -> None:
    """With all logits 0 but one raised, both means follow by hand.

    p(label) = 1/7 at every position, so S = 2 ln 7 and 5 ln 7. Raising a label's logit of row 0 to ln 6 + x
    does not matter here; instead row 0's labels get logit ln 6: p = 6 / (6 + 6) = 1/2. Then the token mean is
    (2 ln 2 + 5 ln 7) / 7 and the mean over sequences (ln 2 + ln 7) / 2.
    """
    logits = torch.zeros(2, 6, 7, dtype=torch.float64)
    ids = free_view(logits, LENGTHS, STARTS).input_ids
    for position in (2, 3):
        logits[0, position - 1, ids[0, position]] = torch.tensor(6.0, dtype=torch.float64).log()
    view = free_view(logits, LENGTHS, STARTS)
    ln2, ln7 = torch.tensor([2.0, 7.0], dtype=torch.float64).log()
    torch.testing.assert_close(retain_term(view, "nll"), (2 * ln2 + 5 * ln7) / 7)
    torch.testing.assert_close(view.per_row(view.nll_mean), (ln2 + ln7) / 2)
    torch.testing.assert_close(FineTune().retain_loss(step_of(retain=view)), (2 * ln2 + 5 * ln7) / 7)


def test_nll_of_one_sequence_is_its_sum_over_its_tokens() -> None:
    view = free_view(random_logits(1, 5, 0), [5], [2])
    torch.testing.assert_close(view.nll, view.nll_sum[0] / 3)


def test_kl_is_zero_with_zero_gradient_at_the_reference() -> None:
    """KL(p || p) = 0, and its gradient p_theta - p_ref vanishes."""
    logits = random_logits(2, 6, 1)
    view = free_view(logits, LENGTHS, STARTS, reference=logits)
    loss = retain_term(view, "kl")
    assert loss.abs().item() < 1e-15
    assert float(gradient(loss, view).abs().max()) < 1e-12


def test_kl_gradient_is_the_difference_of_the_distributions() -> None:
    """d KL(ref || theta) / d logit_v = p_theta(v) - p_ref(v), over the 7 labelled tokens; 0 elsewhere."""
    ours, theirs = random_logits(2, 6, 2), random_logits(2, 6, 3)
    view = free_view(ours, LENGTHS, STARTS, reference=theirs)
    expected = (ours.softmax(-1) - theirs.softmax(-1)) / 7
    predicts = torch.tensor([[0, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 0]], dtype=torch.bool)
    expected = torch.where(predicts[..., None], expected, 0.0)
    torch.testing.assert_close(gradient(retain_term(view, "kl"), view), expected, rtol=0, atol=1e-14)


def test_kl_is_at_least_zero_and_one_sided() -> None:
    """By hand: ref (1/2, 1/2), theta (1/4, 3/4): ln 2 - (ln 3) / 2; the other way round it differs."""
    ref, theta = torch.tensor([[0.5, 0.5]]).double(), torch.tensor([[0.25, 0.75]]).double()
    ln2, ln3 = torch.tensor([2.0, 3.0], dtype=torch.float64).log()
    torch.testing.assert_close(kl_positions(ref.log(), theta.log()), (ln2 - ln3 / 2)[None])
    assert float(kl_positions(theta.log(), ref.log())) != pytest.approx(float(ln2 - ln3 / 2), abs=1e-3)
    spread = kl_positions(random_logits(9, 9, 4).log_softmax(-1), random_logits(9, 9, 5).log_softmax(-1))
    assert float(spread.min()) > 0


def test_kl_ignores_shared_shifts_and_padding() -> None:
    ours, theirs = random_logits(2, 6, 6), random_logits(2, 6, 7)
    plain = retain_term(free_view(ours, LENGTHS, STARTS, reference=theirs), "kl")
    shift = torch.linspace(-3, 3, 12, dtype=torch.float64).view(2, 6, 1)
    shifted = retain_term(free_view(ours + shift, LENGTHS, STARTS, reference=theirs - 2 * shift), "kl")
    torch.testing.assert_close(shifted, plain, rtol=0, atol=1e-14)
    wide = [torch.cat([t, random_logits(2, 3, 8)], 1) for t in (ours, theirs)]
    assert torch.equal(retain_term(free_view(wide[0], LENGTHS, STARTS, reference=wide[1]), "kl"), plain)


def test_kl_without_a_reference_is_refused() -> None:
    with pytest.raises(InputError, match="needs a reference"):
        KLMin().retain_loss(step_of(retain=free_view(random_logits(2, 6, 0), LENGTHS, STARTS)))
