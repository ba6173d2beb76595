"""Random labels and LLMU are weighted sums of terms that are tested by themselves."""

from __future__ import annotations

import pytest
import torch
from toys import both, free_view, random_logits, step_of

from expunge.errors import InputError
from expunge.language.methods.ga import GA
from expunge.language.methods.kl_min import KLMin
from expunge.language.methods.llmu import LLMU
from expunge.language.methods.random_labels import RandomLabels

LENGTHS, STARTS = [4, 6], [2, 1]
FORGET, RANDOM, RETAIN = (
    free_view(random_logits(2, 6, s), LENGTHS, STARTS, reference=random_logits(2, 6, s + 1), ids=s) for s in (0, 2, 4)
)
STEP = step_of(forget=FORGET, substitute=RANDOM, retain=RETAIN)


def test_llmu_is_its_three_terms() -> None:
    ascent, anchor = GA().forget_loss(STEP), KLMin().retain_loss(STEP)
    torch.testing.assert_close(both(LLMU(), STEP), 0.5 * ascent + RANDOM.nll + anchor)
    mixed = LLMU(forget_weight=2.0, random_weight=3.0, retain_weight=5.0)
    torch.testing.assert_close(both(mixed, STEP), 2 * ascent + 3 * RANDOM.nll + 5 * anchor)
    with pytest.raises(InputError, match="llmu: random_weight=-1"):
        LLMU(random_weight=-1)


def test_random_labels_descend_on_the_substitute_answers() -> None:
    torch.testing.assert_close(both(RandomLabels(), STEP), RANDOM.nll + RETAIN.nll)
    kl = RandomLabels(forget_weight=2.0, retain="kl", retain_weight=3.0)
    torch.testing.assert_close(both(kl, STEP), 2 * RANDOM.nll + 3 * KLMin().retain_loss(STEP))
    torch.testing.assert_close(both(RandomLabels(retain="none"), STEP), RANDOM.nll)


def test_true_forget_answers_are_loaded_only_for_ascent() -> None:
    assert RandomLabels().streams == ("substitute", "retain")
    assert RandomLabels(retain="none").streams == ("substitute",)
    assert LLMU().streams == ("forget", "substitute", "retain")
