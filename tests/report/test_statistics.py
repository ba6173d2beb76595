from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from expunge.report.statistics import (
    acquittal_power,
    bca_interval,
    cluster_bootstrap,
    cluster_means,
    clusters_needed,
    holm,
    one_sided_p,
    simulate_rates,
    upper_bound,
)


def test_cluster_p_equals_the_plain_t_test_when_each_cluster_has_one_item():
    x = np.random.default_rng(0).normal(0.1, 0.3, 17)
    means = cluster_means(x, np.arange(17))
    np.testing.assert_array_equal(means, x)
    expected = stats.ttest_1samp(x, 0.02, alternative="greater").pvalue
    assert one_sided_p(means, null=0.02) == pytest.approx(expected, rel=1e-12)


def test_duplicating_items_inside_clusters_shrinks_nothing():
    """Ten copies of each item leave every cluster mean as it was, so interval, bound and p stay put."""
    rng = np.random.default_rng(1)
    values, clusters = rng.normal(size=40), np.repeat(np.arange(8), 5)
    many, owners = np.repeat(values, 10), np.repeat(clusters, 10)
    assert cluster_bootstrap(many, owners) == pytest.approx(cluster_bootstrap(values, clusters))
    once, tenfold = cluster_means(values, clusters), cluster_means(many, owners)
    assert upper_bound(tenfold) == pytest.approx(upper_bound(once))
    assert one_sided_p(tenfold) == pytest.approx(one_sided_p(once))


def test_bootstrap_interval_of_independent_items_is_the_normal_one():
    """n = 400 unit normals in their own clusters: half width 1.96 * sd / 20."""
    x = np.random.default_rng(2).normal(3.0, 1.0, 400)
    interval = cluster_bootstrap(x, np.arange(400), draws=4000)
    assert interval.value == pytest.approx(x.mean())
    assert (interval.high - interval.low) / 2 == pytest.approx(1.96 * x.std() / 20, rel=0.06)


def test_bootstrap_widens_with_dependence():
    """400 copies of 4 values know as much as 4 values: the interval is 10 times that of 400 free ones."""
    x = np.repeat(np.random.default_rng(3).normal(size=4), 100)
    grouped = cluster_bootstrap(x, np.repeat(np.arange(4), 100))
    free = cluster_bootstrap(x, np.arange(400))
    assert (grouped.high - grouped.low) > 6 * (free.high - free.low)


def test_generic_statistic_agrees_with_the_fast_mean_and_serves_paired_arrays():
    rng = np.random.default_rng(4)
    values, clusters = rng.normal(size=60), rng.integers(0, 12, 60)
    fast = cluster_bootstrap(values, clusters, draws=3000)
    slow = cluster_bootstrap(values, clusters, lambda rows: float(rows.mean()), draws=3000)
    assert slow == pytest.approx(fast, abs=0.03)

    other = values - 2.0  # perfectly paired: the difference is 2 in every resample
    by_index = cluster_bootstrap(np.arange(60), clusters, lambda i: float((values[i] - other[i]).mean()))
    assert by_index == pytest.approx((2.0, 2.0, 2.0))
    columns = np.stack([values, other], axis=1)
    assert cluster_bootstrap(columns, clusters, lambda rows: float(np.ptp(rows, axis=1).max())).value == 2.0


def test_bootstrap_edges():
    one = cluster_bootstrap(np.array([0.2, 0.4]), np.array([5, 5]))
    assert one.value == pytest.approx(0.3)
    assert np.isnan([one.low, one.high]).all()
    with pytest.raises(ValueError, match="0 rows"):
        cluster_bootstrap(np.zeros(0), np.zeros(0))
    with pytest.raises(ValueError, match="2 cluster labels"):
        cluster_bootstrap(np.zeros(3), np.zeros(2))
    # A statistic undefined on some resamples is taken over the rest.
    label = np.array([0, 1])
    auc = cluster_bootstrap(np.arange(2), label, lambda i: 1.0 if len(set(label[i])) == 2 else float("nan"))
    assert auc == (1.0, 1.0, 1.0)


def test_bca_and_t_bounds():
    """Symmetric data with many clusters: both bounds approach mean + 1.645 se; t is wider at 6 clusters."""
    x = np.random.default_rng(5).normal(size=900)
    normal = x.mean() + 1.645 * x.std(ddof=1) / 30
    assert upper_bound(x) == pytest.approx(normal, abs=0.004)
    few = np.array([-2.0, -1.0, -0.5, 0.5, 1.0, 2.0])
    student = 2.015 * few.std(ddof=1) / np.sqrt(6)  # t quantile 0.95 with 5 degrees of freedom
    assert bca_interval(few, level=0.9).high < student
    assert upper_bound(few) == pytest.approx(student, rel=1e-3)


def test_bca_corrects_for_skew():
    """Exponential cluster means: the BCa interval reaches further to the right than to the left."""
    interval = bca_interval(np.random.default_rng(6).exponential(size=30))
    assert interval.high - interval.value > 1.2 * (interval.value - interval.low)


def test_constant_clusters():
    assert bca_interval(np.full(6, 0.3)) == pytest.approx((0.3, 0.3, 0.3))
    assert one_sided_p(np.full(6, 0.5)) == 0.0
    assert one_sided_p(np.zeros(6)) == 1.0


def test_holm_by_hand():
    """p = .01 .04 .03 .005: sorted .005*4=.02, .01*3=.03, .03*2=.06, .04*1=.04 -> raised to .06."""
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.6, 0.9]), [1.0, 1.0])
    assert len(holm([])) == 0


TABLE = [
    (10, 20, 0.10, 0.10),
    (20, 20, 0.10, 0.39),
    (40, 20, 0.10, 0.79),
    (100, 10, 0.10, 0.99),
    (20, 20, 0.20, 0.99),
]


@pytest.mark.parametrize(("clusters", "items", "delta", "chance"), TABLE)
def test_simulation_reproduces_the_published_power(clusters, items, delta, chance):
    rates = simulate_rates(clusters, items, delta=delta)
    assert rates.acquittal == pytest.approx(chance, abs=0.05)
    assert rates.conviction <= 0.05  # family-wise level of Holm


@pytest.mark.parametrize("clusters", [10, 20, 40])
def test_simulated_error_rates(clusters):
    """A residue exactly at the tolerance is hardly ever acquitted; a large one is always convicted."""
    assert simulate_rates(clusters, 20, residue=0.10).acquittal <= 0.015
    assert simulate_rates(clusters, 20, residue=0.30).conviction >= 0.99
    assert simulate_rates(clusters, 20, residue=[0.4, 0, 0, 0, 0, 0]).conviction >= 0.99


@pytest.mark.parametrize("clusters", [8, 20, 40])
def test_quadrature_power_equals_simulation(clusters):
    sd = np.sqrt(0.1**2 + 0.25**2 / 20)
    simulated = simulate_rates(clusters, 20, runs=6000).acquittal
    assert acquittal_power(clusters, sd, 0.06) == pytest.approx(simulated, abs=0.03)


def test_power_of_one_channel_is_a_one_sample_t_test():
    """One channel: P(mean + t se < margin) is the power of a t-test with shift margin / sd * sqrt(n)."""
    expected = stats.nct.sf(stats.t.ppf(0.95, 11), 11, np.sqrt(12) * 0.5)
    assert acquittal_power(12, 0.2, 0.1, channels=1) == pytest.approx(expected, abs=1e-6)
    assert acquittal_power(12, 0.0, 0.1) == 1.0


def test_clusters_needed_is_the_smallest_that_suffices():
    n = clusters_needed(0.115, 0.06)
    assert n is not None
    assert acquittal_power(n, 0.115, 0.06) >= 0.8 > acquittal_power(n - 1, 0.115, 0.06)
    assert clusters_needed(0.5, 0.0005) is None
