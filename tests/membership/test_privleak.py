"""PrivLeak: its bounds, its orientation against MUSE's, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from expunge.errors import InputError
from expunge.membership import privleak


@pytest.mark.parametrize("gold", [0.0, 0.3, 0.5, 0.9])
def test_bounds(gold):
    """-100 at a full leak (A_u = 1), 100 A_r / (1 - A_r) at A_u = 0, 0 at gold's value, falling in between."""
    assert privleak(1.0, gold).value == pytest.approx(-100)
    assert privleak(0.0, gold).value == pytest.approx(100 * gold / (1 - gold))
    assert privleak(gold, gold).value == 0
    values = [privleak(a, gold).value for a in np.linspace(0, 1, 11)]
    assert (np.diff(values) < 0).all()


@pytest.mark.parametrize(("muse_gold", "upper"), [(0.4772, 109.56), (0.5393, 85.43)])
def test_upper_bounds_of_muse(muse_gold, upper):
    """MUSE's AUROC is 1 - ours: News and Books reach 109.6 and 85.4 at most."""
    assert privleak(0.0, 1 - muse_gold).value == pytest.approx(upper, abs=0.01)


def test_equals_the_formula_in_muses_orientation():
    muse_u, muse_r = 0.31, 0.48
    assert privleak(1 - muse_u, 1 - muse_r).value == pytest.approx(100 * (muse_u - muse_r) / muse_r)


def test_both_aurocs_come_along():
    found = privleak(0.8, 0.6)
    assert (found.unlearned_auroc, found.gold_auroc) == (0.8, 0.6)
    assert found.value == pytest.approx(-50)


@pytest.mark.parametrize(("unlearned", "gold"), [(0.5, None), (0.5, 1.0), (1.2, 0.5), (0.5, -0.1), (np.nan, 0.5)])
def test_refuses_what_has_no_value(unlearned, gold):
    """A missing gold model is not 0.5."""
    with pytest.raises(InputError, match="PrivLeak"):
        privleak(unlearned, gold)
