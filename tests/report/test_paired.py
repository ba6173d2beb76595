"""Paired changes: exact small cases, and the verdict at its borders."""

from __future__ import annotations

import numpy as np
import pytest

from expunge.report.paired import mcnemar, paired_change


def test_mcnemar_is_the_binomial_tail():
    """0 against 5 changes: 2 * (1/2)^5. 1 against 4: 2 * (1 + 5) / 32."""
    assert mcnemar(0, 5) == pytest.approx(2 / 32)
    assert mcnemar(1, 4) == mcnemar(4, 1) == pytest.approx(12 / 32)
    assert mcnemar(3, 3) == mcnemar(0, 0) == 1


def test_the_same_answers_are_kept_without_doubt():
    scores = [1.0, 0.0, 1.0, 1.0]
    change = paired_change(scores, scores, 0.0001)
    assert (change.value, change.low, change.high, change.verdict, change.p) == (0, 0, 0, "kept", 1)


def test_pairing_sees_what_two_intervals_hide():
    """Every tenth question of 400 is lost: the paired interval is narrow, the two means' own are wide."""
    rng = np.random.default_rng(0)
    before = rng.integers(0, 2, 400).astype(float)
    after = before.copy()
    right = np.flatnonzero(before)
    after[right[::5]] = 0
    change = paired_change(before, after, 0.02)
    assert change.value == pytest.approx((after - before).mean())
    assert (change.gained, change.fell) == (0, len(right[::5]))
    assert change.high < -0.02
    assert change.verdict == "lost"
    assert change.p is not None
    assert change.p < 1e-6
    assert paired_change(before, after, 0.5).verdict == "kept"


def test_few_questions_leave_it_open():
    assert paired_change([1, 1, 0, 0, 1], [1, 0, 1, 0, 1], 0.02).verdict == "open"


def test_a_rise_is_a_drop_where_less_is_better():
    before, after = np.full(50, 2.0), np.full(50, 3.0)
    assert paired_change(before, after, 0.1, higher=False).verdict == "lost"
    assert paired_change(after, before, 0.1, higher=False).verdict == "kept"
    assert paired_change(before, after, 0.1).p is None  # not yes or no


def test_other_questions_are_refused():
    with pytest.raises(ValueError, match="same questions"):
        paired_change([1.0], [1.0, 0.0], 0.1)
