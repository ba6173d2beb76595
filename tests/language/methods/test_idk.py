"""IDK tuning: the token mean of one concatenated batch."""

from __future__ import annotations

import torch
from toys import both, free_view, random_logits, step_of

from expunge.language.methods.idk import IDK


def test_two_sides_are_one_concatenated_batch() -> None:
    """[refusals; retain] as one batch of four rows with 2 + 5 + 1 + 3 labelled tokens."""
    logits = random_logits(4, 6, 0)
    whole = free_view(logits, [4, 6, 2, 5], [2, 1, 1, 2])
    refusals = free_view(logits[:2], [4, 6], [2, 1])
    retain = free_view(logits[2:], [2, 5], [1, 2])
    refusals.input_ids, retain.input_ids = whole.input_ids[:2], whole.input_ids[2:]
    total = both(IDK(), step_of(substitute=refusals, retain=retain))
    torch.testing.assert_close(total, whole.nll, rtol=0, atol=1e-15)
    assert whole.total_tokens == 11


def test_short_refusals_count_by_their_tokens() -> None:
    """1 refusal token against 9 retain tokens, uniform over 7: the refusal side is a tenth of ln 7."""
    zeros = torch.zeros(1, 10, 7, dtype=torch.float64)
    step = step_of(substitute=free_view(zeros, [2], [1]), retain=free_view(zeros, [10], [1]))
    ln7 = torch.tensor(7.0, dtype=torch.float64).log()
    torch.testing.assert_close(IDK().forget_loss(step), ln7 / 10)
    torch.testing.assert_close(IDK().retain_loss(step), ln7 * 9 / 10)


def test_true_forget_answers_are_never_loaded() -> None:
    assert IDK().streams == ("substitute", "retain")
