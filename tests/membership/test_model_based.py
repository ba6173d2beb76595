"""Detectors with reference models on a Gaussian toy: OUT ~ N(0, 1), IN ~ N(d, 1)."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from expunge.errors import InputError
from expunge.membership import (
    References,
    auroc,
    model_calibration,
    model_fpr,
    model_lira,
    model_loss,
    model_population,
)


def toy(d, n=3000, models=512, seed=0):
    """Target values (the quantiles of either Gaussian, so that their own AUROC is exact), membership, references."""
    rng = np.random.default_rng(seed)
    half = rng.random((models // 2, n)) < 0.5
    inside = np.stack([half, ~half], 1).reshape(models, n)
    values = rng.standard_normal((models, n)) + d * inside
    member = rng.permutation(np.arange(n) % 2 == 0)
    phi = np.empty(n)
    for mask in (member, ~member):
        phi[mask] = rng.permutation(stats.norm.ppf((np.arange(mask.sum()) + 0.5) / mask.sum()))
    return phi + d * member, member, References(values, inside, paired=True)


def area(scores, member):
    return auroc(scores[member], scores[~member])


def scores(phi, references):
    """Every detector's scores; the loss is taken for -phi, which is as Gaussian."""
    loss = References(-references.values, references.inside, references.paired)
    found = {f"lira-{v}": model_lira(phi, references, variance=v) for v in ("safe", "pooled", "record")}
    found |= {
        "offline": model_lira(phi, references, mode="offline"),
        "fpr": model_fpr(phi, references),
        "fpr-record": model_fpr(phi, references, variance="record"),
        "calibration": model_calibration(-phi, loss),
        "loss": model_loss(-phi, loss),
    }
    return found


@pytest.mark.parametrize("d", [0.0, 0.5, 1.5])
def test_auroc_is_that_of_the_two_gaussians(d):
    """P(N(d, 1) > N(0, 1)) = Phi(d / sqrt 2); what is left is what medians of 256 models cost."""
    phi, member, references = toy(d)
    for name, found in scores(phi, references).items():
        assert area(found, member) == pytest.approx(stats.norm.cdf(d / np.sqrt(2)), abs=0.012), name


def test_a_difficulty_that_varies_is_taken_out():
    """Each record's values are shifted by N(0, 3^2): the loss alone sees little, references lose nothing."""
    phi, member, references = toy(1.0)
    hard = 3 * np.random.default_rng(1).standard_normal(len(phi))
    moved = References(references.values + hard, references.inside, references.paired)
    assert area(phi + hard, member) < 0.62
    for name, found in scores(phi + hard, moved).items():
        if name != "lira-pooled":  # its one deviation contains the difficulty; ranks hardly change
            assert area(found, member) == pytest.approx(stats.norm.cdf(1 / np.sqrt(2)), abs=0.015), name


def test_lira_is_the_log_ratio_of_the_densities():
    phi, _, references = toy(1.0, n=50, models=10)
    inside, outside = references.both
    for variance, s_in, s_out in (
        ("record", inside.deviation, outside.deviation),
        ("pooled", inside.spread, outside.spread),
        ("safe", inside.spread, outside.spread),  # below 64 models
    ):
        ratio = stats.norm.logpdf(phi, inside.median, s_in) - stats.norm.logpdf(phi, outside.median, s_out)
        assert model_lira(phi, references, variance=variance) == pytest.approx(ratio, abs=1e-9)
        density = -stats.norm.logpdf(phi, outside.median, s_out)
        assert model_lira(phi, references, mode="offline-density", variance=variance) == pytest.approx(density)
        phi_cdf = stats.norm.cdf((phi - outside.median) / s_out)
        assert 1 - np.exp(-model_fpr(phi, references, variance=variance)) == pytest.approx(phi_cdf, abs=1e-12)
        assert np.array_equal(
            model_lira(phi, references, mode="offline", variance=variance),
            model_fpr(phi, references, variance=variance),
        )


def test_from_64_models_on_the_safe_variance_is_the_records_own_with_a_floor():
    phi, _, references = toy(1.0, n=50, models=64)
    values = references.values.copy()
    values[:, 0] = np.where(references.inside[:, 0], 2.0, 1.0)  # the models agree about record 1
    r = References(values, references.inside)
    inside, outside = r.both
    own = stats.norm.logpdf(phi[1:], inside.median[1:], inside.deviation[1:])
    own -= stats.norm.logpdf(phi[1:], outside.median[1:], outside.deviation[1:])
    found = model_lira(phi, r)
    assert found[1:] == pytest.approx(own, abs=1e-9)
    ratio = stats.norm.logpdf(phi[0], 2.0, 0.05 * inside.spread) - stats.norm.logpdf(phi[0], 1.0, 0.05 * outside.spread)
    assert found[0] == pytest.approx(ratio, abs=1e-9)
    assert abs(model_lira(phi, r, variance="record")[0]) > 1e40  # what the floor is for


@pytest.mark.parametrize("variance", ["safe", "pooled", "record"])
@pytest.mark.parametrize("models", [6, 64])
def test_identical_in_and_out_lists_give_exactly_zero(variance, models):
    """The same numbers in another order on either side, some of them all equal: 0, AUROC 0.5, no warning."""
    rng = np.random.default_rng(0)
    half = rng.standard_normal((models // 2, 30))
    half[:, :3] = 7.0
    values = np.concatenate([half, rng.permuted(half, axis=0)])
    inside = np.zeros((models, 30), bool)
    inside[: models // 2] = True
    found = model_lira(rng.standard_normal(30), References(values, inside), variance=variance)
    assert found.tolist() == [0.0] * 30
    assert auroc(found[:10], found[10:]) == 0.5


@pytest.mark.parametrize("mode", ["online", "offline", "offline-density"])
def test_adding_a_constant_to_all_phi_changes_nothing(mode):
    phi, _, r = toy(1.0, n=200, models=16)
    for variance in ("safe", "pooled", "record"):
        moved = model_lira(phi + 37.5, References(r.values + 37.5, r.inside), mode=mode, variance=variance)
        assert moved == pytest.approx(model_lira(phi, r, mode=mode, variance=variance), rel=1e-9, abs=1e-9)


def test_the_published_offline_density_takes_a_low_value_for_membership_and_the_test_does_not():
    r = References(np.array([[-1.0, -1.0], [1.0, 1.0]]), np.zeros((2, 2), bool))
    phi = np.array([-6.0, 5.0])
    low, high = model_lira(phi, r, mode="offline-density")
    assert low > high
    low, high = model_lira(phi, r, mode="offline")
    assert low < 1e-8 < high


def test_scores_far_above_all_references_still_differ():
    """Phi rounds to 1 from 8.3 standard deviations on."""
    r = References(np.tile([[-1.0], [1.0]], 4), np.zeros((2, 4), bool))
    found = model_fpr(np.array([9.0, 10.0, 30.0, 1000.0]), r)
    assert (np.diff(found) > 0).all()
    assert np.isfinite(found).all()


def test_loss_and_calibration_by_hand():
    """IN CE 1 and 3 (median 2), OUT CE 6: the threshold is 4, the difficulty 6."""
    r = References(np.array([[1.0], [3.0], [6.0]]), np.array([[True], [True], [False]]))
    assert model_loss([2.5], r).tolist() == [1.5]
    assert model_calibration([2.5], r).tolist() == [3.5]


def test_population_attack_is_the_p_value_among_the_population():
    z = np.array([0.0, 1.0, 2.0, 3.0, 10.0])
    found = model_population([2.0, 5.0], z)
    expected = stats.norm.cdf([0.0, 3 / z.std()])
    assert 1 - np.exp(-found) == pytest.approx(expected, abs=1e-12)
    for bad in ([1.0], [np.nan, 1.0], [[1.0, 2.0]]):
        with pytest.raises(InputError):
            model_population([0.0], bad)
    with pytest.raises(InputError, match="audited record 2"):
        model_population([0.0, np.inf], z)


def test_permuting_records_permutes_scores_and_permuted_labels_give_one_half():
    phi, member, r = toy(1.0, n=3000, models=16)
    order = np.random.default_rng(1).permutation(3000)
    permuted = scores(phi[order], References(r.values[:, order], r.inside[:, order], paired=True))
    bound = 3 / np.sqrt(6 * min(member.sum(), (~member).sum()))
    for name, found in scores(phi, r).items():
        assert permuted[name] == pytest.approx(found[order], rel=1e-9), name
        assert abs(area(found, member[order]) - 0.5) < bound, name


def test_online_methods_refuse_offline_data_and_offline_ones_take_it():
    r = References(np.random.default_rng(0).random((4, 3)), np.zeros((4, 3), bool))
    for online in (model_lira, model_loss):
        with pytest.raises(InputError, match="Record 1 has no IN model"):
            online(np.zeros(3), r)
    assert np.isfinite(model_lira(np.zeros(3), r, mode="offline")).all()
    assert np.isfinite(model_fpr(np.zeros(3), r)).all()
    assert np.isfinite(model_calibration(np.zeros(3), r)).all()
    everywhere = References(r.values, ~r.inside)
    for detector in (model_lira, model_loss, model_fpr, model_calibration):
        with pytest.raises(InputError, match="no OUT model"):
            detector(np.zeros(3), everywhere)


def test_wrong_settings_and_values_are_refused():
    phi, _, r = toy(0.0, n=10, models=4)
    with pytest.raises(InputError, match="variance 'fixed'"):
        model_lira(phi, r, variance="fixed")
    with pytest.raises(InputError, match="mode 'ofline'"):
        model_lira(phi, r, mode="ofline")
    for detector in (model_lira, model_fpr, model_loss, model_calibration):
        with pytest.raises(InputError, match="record 1 is not finite"):
            detector(np.full(10, np.nan), r)
