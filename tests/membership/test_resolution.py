"""What a holdout can show at low false positive rates, and how one-sided labels are refused."""

from __future__ import annotations

import numpy as np
import pytest

from expunge.errors import InputError
from expunge.membership import by_membership, resolution, roc_curve, roc_steps, tpr_at_fpr, tpr_at_low_fpr


def test_steps_hold_every_threshold_with_its_counts():
    rng = np.random.default_rng(0)
    members, others = rng.integers(2, 9, 60), rng.integers(0, 8, 80)
    steps = roc_steps(members, others)
    assert steps.threshold.tolist() == [np.inf, *sorted({*members, *others}, reverse=True)]
    assert steps.true_positives.tolist() == [(members >= t).sum() for t in steps.threshold]
    assert steps.false_positives.tolist() == [(others >= t).sum() for t in steps.threshold]
    curve = roc_curve(members, others)  # its corners are among them
    points = set(zip(steps.false_positives / 80, steps.true_positives / 60, strict=True))
    assert set(zip(curve.fpr, curve.tpr, strict=True)) <= points


def test_tied_scores_are_one_step():
    steps = roc_steps([1, 1, 0], [1, 0, 0])
    assert steps.threshold.tolist() == [np.inf, 1, 0]
    assert steps.true_positives.tolist() == [0, 2, 3]
    assert steps.false_positives.tolist() == [0, 1, 3]


@pytest.mark.parametrize(
    ("nonmembers", "fpr", "measurable", "trusted"),
    [(99, 0.01, False, False), (100, 0.01, True, False), (999, 0.01, True, False), (1000, 0.01, True, True),
     (999, 0.001, False, False), (9999, 0.001, True, False), (10_000, 0.001, True, True), (10, 1.0, True, True)],
)  # fmt: skip
def test_rates_become_measurable_at_one_false_positive_and_trusted_at_ten(nonmembers, fpr, measurable, trusted):
    found = resolution(nonmembers, fpr)
    assert (found.least <= fpr + 1e-12) == measurable
    assert (found.note == "") == trusted
    assert ("cannot be measured" in found.note) == (not measurable)
    assert found.least == 1 / nonmembers
    assert found.trusted == 10 / nonmembers


def test_a_rate_on_few_nonmembers_comes_with_a_note_and_an_interval():
    rng = np.random.default_rng(0)
    members, others = rng.standard_normal(300) + 2, rng.standard_normal(1500)
    found = tpr_at_low_fpr(members, others, 0.001, draws=300)
    assert found.value == tpr_at_fpr(members, others, 0.001)
    assert found.low <= found.value <= found.high
    assert found.high - found.low > 0.05  # one of 1500 decides
    assert found.note == "At FPR 0.001 the threshold rests on 1 of 1500 non-members; 10000 are needed to trust it."
    assert tpr_at_low_fpr(members, others, 0.1, draws=10).note == ""
    with pytest.raises(InputError, match="cannot be measured"):
        tpr_at_low_fpr(members, others[:999], 0.001)


def test_rows_of_one_cluster_are_drawn_together():
    rng = np.random.default_rng(0)
    members, others = rng.standard_normal(50) + 1, rng.standard_normal(200)
    once = tpr_at_low_fpr(members, others, 0.05, draws=200)
    copied = tpr_at_low_fpr(
        np.repeat(members, 4), np.repeat(others, 4), 0.05, np.repeat(np.arange(50), 4), np.repeat(np.arange(200), 4),
        draws=200,
    )  # fmt: skip
    assert copied[:3] == pytest.approx(once[:3], abs=1e-12)


@pytest.mark.parametrize("bad", [(0, 0.1), (10, 0.0), (10, 1.1), (10, float("nan"))])
def test_rates_that_are_none_are_refused(bad):
    with pytest.raises(InputError, match="false positive rate"):
        resolution(*bad)


@pytest.mark.parametrize(
    ("scores", "member", "said"),
    [
        ([1.0, 2.0], [True, True], "Each of the 2 records is a member"),
        ([1.0, 2.0], [0, 0], "Each of the 2 records is a non-member"),
        ([1.0, 2.0], [0, 2], "row 2 is neither"),
        ([1.0, 2.0], [True], "memberships of the same"),
        ([1.0, np.nan], [True, False], "NaN"),
        ([], [], "non-member"),
    ],
)
def test_memberships_that_do_not_divide_are_refused(scores, member, said):
    with pytest.raises(InputError, match=said):
        by_membership(scores, member)
