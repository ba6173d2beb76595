"""The one-run bound on epsilon: closed forms, plain sums, and randomised response, whose epsilon is known."""

from __future__ import annotations

from functools import cache
from math import comb

import numpy as np
import pytest

from expunge.errors import InputError
from expunge.membership import epsilon_bound, one_run_bound, p_value


def test_all_guesses_right():
    """q^100 = 0.05 at q = 0.05^(1/100) = 1 / (1 + e^-eps): eps = -log(0.05^(-1/100) - 1) = 3.49297."""
    found = epsilon_bound(100, 100, 100)
    assert found.epsilon == pytest.approx(3.49297, abs=1e-5)
    assert found.epsilon == pytest.approx(-np.log(0.05**-0.01 - 1), abs=1e-9)


def test_p_value_is_the_sum_it_stands_for():
    m, r, eps, delta = 50, 20, 0.7, 1e-3
    q = 1 / (1 + np.exp(-eps))
    pmf = [comb(r, k) * q**k * (1 - q) ** (r - k) for k in range(r + 1)]
    for v in range(r + 1):
        tail = sum(pmf[v:])
        assert p_value(m, r, v, eps) == pytest.approx(min(1, tail), abs=1e-12)
        alpha = max((sum(pmf[v - i : v]) / i for i in range(1, v + 1)), default=0)
        assert p_value(m, r, v, eps, delta) == pytest.approx(min(1, tail + 2 * m * delta * alpha), abs=1e-12)


def test_the_bound_is_where_the_p_value_crosses():
    for delta in (0.0, 1e-5, 1e-3):
        found = epsilon_bound(1000, 400, 300, delta).epsilon
        assert p_value(1000, 400, 300, found - 1e-6, delta) < 0.05
        assert p_value(1000, 400, 300, found + 1e-6, delta) > 0.05
        below = [p_value(1000, 400, 300, e, delta) for e in np.linspace(0, found, 50)]
        assert (np.diff(below) >= 0).all()  # so the crossing is the only one


def test_more_right_guesses_more_abstention_and_less_delta_raise_it():
    bounds = [epsilon_bound(1000, 100, v).epsilon for v in range(60, 101, 5)]
    assert (np.diff(bounds) > 0).all()
    assert epsilon_bound(1000, 50, 50).epsilon < epsilon_bound(1000, 100, 100).epsilon
    deltas = [epsilon_bound(1000, 100, 90, d).epsilon for d in (0.0, 1e-6, 1e-4, 1e-2)]
    assert (np.diff(deltas) < 0).all()
    assert epsilon_bound(100, 100, 90, significance=0.01).epsilon < epsilon_bound(100, 100, 90).epsilon


@pytest.mark.parametrize("correct", [0, 30, 50, 58])
def test_guessing_gives_nothing(correct):
    """P[Binomial(100, 1/2) >= 58] = 0.067."""
    assert epsilon_bound(100, 100, correct).epsilon == 0.0


def test_randomised_response_is_not_bounded_above_its_epsilon():
    """Each coin is told truly with probability e / (1 + e): exactly 1-DP. The bound may exceed 1 in one of 20 runs."""
    rng = np.random.default_rng(0)
    known = cache(lambda v: epsilon_bound(500, 500, v).epsilon)
    bounds = np.array([known(int(v)) for v in rng.binomial(500, 1 / (1 + np.exp(-1)), 1000)])
    assert (bounds > 1).mean() <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 1000)
    assert np.median(bounds) > 0.7


def told(m, epsilon, seed):
    rng = np.random.default_rng(seed)
    coins = rng.random(m) < 0.5
    truly = rng.random(m) < 1 / (1 + np.exp(-epsilon))
    return np.where(truly, coins, ~coins) + 0.1 * rng.random(m), coins


def test_scores_are_guessed_on_both_tails():
    """Ten canaries, six guesses: the three highest in, the three lowest out; one of either is wrong."""
    scores = np.arange(10.0)
    coins = np.array([0, 1, 0, 1, 1, 0, 1, 1, 0, 1], dtype=bool)
    found = one_run_bound(scores, coins, 6)
    assert (found.canaries, found.guesses, found.correct) == (10, 6, 4)
    assert one_run_bound(scores, coins, 3).correct == 2  # 8, 9 in (9 is); 0 out
    assert one_run_bound(-scores, coins, 6).correct == 2


def test_a_mechanism_that_leaks_is_bounded_and_one_that_does_not_is_not():
    scores, coins = told(2000, 3.0, 0)
    found = one_run_bound(scores, coins, 1000)
    assert 2.0 < found.epsilon < 3.3
    rng = np.random.default_rng(1)
    silent = [one_run_bound(rng.random(300), rng.random(300) < 0.5, 200, seed=s).epsilon > 0 for s in range(200)]
    assert np.mean(silent) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 200)


def test_several_numbers_of_guesses_are_corrected_for():
    scores, coins = told(2000, 3.0, 0)
    numbers = [100, 500, 1000, 2000]
    found = one_run_bound(scores, coins, numbers)
    alone = [one_run_bound(scores, coins, r, significance=0.05 / 4) for r in numbers]
    assert found == max(alone, key=lambda bound: bound.epsilon)
    assert found.significance == 0.0125
    assert found.epsilon < max(one_run_bound(scores, coins, r).epsilon for r in numbers)
    assert one_run_bound(scores, coins, [100, 100]) == one_run_bound(scores, coins, 100)  # one number, one test


def test_equal_scores_are_not_put_in_the_order_of_the_rows():
    """All members first and all scores equal: any order of rows would guess every coin or none."""
    coins = np.arange(1000) < 500
    found = [one_run_bound(np.zeros(1000), coins, 500, seed=s).correct for s in range(20)]
    assert 220 < np.mean(found) < 280
    assert one_run_bound(np.zeros(1000), coins, 500, seed=3) == one_run_bound(np.zeros(1000), coins, 500, seed=3)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ((10, 11, 5), "5 correct of 11 guesses on 10"),
        ((10, 5, 6), "6 correct of 5"),
        ((10, 0, 0), "and a guess"),
        ((10, 5, -1), "-1 correct"),
        ((10, 5, 5, 1.0), "delta=1.0"),
        ((10, 5, 5, -0.1), "delta=-0.1"),
        ((10, 5, 5, 0.0, 1.0), "significance=1.0"),
    ],
)
def test_counts_that_cannot_be_are_refused(settings, said):
    with pytest.raises(InputError, match=said):
        epsilon_bound(*settings)


def test_canaries_that_cannot_be_guessed_are_refused():
    coins = np.array([True, False, True])
    for scores, included, guesses, said in (
        ([1.0, np.nan, 0.0], coins, 2, "canary 2 is NaN"),
        ([1.0, 0.0], coins, 2, "one true or false coin each"),
        ([1.0, 0.0, 0.0], coins.astype(int), 2, "true or false"),
        ([1.0, 0.0, 0.0], np.ones(3, bool), 2, "no fair coins"),
        ([1.0, 0.0, 0.0], coins, 4, r"guesses=\[4\]"),
        ([1.0, 0.0, 0.0], coins, [2, 0], r"guesses=\[0\]"),
        ([1.0, 0.0, 0.0], coins, [], "guesses="),
    ):
        with pytest.raises(InputError, match=said):
            one_run_bound(scores, included, guesses)
