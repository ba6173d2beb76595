"""Sums over IN and OUT models, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from expunge.errors import InputError
from expunge.membership import References, references


def drawn(models=9, n=40, seed=0):
    rng = np.random.default_rng(seed)
    inside = rng.random((models, n)) < 0.5
    inside[0], inside[1] = True, False
    return rng.standard_normal((models, n)), inside


@pytest.mark.parametrize("models", [2, 9, 10])
def test_sides_are_plain_statistics_over_the_mask(models):
    values, inside = drawn(models)
    for side, mask in zip(References(values, inside).both, (inside, ~inside), strict=True):
        columns = [values[mask[:, i], i] for i in range(40)]
        assert side.models.tolist() == [len(c) for c in columns]
        assert side.median == pytest.approx([np.median(c) for c in columns], abs=1e-14)
        assert side.mean == pytest.approx([c.mean() for c in columns], abs=1e-14)
        assert side.deviation == pytest.approx([c.std() for c in columns], abs=1e-14)
        assert side.spread == pytest.approx(values[mask].std(), abs=1e-14)


def test_working_in_blocks_changes_nothing(monkeypatch):
    whole = References(*drawn()).both
    monkeypatch.setattr(references, "BLOCK", 30)
    for a, b in zip(whole, References(*drawn()).both, strict=True):
        assert a.median.tolist() == b.median.tolist()
        assert a.spread == pytest.approx(b.spread, abs=1e-14)


def test_genuine_zeros_and_all_out_values_are_kept():
    """Four OUT models, two of which say 0: the mean is over four, not over the larger half."""
    r = References(np.array([[0.0], [0.0], [0.2], [0.6]]), np.zeros((4, 1), bool))
    assert r.outside.mean[0] == pytest.approx(0.2)
    assert r.outside.models[0] == 4


def test_stand_ins_leave_their_partner_out():
    rng = np.random.default_rng(0)
    half = rng.random((3, 20)) < 0.5
    inside = np.stack([half, ~half], 1).reshape(6, 20)
    r = References(rng.standard_normal((6, 20)), inside, paired=True)
    found = list(r.stand_ins())
    assert sorted(s.model for s in found) == list(range(6))
    assert [s.model for s in r.stand_ins(3)] == [0, 2, 4]
    for m, values, mask, others in found:
        kept = [k for k in range(6) if k // 2 != m // 2]
        assert np.array_equal(values, r.values[m])
        assert np.array_equal(mask, inside[m])
        assert np.array_equal(others.values, r.values[kept])
        assert others.paired
        assert (others.inside.sum(0) == 2).all()  # as balanced as before, whatever m was trained on


def test_unpaired_stand_ins_keep_all_the_others():
    r = References(*drawn())
    assert [len(s.others) for s in r.stand_ins(2)] == [8, 8]
    assert not r.without(0).paired


@pytest.mark.parametrize(
    ("values", "inside", "paired", "said"),
    [
        (np.zeros((3, 2)), np.zeros((3, 2), bool), True, "3 reference models cannot be paired"),
        (np.zeros((2, 2)), np.array([[True, False], [True, True]]), True, "models 1 and 2 are no pair.*record 1"),
        (np.array([[0.0, 1.0], [np.nan, 0.0]]), np.zeros((2, 2), bool), False, "model 2 gives record 1"),
        (np.zeros((2, 2)), np.zeros((2, 2)), False, "booleans"),
        (np.zeros((2, 2)), np.zeros((2, 3), bool), False, "booleans of shape"),
        (np.zeros(2), np.zeros(2, bool), False, r"\[models, records\]"),
        (np.zeros((0, 2)), np.zeros((0, 2), bool), False, r"\[models, records\]"),
    ],
)
def test_wrong_references_are_refused(values, inside, paired, said):
    with pytest.raises(InputError, match=said):
        References(values, inside, paired)


def test_records_without_a_side_are_refused():
    values = np.zeros((2, 3))
    with pytest.raises(InputError, match="Record 2 has no OUT model"):
        _ = References(values, np.array([[False, True, True], [True, True, False]])).outside
    with pytest.raises(InputError, match=r"Record 3 has no IN model.*offline"):
        _ = References(values, np.array([[False, True, False], [True, False, False]])).both


def test_values_of_the_target_are_checked():
    r = References(*drawn())
    with pytest.raises(InputError, match="40 records"):
        r.target(np.zeros(39))
    with pytest.raises(InputError, match="record 2 is not finite"):
        r.target(np.array([0.0, np.nan] + [0.0] * 38))
    with pytest.raises(InputError, match="at least 2"):
        next(References(np.zeros((1, 2)), np.zeros((1, 2), bool)).stand_ins())
    with pytest.raises(InputError, match="at least 4"):
        next(References(np.zeros((2, 2)), np.zeros((2, 2), bool), paired=True).stand_ins())
