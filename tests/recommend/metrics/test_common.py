"""Weighted statistics against their plain forms, and draws that take a user on both sides."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ks_2samp

from expunge.errors import InputError
from expunge.membership import auroc
from expunge.recommend.metrics._common import by_users, ratio_of_means, weighted_auroc, weighted_ks

DRAWS = np.random.default_rng(0)
A = DRAWS.integers(0, 12, 40).astype(float)  # ties on purpose
B = DRAWS.integers(3, 15, 55).astype(float)
ONES = [np.ones((1, 40)), np.ones((1, 55))]


def test_equal_weights_give_the_plain_statistics() -> None:
    assert weighted_auroc(A, B)(ONES)[0] == pytest.approx(auroc(A, B))
    assert weighted_ks(A, B)(ONES)[0] == pytest.approx(ks_2samp(A, B).statistic)
    assert ratio_of_means(A, B)(ONES)[0] == pytest.approx(A.mean() / B.mean())
    assert weighted_ks(A, A)([np.ones((1, 40))] * 2)[0] == pytest.approx(0.0, abs=1e-12)


def test_whole_weights_are_repeated_rows() -> None:
    u, v = DRAWS.integers(0, 4, (3, 40)), DRAWS.integers(0, 4, (3, 55))
    for make in (weighted_auroc, weighted_ks, ratio_of_means):
        found = make(A, B)([u.astype(float), v.astype(float)])
        for row in range(3):
            x, y = np.repeat(A, u[row]), np.repeat(B, v[row])
            assert found[row] == pytest.approx(make(x, y)([np.ones((1, len(x))), np.ones((1, len(y)))])[0])


def test_a_draw_takes_a_user_on_both_sides() -> None:
    """Each user's two values are equal, so the ratio is 1 in every draw; independent draws would spread it."""
    users = np.arange(30)
    values = 1.0 + users
    interval = by_users(ratio_of_means(values, values[::-1]), (users, users[::-1]))
    assert interval == pytest.approx((1.0, 1.0, 1.0))


def test_more_users_narrow_the_interval_and_blocks_of_draws_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def interval(users: int) -> tuple[float, float, float]:
        rng = np.random.default_rng(1)
        ids = np.arange(users)
        return by_users(weighted_auroc(rng.normal(1, 1, users), rng.normal(0, 1, users)), (ids, ids))

    few, many = interval(20), interval(500)
    assert few[1] < few[0] < few[2]
    assert many[2] - many[1] < (few[2] - few[1]) / 3
    monkeypatch.setattr("expunge.recommend.metrics._common.HELD", 700)
    assert interval(20) == pytest.approx(few)


def test_one_user_has_no_interval_and_an_empty_side_is_refused() -> None:
    one = np.zeros(3, dtype=np.int64)
    value, low, high = by_users(ratio_of_means(np.ones(3), np.full(3, 2.0)), (one, one))
    assert value == 0.5
    assert np.isnan([low, high]).all()
    with pytest.raises(InputError, match="no interactions on one side"):
        by_users(ratio_of_means(A, B[:0]), (np.arange(40), np.arange(0)))
