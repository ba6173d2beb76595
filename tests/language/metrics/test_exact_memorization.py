from __future__ import annotations

import numpy as np
import pytest

from expunge.errors import InputError
from expunge.language.metrics.exact_memorization import ExactMemorization, exact_memorization
from expunge.language.metrics.extraction_strength import extraction_strength


def test_share_of_tokens_without_the_end_of_sequence(scores, split, store):
    """2 of 3 and 0 of 1; whether the end of sequence is hit does not matter. Rows count alike: 1/3."""
    hits = [[True, False, True, False], [False, True]]
    made = scores([[0.5] * len(h) for h in hits], hits)
    assert exact_memorization(made) == pytest.approx([2 / 3, 0])
    (found,) = ExactMemorization().measure(store(forget=split(made)), None)
    assert found.value == pytest.approx(1 / 3)
    assert (found.metric, found.direction) == ("exact_memorization", "match-gold")


def test_never_below_extraction_strength_and_1_together(scores):
    rng = np.random.default_rng(1)
    hits = [(rng.random(n) < 0.8).tolist() for n in rng.integers(1, 9, 300)]
    made = scores([[0.5] * len(h) for h in hits], hits, has_eos=False)
    strength, share = extraction_strength(made), exact_memorization(made)
    assert (share >= strength - 1e-12).all()
    assert ((share == 1) == (strength == 1)).all()
    assert (share > strength).any()


def test_a_row_without_tokens_is_named(split, store):
    with pytest.raises(InputError, match=r"'forget', row 1"):
        ExactMemorization().measure(store(forget=split([[0.5], [0.5, 0.5]])), None)
