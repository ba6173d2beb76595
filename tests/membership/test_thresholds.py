"""Thresholds chosen on stand-ins, and the published way."""

from __future__ import annotations

import numpy as np
import pytest

from expunge.errors import InputError
from expunge.membership import (
    References,
    auroc,
    balanced_accuracy,
    calibrated_threshold,
    model_lira,
    published_rates,
    rates_at,
    stand_in_scores,
    tpr_at_fpr,
)


def gaussians(n, d, seed, k=None):
    rng = np.random.default_rng(seed)
    shape = n if k is None else (k, n)
    member = rng.random(shape) < 0.5
    return rng.standard_normal(shape) + d * member, member


def test_published_rates_of_a_hand_made_curve_with_ties():
    """Scores by hand: 3 | members 2, others 0; 2 | members 1, others 1; 1 | members 1, others 3.

    (FPR, TPR): (0, 0), (0, 1/2), (1/4, 3/4), (1, 1). TPR - FPR is 1/2 at the second and third: the strictest wins.
    Strictly below 10% and below 1% the last point is (0, 1/2).
    """
    scores = np.array([3, 3, 2, 1, 2, 1, 1, 1], dtype=float)
    found = published_rates(scores, np.array([1, 1, 1, 1, 0, 0, 0, 0]))
    assert found.best == (3.0, 0.75, 1.0, 0.5, 2 / 3, 0.5, 0.0, 0.5)
    assert (found.tpr_at_1_fpr, found.tpr_at_10_fpr) == (0.5, 0.5)
    assert found.auroc == (2 * 4 + 1 * 3.5 + 1 * 1.5) / 16


def test_the_published_level_is_strictly_below():
    """With exactly 10 of 100 false positives the point at FPR = 10% does not count, for `tpr_at_fpr` it does."""
    members, others = np.full(10, 2.0), np.concatenate([np.full(10, 2.0), np.zeros(90)])
    scores, member = np.concatenate([members, others]), np.arange(110) < 10
    assert published_rates(scores, member).tpr_at_10_fpr == 0.0
    assert tpr_at_fpr(members, others, 0.1) == 1.0


def test_published_rates_agree_with_plain_counts():
    scores, member = gaussians(500, 1.0, 0)
    scores = scores.round(1)
    found = published_rates(scores, member)
    best = found.best
    assert found.auroc == auroc(scores[member], scores[~member])
    assert best.accuracy == pytest.approx(balanced_accuracy(scores[member], scores[~member]), abs=1e-12)
    called = scores >= best.threshold
    assert best.precision == pytest.approx(member[called].mean())
    assert best.recall == pytest.approx(called[member].mean())
    assert best.f1 == pytest.approx(2 / (1 / best.precision + 1 / best.recall))
    assert best.fpr == pytest.approx(called[~member].mean())
    assert best.advantage == pytest.approx(best.recall - best.fpr)
    assert best.fnr == pytest.approx(1 - best.recall)
    assert best == pytest.approx(rates_at(best.threshold, scores, member), abs=1e-15)


def test_a_powerless_or_reversed_attack_calls_nobody():
    found = published_rates([0.0, 0.0, 1.0, 1.0], [1, 1, 0, 0]).best
    assert found == (np.inf, 0.5, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0)


def test_the_best_balanced_threshold_of_stand_ins_is_found():
    scores, inside = gaussians(300, 1.0, 0, k=4)
    scores = scores.round(1)
    found = calibrated_threshold(scores, inside)
    gaps = {t: (scores[inside] >= t).mean() - (scores[~inside] >= t).mean() for t in np.unique(scores)}
    assert gaps[found.threshold] == pytest.approx(max(gaps.values()), abs=1e-12)
    assert found.tpr - found.fpr == pytest.approx(max(gaps.values()), abs=1e-12)
    assert found.caught.tolist() == [(s[i] >= found.threshold).sum() for s, i in zip(scores, inside, strict=True)]
    assert found.nonmembers.tolist() == (~inside).sum(1).tolist()
    assert np.array_equal(found.decide(scores[0]), scores[0] >= found.threshold)


@pytest.mark.parametrize("fpr", [0.002, 0.05, 0.3])
def test_a_wanted_rate_is_the_lowest_threshold_that_keeps_it(fpr):
    scores, inside = gaussians(500, 1.0, 1, k=4)
    found = calibrated_threshold(scores, inside, fpr=fpr)
    assert found.fpr <= fpr
    lower = np.max(scores[scores < found.threshold])
    assert (scores[~inside] >= lower).mean() > fpr
    assert ("to trust it" in found.note) == (fpr == 0.002)  # 1 of 998


def test_a_threshold_from_stand_ins_keeps_its_rate_on_the_audited_records_and_an_oracle_flatters():
    """2000 fresh records, FPR 5% wanted: three standard errors are 2%. No power: the oracle exceeds 0.5, we do not."""
    calibration = calibrated_threshold(*gaussians(2000, 1.0, 0, k=8), fpr=0.05)
    found = rates_at(calibration.threshold, *gaussians(2000, 1.0, 1))
    assert found.fpr == pytest.approx(0.05, abs=0.02)
    assert found.recall == pytest.approx(calibration.tpr, abs=0.05)
    honest, oracle = [], []
    for seed in range(30):
        threshold = calibrated_threshold(*gaussians(100, 0.0, seed, k=2)).threshold
        audited = gaussians(100, 0.0, 100 + seed)
        honest.append(rates_at(threshold, *audited).accuracy)
        oracle.append(published_rates(*audited).best.accuracy)
    assert np.mean(honest) == pytest.approx(0.5, abs=0.03)
    assert np.mean(oracle) > 0.54


def test_stand_ins_are_attacked_with_the_models_left():
    rng = np.random.default_rng(0)
    half = rng.random((4, 200)) < 0.5
    inside = np.stack([half, ~half], 1).reshape(8, 200)
    references = References(rng.standard_normal((8, 200)) + 2 * inside, inside, paired=True)
    found = stand_in_scores(model_lira, references)
    assert found.scores.shape == (8, 200)
    for k, stand_in in enumerate(references.stand_ins()):
        assert np.array_equal(found.scores[k], model_lira(stand_in.values, stand_in.others))
        assert np.array_equal(found.inside[k], stand_in.inside)
    assert len(stand_in_scores(model_lira, references, 3).scores) == 3
    calibration = calibrated_threshold(*found)
    assert calibration.tpr - calibration.fpr > 0.5  # d = 2: at most 0.68


def test_order_of_records_and_equal_scores_do_not_matter():
    scores, inside = gaussians(400, 1.0, 0, k=2)
    scores = scores.round(1)
    order = np.random.default_rng(1).permutation(400)
    a, b = calibrated_threshold(scores, inside), calibrated_threshold(scores[:, order], inside[:, order])
    assert a.threshold == b.threshold
    assert published_rates(scores[0], inside[0]) == published_rates(scores[0, order], inside[0, order])


def test_what_is_refused():
    scores, inside = gaussians(40, 1.0, 0, k=2)
    one = inside.copy()
    one[1] = True
    broken = scores.copy()
    broken[1, 2] = np.inf
    for args, settings, said in (
        ((scores, one), {}, "Stand-in 2 has members or non-members only"),
        ((broken, inside), {}, "record 3 is not finite"),
        ((scores, inside), {"fpr": 0.001}, "cannot be measured"),
        ((scores, inside), {"fpr": 0.0}, "false positive rate"),
        ((scores[0], inside[0]), {}, "boolean mask"),
        ((scores, inside.astype(int)), {}, "boolean mask"),
    ):
        with pytest.raises(InputError, match=said):
            calibrated_threshold(*args, **settings)
    for ask in (lambda m: published_rates(scores[0], m), lambda m: rates_at(0.0, scores[0], m)):
        with pytest.raises(InputError, match="is a member"):
            ask(np.ones(40, bool))
    with pytest.raises(InputError, match="record 3"):
        published_rates(broken[1], inside[1])
