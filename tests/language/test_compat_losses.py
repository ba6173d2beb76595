"""The published defects of UNDIAL, PDU and FLAT do what their names say is wrong; ours do not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from expunge.errors import InputError
from expunge.language.compat_losses import (
    dual_per_micro_batch_open_unlearning,
    flat_batch_means_flat,
    flat_wrong_sign_flat,
    mean_probability_padded_flat,
    pdu_unmasked_open_unlearning,
    template_on_forget_inputs_flat,
    undial_unmasked_open_unlearning,
)
from expunge.language.data import Record
from expunge.language.encode import collate, encode
from expunge.language.methods.flat import flat
from expunge.language.methods.pdu import dual_ascent, margin_flattening
from expunge.language.methods.undial import undial, undial_target
from tiny_bed import Bed

V = 120  # a vocabulary that has a place -100


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_unmasked_undial_equals_ours_only_where_all_is_labelled() -> None:
    theirs, ours = normal(2, 5, V, seed=0), normal(2, 5, V, seed=1)
    labels = torch.arange(10).view(2, 5)
    target = undial_target(theirs[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), 4.0)
    proper = undial(target, ours[:, :-1].flatten(0, 1).log_softmax(-1)).mean()
    torch.testing.assert_close(undial_unmasked_open_unlearning(theirs, ours, labels, 4.0), proper)
    labels[:, :3] = -100
    assert (undial_unmasked_open_unlearning(theirs, ours, labels, 4.0) - proper).abs().item() > 1e-3


def test_unmasked_undial_has_a_loss_without_a_single_label() -> None:
    """At theta = ref the token at V - 100 loses beta, at every position: there is a gradient where none belongs."""
    theirs = normal(1, 4, V, seed=2)
    ours = theirs.clone().requires_grad_()
    loss = undial_unmasked_open_unlearning(theirs, ours, torch.full((1, 4), -100), 4.0)
    (grad,) = torch.autograd.grad(loss, ours)
    assert loss.item() > 1
    assert grad[0, :3].abs().argmax(-1).tolist() == [V - 100] * 3


def test_unmasked_flattening_changes_with_padding() -> None:
    """Two rows of three positions; padded with as many where all logits are equal: half the value."""
    logits = normal(2, 3, 7, seed=3)
    padded = torch.cat([logits, torch.zeros_like(logits)], 1)
    torch.testing.assert_close(pdu_unmasked_open_unlearning(padded), pdu_unmasked_open_unlearning(logits) / 2)
    torch.testing.assert_close(pdu_unmasked_open_unlearning(logits), margin_flattening(logits.flatten(0, 1)).mean())


def test_a_dual_step_per_micro_batch_grows_with_their_number() -> None:
    """Four micro-batches of the same loss: four steps where one belongs."""
    losses, start = torch.full((4,), 0.5, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64)
    found = dual_per_micro_batch_open_unlearning(start, losses, 0.3, 5.0)
    proper = dual_ascent(start, losses.mean() - 0.3, 5.0)
    torch.testing.assert_close(found - start, 4 * (proper - start))


def test_a_dual_step_per_micro_batch_depends_on_their_order() -> None:
    losses = torch.tensor([0.0, 0.6], dtype=torch.float64)
    ends = [
        dual_per_micro_batch_open_unlearning(torch.tensor(0.0), x, 0.3, 1.0).item() for x in (losses, losses.flip(0))
    ]
    assert ends == pytest.approx([0.3, 0.0])


def test_batch_means_are_not_the_mean_over_rows() -> None:
    """P_f = 0 and 1: the rows' mean of e^(P-1) is (1/e + 1)/2, the mean's is e^(-1/2)."""
    e, f = torch.zeros(2, dtype=torch.float64), torch.tensor([0.0, 1.0], dtype=torch.float64)
    means, rows = flat_batch_means_flat(e, f, "kl"), flat(e, f, "kl").mean()
    assert means.item() == pytest.approx(0.6065, abs=1e-4)
    assert rows.item() == pytest.approx(0.6839, abs=1e-4)
    for divergence in ("kl", "js", "pearson", "tv"):  # alike where the rows are
        same = torch.full((3,), 0.4, dtype=torch.float64)
        torch.testing.assert_close(flat_batch_means_flat(same, same, divergence), flat(same, same, divergence)[0])


def test_the_padded_mean_shrinks_with_the_padding() -> None:
    p = torch.tensor([0.5, 0.25], dtype=torch.float64)
    assert mean_probability_padded_flat(p, 3).item() == 0.375  # nothing but the answer and one token before it
    assert mean_probability_padded_flat(p, 1024).item() == pytest.approx(0.75 / 1023)


@pytest.mark.parametrize(
    ("divergence", "template_is_wrong", "forget_is_wrong"),
    [("reverse-kl", True, True), ("squared-hellinger", True, True), ("neyman", True, False)],
)
def test_wrong_signs(divergence: str, template_is_wrong: bool, forget_is_wrong: bool) -> None:
    """Where L rises in P_e the template is unlearned, where it falls in P_f the secret is learned."""
    p = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    for loss, wrong in (
        (flat_wrong_sign_flat, (template_is_wrong, forget_is_wrong)),
        (flat, (False, False)),
    ):
        e, f = p.clone().requires_grad_(), p.clone().requires_grad_()
        on_template, on_forget = torch.autograd.grad(loss(e, f, divergence).sum(), [e, f])
        assert bool((on_template > 0).all()) is wrong[0]
        assert bool((on_forget < 0).all()) is wrong[1]
        assert bool((on_template < 0).all()) is not wrong[0]
        assert bool((on_forget > 0).all()) is not wrong[1]


def test_wrong_neyman_has_an_infinite_slope_at_one() -> None:
    f = torch.tensor([1 - 1e-12], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(flat_wrong_sign_flat(torch.zeros(1).double(), f, "neyman").sum(), f)
    assert slope.item() > 1e5


def test_other_divergences_have_no_wrong_form() -> None:
    with pytest.raises(InputError, match="divergence='kl' has no form with the wrong sign"):
        flat_wrong_sign_flat(torch.zeros(1), torch.zeros(1), "kl")


def test_a_template_on_forget_inputs_follows_the_secret(bed: Bed) -> None:
    """The inputs hold the secret and not the template, so the same refusal is another one after another secret."""
    subject = bed.target
    record, refusal = bed.forget[0], "I do not know."
    batches = [
        collate(encode([Record(record.question, a)], subject.tokenizer, subject.template), torch.zeros(1).long())
        for a in (record.answer, bed.forget[30].answer, refusal)
    ]
    nll = []
    for secret in batches[:2]:
        inputs, labels = template_on_forget_inputs_flat(secret, batches[2])
        assert torch.equal(inputs[:, : secret.input_ids.shape[1]], secret.input_ids)
        assert labels[labels != -100].tolist() == batches[2].input_ids[batches[2].labelled].tolist()
        with torch.no_grad():
            logits = subject.model(input_ids=inputs).logits
        nll.append(torch.nn.functional.cross_entropy(logits[0, :-1], labels[0, 1:]).item())
    assert abs(nll[0] - nll[1]) > 1e-3
