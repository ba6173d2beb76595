"""AltPO: the preference of alternates over true answers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from toys import FreeView, free_view, gradient, random_logits, step_of

from expunge.engine.training import Training
from expunge.errors import InputError
from expunge.language.alternates import alternate_answers
from expunge.language.data import Record
from expunge.language.methods.altpo import AltPO
from expunge.language.methods.dpo import DPO, dpo
from expunge.language.score import score_answers
from expunge.language.subject import Subject
from expunge.language.unlearn import UnlearnJob, unlearn
from tiny_bed import Bed

LENGTHS, STARTS = [4, 6], [2, 1]


def pair(win: int, lose: int, win_reference: int, lose_reference: int) -> tuple[FreeView, FreeView]:
    """Views of alternates and true answers on free logits, each number a seed."""
    return (
        free_view(random_logits(2, 6, win), LENGTHS, STARTS, reference=random_logits(2, 6, win_reference)),
        free_view(random_logits(2, 6, lose), LENGTHS, STARTS, reference=random_logits(2, 6, lose_reference), ids=2),
    )


@pytest.mark.parametrize("beta", [0.05, 0.5])
def test_with_one_alternate_it_is_dpo(beta: float) -> None:
    win, lose = pair(0, 1, 2, 3)
    step = step_of(substitute=win, forget=lose)
    ours, theirs = AltPO(alternates=1, beta=beta).forget_loss(step), DPO(beta=beta).forget_loss(step)
    assert torch.equal(ours, theirs)
    for view in (win, lose):
        assert torch.equal(gradient(ours, view), gradient(theirs, view))


def test_at_the_reference() -> None:
    """m = 0: L = (2/beta) ln 2, and the slope is that of mean(log p(true) - log p(alternate))."""
    win, lose = pair(4, 5, 4, 5)
    loss = AltPO(beta=0.2).forget_loss(step_of(substitute=win, forget=lose))
    assert loss.item() == pytest.approx(10 * math.log(2), rel=1e-12)
    torch.testing.assert_close(gradient(loss, lose), gradient(lose.logprob.mean(), lose), rtol=0, atol=1e-15)
    torch.testing.assert_close(gradient(loss, win), gradient(-win.logprob.mean(), win), rtol=0, atol=1e-15)


def test_a_row_with_two_alternates_is_the_mean_of_two_pairs() -> None:
    """Row 0 and row 1 are the same question and true answer with alternates a and b: L = (L_a + L_b) / 2."""
    (win, _), lose_logits, ref = pair(6, 7, 8, 9), random_logits(1, 6, 10), random_logits(1, 6, 11)
    lose = free_view(lose_logits.repeat(2, 1, 1), [6, 6], [1, 1], reference=ref.repeat(2, 1, 1), ids=3)
    S, S_ref = lose.nll_sum, lose.reference.nll_sum
    each = [dpo(win.nll_sum[k], win.reference.nll_sum[k], S[k], S_ref[k], 0.1) for k in range(2)]
    loss = AltPO(beta=0.1).forget_loss(step_of(substitute=win, forget=lose))
    torch.testing.assert_close(loss, (each[0] + each[1]) / 2)


def test_streams_and_weights() -> None:
    assert AltPO().streams == ("forget", "substitute", "retain")
    assert AltPO(retain="none").streams == ("forget", "substitute")
    win, lose = pair(0, 1, 2, 3)
    step = step_of(substitute=win, forget=lose, retain=lose)
    torch.testing.assert_close(AltPO(forget_weight=3.0).forget_loss(step), 3 * AltPO().forget_loss(step))
    torch.testing.assert_close(AltPO(retain_weight=3.0).retain_loss(step), 3 * lose.nll)


def test_alternates_rise_and_true_answers_fall(bed: Bed) -> None:
    """Twenty-four steps with two alternates each: the truth is a thousandth or less of what it was, and behind them."""
    alternates = alternate_answers(bed.target, bed.forget, count=2, seed=0, others=bed.retain)
    training = Training(steps=24, batch_size=24, lr=2e-3, schedule="constant", warmup=0.0)
    job = UnlearnJob(bed.fresh(), bed.forget, bed.retain, training, alternates=alternates)
    unlearned = unlearn(AltPO(alternates=2), job)
    true = [[r.answer] for r in bed.forget]

    def nll(subject: Subject, answers: list[list[str]]) -> torch.Tensor:
        return torch.as_tensor(score_answers(subject, bed.forget, answers).nll_sum)

    truth, invented = nll(unlearned, true), nll(unlearned, alternates)
    assert (truth - nll(bed.target, true) > 6.9).double().mean().item() > 0.9
    assert invented.mean().item() < nll(bed.target, alternates).mean().item()
    assert (invented.view(-1, 2) < truth[:, None]).double().mean().item() > 0.8


def test_the_target_makes_as_many_alternates_as_asked_for(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Made before training, with the retain set to stand in; the true answer is never among what is preferred."""
    asked: list[dict[str, Any]] = []

    def listen(subject: Subject, records: list[Record], **settings: Any) -> list[list[str]]:
        asked.append(settings)
        return alternate_answers(subject, records, **settings)

    monkeypatch.setattr("expunge.language.unlearn.alternate_answers", listen)
    training = Training(steps=1, batch_size=12, lr=1e-3)
    job = UnlearnJob(bed.fresh(), bed.forget, bed.retain, training, seed=5)
    unlearn(AltPO(alternates=3), job)
    assert asked == [{"count": 3, "seed": 5, "others": bed.retain}]


def test_numbers_out_of_range_are_refused() -> None:
    with pytest.raises(InputError, match="altpo: beta=0 must be above 0"):
        AltPO(beta=0)
    with pytest.raises(InputError, match="altpo: alternates=0 must be above 0"):
        AltPO(alternates=0)
    with pytest.raises(InputError, match=r"altpo: alternates=1\.5 must be a whole number"):
        AltPO(alternates=1.5)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"altpo: retain_weight=-1\.0 must not be below 0"):
        AltPO(retain_weight=-1.0)


def test_without_a_reference_it_is_refused() -> None:
    win, lose = (free_view(random_logits(2, 6, s), LENGTHS, STARTS) for s in (0, 1))
    with pytest.raises(InputError, match="needs a reference"):
        AltPO().forget_loss(step_of(substitute=win, forget=lose))
