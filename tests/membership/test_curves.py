"""AUROC, TPR at a false positive rate and their intervals, against brute force and scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from expunge.errors import InputError
from expunge.membership import curves
from expunge.membership.curves import (
    auroc,
    auroc_interval,
    balanced_accuracy,
    roc_curve,
    tpr_at_fpr,
    tpr_at_fpr_interval,
)


@pytest.fixture
def tied():
    """Scores on few levels, so that most pairs tie; 60 members in 12 and 80 others in 16 clusters of uneven size."""
    rng = np.random.default_rng(3)
    a_of = np.sort(np.concatenate([np.arange(12), rng.integers(0, 4, 48)]))
    b_of = np.sort(np.concatenate([np.arange(16), rng.integers(8, 16, 64)]))
    return rng.integers(2, 9, 60), rng.integers(0, 8, 80), a_of, b_of


def test_auroc_is_the_mann_whitney_statistic_also_with_ties(tied):
    members, others, *_ = tied
    u = stats.mannwhitneyu(members, others).statistic
    assert auroc(members, others) == pytest.approx(u / (60 * 80), abs=1e-12)


@pytest.mark.parametrize(
    ("members", "others", "expected"),
    [([2, 3], [0, 1], 1.0), ([0, 1], [2, 3], 0.0), ([1, 1], [1, 1, 1], 0.5), ([-np.inf, 1], [-np.inf, 0], 0.625)],
)
def test_auroc_by_hand(members, others, expected):
    """Last case: -inf ties -inf (1/2) and loses to 0; 1 beats both: 2.5 of 4 pairs."""
    assert auroc(members, others) == expected


def test_auroc_of_swapped_sides_is_the_complement_and_monotone_maps_change_nothing(tied):
    members, others, *_ = tied
    assert auroc(others, members) == pytest.approx(1 - auroc(members, others), abs=1e-12)
    assert auroc(np.exp(members), np.exp(others)) == auroc(members, others)


def test_area_under_the_roc_curve_is_the_auroc(tied):
    members, others, *_ = tied
    curve = roc_curve(members, others)
    area = np.sum(np.diff(curve.fpr) * (curve.tpr[1:] + curve.tpr[:-1]) / 2)
    assert area == pytest.approx(auroc(members, others), abs=1e-12)
    assert (curve.fpr[0], curve.tpr[0], curve.fpr[-1], curve.tpr[-1]) == (0, 0, 1, 1)
    assert (np.diff(curve.fpr) >= 0).all()
    assert (np.diff(curve.tpr) >= 0).all()


def test_roc_curve_keeps_only_its_corners():
    """Five members above five non-members: up the left edge, along the top."""
    curve = roc_curve([5, 6, 7, 8, 9], [0, 1, 2, 3, 4])
    assert curve.fpr.tolist() == [0, 0, 1]
    assert curve.tpr.tolist() == [0, 1, 1]


@pytest.mark.parametrize("fpr", [0.0125, 0.05, 0.1, 0.33, 1.0])
def test_tpr_at_fpr_is_the_best_over_all_thresholds(tied, fpr):
    members, others, *_ = tied
    thresholds = [*np.unique([*members, *others]), np.inf]
    best = max(np.mean(members >= t) for t in thresholds if np.mean(others >= t) <= fpr)
    assert tpr_at_fpr(members, others, fpr) == best


def test_tpr_does_not_split_ties():
    """One member tied with 100 non-members: the only thresholds catch nobody or everybody."""
    assert tpr_at_fpr([1.0], np.ones(100), 0.99) == 0.0
    assert tpr_at_fpr([1.0], np.ones(100), 1.0) == 1.0


def test_an_exactly_allowed_number_of_false_positives_is_allowed():
    """0.29 * 100 is 28.999999999999996 in floating point, and 29 false positives are 29%."""
    others = np.concatenate([np.full(29, 2.0), np.zeros(71)])
    assert tpr_at_fpr([1.0], others, 0.29) == 1.0
    assert tpr_at_fpr([1.0], others, 0.28) == 0.0


def test_a_rate_the_non_members_cannot_resolve_is_refused():
    assert tpr_at_fpr([1.0], np.zeros(100), 0.01) == 1.0
    for others, fpr in ((np.zeros(99), 0.01), (np.zeros(100), 0.0), (np.zeros(100), 1.5)):
        with pytest.raises(InputError, match="false positive rate"):
            tpr_at_fpr([1.0], others, fpr)


def test_balanced_accuracy_is_the_best_over_all_thresholds(tied):
    members, others, *_ = tied
    best = max((np.mean(members >= t) + np.mean(others < t)) / 2 for t in range(10))
    assert balanced_accuracy(members, others) == pytest.approx(best, abs=1e-12)
    assert balanced_accuracy([0, 0], [1, 1]) == 0.5  # never below guessing


def test_draws_are_the_statistics_of_explicitly_repeated_rows(tied):
    """Bilinear form and weighted ranks against plain AUROC and TPR of rows repeated as often as drawn."""
    members, others, a_of, b_of = tied
    a, b = curves._multiplicities(12, 16, seed=5, draws=40)
    aurocs, tprs = [], []
    for times_a, times_b in zip(a.astype(int), b.astype(int), strict=True):
        x, y = np.repeat(members, times_a[a_of]), np.repeat(others, times_b[b_of])
        aurocs.append(auroc(x, y))
        tprs.append(tpr_at_fpr(x, y, 0.1))
    settings = {"seed": 5, "draws": 40}
    found = auroc_interval(members, others, a_of, b_of, **settings)
    assert found == pytest.approx((auroc(members, others), *np.quantile(aurocs, [0.025, 0.975])), abs=1e-12)
    found = tpr_at_fpr_interval(members, others, a_of, b_of, 0.1, **settings)
    assert found == pytest.approx((tpr_at_fpr(members, others, 0.1), *np.quantile(tprs, [0.025, 0.975])), abs=1e-12)


def test_working_in_blocks_changes_nothing(tied, monkeypatch):
    members, others, a_of, b_of = tied
    shuffle = np.random.default_rng(0).permutation(60)  # clusters need not stand together
    args = (members[shuffle], others, a_of[shuffle], b_of)
    whole = auroc_interval(*args), tpr_at_fpr_interval(*args, 0.1)
    monkeypatch.setattr(curves, "BLOCK", 500)
    assert (auroc_interval(*args), tpr_at_fpr_interval(*args, 0.1)) == whole
    in_order = auroc_interval(members, others, a_of, b_of)
    assert whole[0] == pytest.approx(in_order, abs=1e-12)


def test_interval_covers_the_true_auroc():
    """Members N(1, 1) + cluster effect N(0, 0.5^2): AUROC = Phi(1 / sqrt(2 * 1.25)) = 0.7365."""
    truth = stats.norm.cdf(1 / np.sqrt(2.5))
    clusters = np.repeat(np.arange(40), 5)
    covered = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        x, y = (m + 0.5 * rng.standard_normal(40)[clusters] + rng.standard_normal(200) for m in (1, 0))
        found = auroc_interval(x, y, clusters, clusters, draws=400)
        covered += found.low <= truth <= found.high
    assert 88 <= covered <= 100


def test_rows_of_one_cluster_count_once():
    """Copying every row does not narrow the interval; a single cluster gives none."""
    rng = np.random.default_rng(1)
    x, y, clusters = rng.standard_normal(20) + 1, rng.standard_normal(20), np.arange(20)
    once = auroc_interval(x, y, clusters, clusters)
    copied = auroc_interval(*(np.repeat(v, 10) for v in (x, y, clusters, clusters)))
    assert copied == pytest.approx(once, abs=1e-12)
    lone = auroc_interval(x, y, np.zeros(20), clusters)
    assert lone.value == once.value
    assert np.isnan([lone.low, lone.high]).all()
    lone = tpr_at_fpr_interval(x, y, clusters, np.zeros(20), 0.1)
    assert np.isnan([lone.low, lone.high]).all()


@pytest.mark.parametrize(("members", "others"), [([], [1.0]), ([1.0], []), ([1.0], [np.nan]), ([[1.0]], [1.0])])
def test_scores_that_cannot_be_ranked_are_refused(members, others):
    for measure in (auroc, roc_curve, tpr_at_fpr, balanced_accuracy):
        with pytest.raises(InputError):
            measure(members, others)


def test_each_row_needs_its_cluster():
    with pytest.raises(ValueError, match="2 scores"):
        auroc_interval([1.0, 2.0], [0.0], [0], [0])
