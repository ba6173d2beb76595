from __future__ import annotations

from math import comb

import numpy as np
import pytest
from scipy import stats

from expunge.errors import InputError
from expunge.language.metrics.forget_quality import ForgetQuality, forget_quality, ks_distance


def exact_p(n: int, k: int) -> float:
    """P(D >= k/n) of two samples of n (Gnedenko and Korolyuk 1951): 2 sum_i (-1)^(i-1) C(2n, n-ik) / C(2n, n)."""
    return float(2 * sum((-1) ** (i - 1) * comb(2 * n, n - i * k) for i in range(1, n // k + 1)) / comb(2 * n, n))


def at_distance(n: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Two samples of n whose distribution functions differ by k/n at most: one shifted by k - 1/2 places."""
    return np.exp(np.arange(n) / n), np.exp((np.arange(n) + k - 0.5) / n)


@pytest.mark.parametrize(("n", "p"), [(40, 1.8603e-23), (200, 1.9426e-119), (400, 1.0636e-239)])
def test_disjoint_samples(n, p):
    """Only 2 of the C(2n, n) interleavings separate the samples entirely."""
    found = forget_quality(*at_distance(n, n))
    assert found.ks == 1
    assert found.p == pytest.approx(2 / comb(2 * n, n), rel=1e-9)
    assert found.p == pytest.approx(p, rel=1e-4)


@pytest.mark.parametrize(
    ("k", "p"),
    [(4, 0.99), (5, 0.919), (6, 0.766), (7, 0.579), (8, 0.405), (9, 0.266), (10, 0.165), (11, 0.0971), (12, 0.0541),
     (13, 0.0286), (14, 0.0143), (15, 0.00676)],
)  # fmt: skip
def test_forget01_has_only_these_values(k, p):
    found = forget_quality(*at_distance(40, k))
    assert found.ks == pytest.approx(k / 40)
    assert found.p == pytest.approx(exact_p(40, k), rel=1e-9)
    assert found.p == pytest.approx(p, rel=6e-3)


@pytest.fixture
def ratios():
    rng = np.random.default_rng(2)
    return np.exp(rng.normal(0, 1, 120)), np.exp(rng.normal(0.4, 1, 120))


def test_a_model_against_itself_is_perfect(ratios):
    assert forget_quality(ratios[0], ratios[0]) == (1.0, 0.0)


def test_order_and_inversion_change_nothing(ratios):
    model, gold = ratios
    found = forget_quality(model, gold)
    shuffle = np.random.default_rng(0).permutation(120)
    assert forget_quality(model[shuffle], gold) == found
    assert forget_quality(1 / model, 1 / gold) == pytest.approx(found, rel=1e-9)


def test_distance_equals_scipys_with_ties(ratios):
    model, gold = (np.round(r, 1) for r in ratios)
    assert ks_distance(model, gold) == pytest.approx(stats.ks_2samp(model, gold).statistic, abs=1e-12)


def test_refusals(ratios):
    model, gold = ratios
    with pytest.raises(InputError, match="gold model"):
        forget_quality(model, None)
    with pytest.raises(InputError, match="120 rows of the model and 119"):
        forget_quality(model, gold[:-1])
    with pytest.raises(InputError, match="0 rows"):
        forget_quality(model[:0], gold[:0])


def _store(split, store, right, name="npo", **settings):
    return store(name, forget=split([[p] for p in right], [[[0.3], [0.3]]] * len(right), **settings))


def test_measured_beside_gold(split, store):
    """R = 0.3 / p: the model's p all above gold's, so the ratios are disjoint: KS 1, p = 2 / C(16, 8)."""
    clusters = [0, 0, 1, 1, 2, 2, 3, 3]
    model = _store(split, store, np.linspace(0.6, 0.9, 8), clusters=clusters)
    gold = _store(split, store, np.linspace(0.1, 0.4, 8), "gold", clusters=clusters)
    quality, ks = ForgetQuality().measure(model, gold)
    assert (quality.metric, quality.subject, quality.n, quality.direction) == ("forget_quality", "npo", 8, "higher")
    assert quality.value == pytest.approx(2 / comb(16, 8))
    assert np.isnan([quality.low, quality.high]).all()
    assert (ks.metric, ks.value, ks.low, ks.high, ks.direction) == ("forget_quality.ks", 1, 1, 1, "lower")
    quality, ks = ForgetQuality().measure(gold, gold)
    assert (quality.value, ks.value, ks.low, ks.high) == (1, 0, 0, 0)


def test_the_interval_of_the_distance_holds_the_estimate(split, store):
    rng = np.random.default_rng(4)
    sides = [_store(split, store, rng.uniform(0.2, 0.8, 40)) for _ in range(2)]
    ks = ForgetQuality().measure(*sides)[1]
    assert ks.low <= ks.value <= ks.high
    assert ks.high - ks.low > 0.05


def test_the_interval_is_widened_where_resampling_only_overstates(split, store):
    """Gold's p all a hair lower: KS 1/20, but a row drawn twice makes it 2/20, and some row is, in every draw."""
    p = np.linspace(0.4, 0.8, 20)
    ks = ForgetQuality().measure(_store(split, store, p), _store(split, store, p - 1e-6, "gold"))[1]
    assert ks.value == pytest.approx(1 / 20)
    assert ks.low == ks.value
    assert ks.high >= 2 / 20


def test_the_mean_is_a_setting_of_both_sides(split, store):
    """R of ten rows of p = 1/2 against 0.1, 0.4: 0.4 (geometric) or 0.5 (arithmetic); the other model's R are 0.3
    and 0.45, five times each, by either mean: half of them, or all, lie below."""
    mixed = store(forget=split([[0.5]] * 10, [[[0.1], [0.4]]] * 10))
    plain = store(forget=split([[0.5]] * 10, [[[r / 2], [r / 2]] for r in (0.3, 0.45) * 5]))
    for mean, distance in (("geometric", 0.5), ("arithmetic", 1.0)):
        for model, gold in ((mixed, plain), (plain, mixed)):
            assert ForgetQuality(mean=mean).measure(model, gold)[1].value == pytest.approx(distance)


def test_without_gold_or_on_other_rows_it_refuses(split, store):
    model = _store(split, store, [0.5, 0.6])
    assert ForgetQuality.needs_gold
    with pytest.raises(InputError, match="there is none"):
        ForgetQuality().measure(model, None)
    with pytest.raises(InputError, match="differ"):
        ForgetQuality().measure(model, _store(split, store, [0.5, 0.6], answers=["other", "rows"]))
    with pytest.raises(InputError, match="mean='mode'"):
        ForgetQuality(mean="mode")
