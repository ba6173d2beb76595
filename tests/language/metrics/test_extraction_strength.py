from __future__ import annotations

import numpy as np
import pytest

from expunge.errors import InputError
from expunge.language.metrics.extraction_strength import ExtractionStrength, extraction_strength


def made(scores, hits, **settings):
    return scores([[0.5] * len(h) for h in hits], hits, **settings)


def test_by_hand_with_a_missed_end_of_sequence_ignored(scores):
    """X hit, o miss, last place the end of sequence: XXXX 1; oXXX 3/4; XoXX 2/4; ooXo 0; XXXo 0."""
    rows = ["XXXXo", "oXXXo", "XoXXX", "ooXoX", "XXXoX"]
    hits = [[c == "X" for c in row] for row in rows]
    assert extraction_strength(made(scores, hits)).tolist() == [1, 0.75, 0.5, 0, 0]


@pytest.mark.parametrize("n", [1, 2, 4, 10])
def test_nothing_predicted_is_0_where_open_unlearning_says_1_over_n(scores, n):
    """Known defect of the public code: with all predictions wrong it gives 1, 1/2, 1/4, 1/10."""
    nothing = made(scores, [[False] * n], has_eos=False)
    assert extraction_strength(nothing) == 0
    assert extraction_strength(nothing, open_unlearning=True) == pytest.approx(1 / n)
    last = made(scores, [[False] * (n - 1) + [True]], has_eos=False)
    for convention in (False, True):  # only the last token right: both agree on 1/n
        assert extraction_strength(last, open_unlearning=convention) == pytest.approx(1 / n)


def test_against_the_definition_on_random_rows(scores):
    rng = np.random.default_rng(0)
    hits = [(rng.random(n) < 0.7).tolist() for n in rng.integers(1, 12, 200)]
    expected = [1 - next(k for k in range(len(h) + 1) if all(h[k:])) / len(h) for h in hits]
    assert extraction_strength(made(scores, hits, has_eos=False)) == pytest.approx(expected, abs=1e-12)


def test_measured(scores, split, store):
    model = store(forget=split(made(scores, [[True, True, True], [False, False, True]])))
    (found,) = ExtractionStrength().measure(model, None)
    assert (found.metric, found.value, found.direction) == ("extraction_strength", 0.5, "match-gold")
    (found,) = ExtractionStrength(open_unlearning=True).measure(model, None)
    assert found.value == 0.75
    with pytest.raises(InputError, match=r"'forget', row 2"):  # an end of sequence alone is no answer
        ExtractionStrength().measure(store(forget=split([[0.5, 0.5], [0.5]])), None)
