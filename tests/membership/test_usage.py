"""The share of records still in use, on simulated attacks."""

from __future__ import annotations

import numpy as np
import pytest

from expunge.errors import InputError
from expunge.membership import Calibration, calibrated_threshold, usage, used_share


def simulated(n, p, rng, d=2.0):
    return rng.standard_normal(n) + d * (rng.random(n) < p)


def calibrated(seed=0, d=2.0, k=8, n=4000):
    rng = np.random.default_rng(seed)
    inside = rng.random((k, n)) < 0.5
    return calibrated_threshold(rng.standard_normal((k, n)) + d * inside, inside)


def by_hand(tpr=0.8, fpr=0.2, stand_ins=1, n=1000):
    full = np.full(stand_ins, n)
    return Calibration(0.5, (tpr * full).astype(int), full, (fpr * full).astype(int), full)


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_known_rates_give_the_share_back(p):
    """n = 10^4, TPR 0.8, FPR 0.2: the standard error is about 0.008."""
    rng = np.random.default_rng(7)
    member = rng.random(10_000) < p
    called = rng.random(10_000) < np.where(member, 0.8, 0.2)
    found = used_share(called.astype(float), by_hand())
    assert found.raw == pytest.approx(p, abs=0.02)
    assert found.raw == pytest.approx((called.mean() - 0.2) / 0.6, abs=1e-12)
    assert found.low < found.raw < found.high


@pytest.mark.parametrize("p", [0.0, 0.25, 1.0])
def test_rates_learnt_from_stand_ins_give_the_share_back(p):
    found = used_share(simulated(10_000, p, np.random.default_rng(1)), calibrated())
    assert found.raw == pytest.approx(p, abs=0.03)
    assert found.records == 10_000


def test_an_estimate_outside_is_clipped_and_says_so():
    """Nothing is called a member: raw = -FPR / (TPR - FPR) = -1/3."""
    found = used_share(np.zeros(100), by_hand(stand_ins=2))
    assert found.raw == pytest.approx(-1 / 3)
    assert found.share == 0.0
    assert found.note == "The estimate -0.3333 lies outside [0, 1] and was clipped."
    found = used_share(np.ones(100), by_hand(stand_ins=2))
    assert (found.share, found.raw) == (1.0, pytest.approx(4 / 3))
    inside = used_share(np.arange(100) % 2, by_hand(stand_ins=2))
    assert inside.share == inside.raw == pytest.approx(0.5)
    assert inside.note == ""
    assert "one stand-in" in used_share(np.arange(100) % 2, by_hand()).note


def test_the_interval_covers_the_share():
    covered = 0
    calibration = calibrated()
    for seed in range(100):
        found = used_share(simulated(400, 0.3, np.random.default_rng(seed)), calibration, draws=200)
        covered += found.low <= 0.3 <= found.high
    assert 88 <= covered <= 100


def test_clusters_are_the_unit(monkeypatch):
    """Copying every record does not narrow the interval; a lone cluster gives none."""
    scores = simulated(200, 0.5, np.random.default_rng(0))
    calibration = calibrated()
    once = used_share(scores, calibration, np.arange(200))
    copied = used_share(np.repeat(scores, 10), calibration, np.repeat(np.arange(200), 10))
    assert (copied.low, copied.high) == pytest.approx((once.low, once.high), abs=1e-12)
    alone = used_share(scores, calibration, draws=4000)  # rows that stand alone: the same distribution
    assert (alone.low, alone.high) == pytest.approx((once.low, once.high), abs=0.03)
    monkeypatch.setattr(usage, "BLOCK", 1000)
    assert used_share(scores, calibration, np.arange(200)) == once
    lone = used_share(scores, calibration, np.zeros(200))
    assert lone.raw == once.raw
    assert np.isnan([lone.low, lone.high]).all()


def test_stand_ins_that_differ_widen_the_interval():
    agree = by_hand(stand_ins=4)
    differ = Calibration(0.5, np.array([700, 900, 700, 900]), agree.members, agree.false_alarms, agree.nonmembers)
    called = np.ones(10_000)
    assert differ.tpr == agree.tpr
    spans = [np.diff(used_share(called, c)[2:4])[0] for c in (agree, differ)]
    assert spans[1] > spans[0] + 0.05


@pytest.mark.parametrize("seed", range(10))
def test_an_attack_without_power_is_refused(seed):
    """The best of all thresholds always has TPR > FPR on its own stand-ins: that is no power."""
    calibration = calibrated(seed, d=0.0, k=2, n=500)
    assert calibration.tpr > calibration.fpr
    with pytest.raises(InputError, match=r"no power.*cannot be told"):
        used_share(np.zeros(10), calibration)


def test_wrong_scores_are_refused():
    for scores, said in (([], "shape"), ([[1.0]], "shape"), ([np.nan], "record 1 is not finite")):
        with pytest.raises(InputError, match=said):
            used_share(scores, by_hand())
    with pytest.raises(InputError, match="cluster labels"):
        used_share([1.0, 0.0], by_hand(), [1])
    split = Calibration(
        0.5, np.array([1000, 100]), *(np.array([1000, 1000]), np.array([0, 600]), np.array([1000, 1000]))
    )
    with pytest.raises(InputError, match="none on others"):
        used_share([1.0, 0.0], split)
