"""RMIA against a double loop, its limits, and the choice of its constant."""

from __future__ import annotations

import numpy as np
import pytest

from expunge.errors import InputError
from expunge.membership import Population, References, auroc, choose_a, model_robust


def masks(models, n, rng):
    half = rng.random((models // 2, n)) < 0.5
    return np.stack([half, ~half], 1).reshape(models, n)


def setting(n=30, z=40, models=8, seed=0, online_z=True):
    rng = np.random.default_rng(seed)
    x = References(rng.random((models, n)), masks(models, n, rng), paired=True)
    inside = masks(models, z, rng) if online_z else np.zeros((models, z), bool)
    population = Population(rng.random(z), References(rng.random((models, z)), inside), np.arange(100, 100 + z))
    return rng.random(n), x, population


def looped(p, x, population, *, online, a, gamma):
    """Plain Python, as the paper writes it."""

    def average(values, inside, both):
        out = values[~inside].mean()
        return (values[inside].mean() + out) / 2 if both else ((1 + a) * out + 1 - a) / 2

    z = population.references
    both = bool(z.inside.any())
    r_z = [population.target[j] / average(z.values[:, j], z.inside[:, j], both) for j in range(len(population.target))]
    r_x = [p[i] / average(x.values[:, i], x.inside[:, i], online) for i in range(len(p))]
    return [sum(rx / rz > gamma for rz in r_z) / len(r_z) for rx in r_x]


@pytest.mark.parametrize("mode", ["online", "offline"])
@pytest.mark.parametrize("online_z", [True, False])
def test_scores_are_those_of_the_double_loop(mode, online_z):
    p, x, population = setting(online_z=online_z)
    for gamma in (0.7, 1.0, 2.0):
        found = model_robust(p, x, population, np.arange(30), mode=mode, a=0.3, gamma=gamma)
        expected = looped(p, x, population, online=mode == "online", a=0.3, gamma=gamma)
        assert found == pytest.approx(expected, abs=1e-12)
        assert len(set(found)) > 3


def test_a_common_factor_changes_nothing_online():
    p, x, population = setting()
    smaller = [References(0.25 * r.values, r.inside) for r in (x, population.references)]
    scaled = Population(0.25 * population.target, smaller[1], population.rows)
    once = model_robust(p, x, population, np.arange(30))
    assert np.array_equal(model_robust(0.25 * p, smaller[0], scaled, np.arange(30)), once)


def test_limits_of_gamma():
    p, x, population = setting()
    assert model_robust(p, x, population, np.arange(30), gamma=1e-12).tolist() == [1.0] * 30
    assert model_robust(p, x, population, np.arange(30), gamma=1e12).tolist() == [0.0] * 30


def test_one_population_record_is_a_threshold_on_the_ratio():
    p, x, population = setting()
    inside, outside = x.both
    ratio = p / ((inside.mean + outside.mean) / 2)
    one = population.take([0])
    level = 2 * one.target[0] / np.mean([side.mean[0] for side in one.references.both])
    found = model_robust(p, x, one, np.arange(30))
    assert np.array_equal(found, (ratio > level).astype(float))
    assert 0 < found.sum() < 30


def test_a_equal_to_one_is_offline_without_correction_and_order_does_not_matter():
    p, x, population = setting(online_z=False)
    r_x = p / x.outside.mean
    r_z = population.target / population.references.outside.mean
    expected = (r_x[:, None] > 2 * r_z).mean(1)
    found = model_robust(p, x, population, np.arange(30), mode="offline", a=1.0)
    assert found == pytest.approx(expected, abs=1e-12)
    order = np.random.default_rng(0).permutation(30)
    again = model_robust(p[order], x.take(order), population.take(np.arange(40)[::-1]), order, mode="offline", a=1.0)
    assert np.array_equal(again, found[order])


def test_a_likelihood_of_zero_everywhere_counts_as_no_evidence():
    """r = 1 for record 1 (0 / 0), infinity for record 2, 0 for record 3; all z have r = 1."""
    x = References(np.array([[0.0, 0.0, 0.5]] * 2), np.array([[True] * 3, [False] * 3]))
    z = References(np.full((2, 4), 0.5), np.array([[True] * 4, [False] * 4]))
    population = Population(np.full(4, 0.5), z, np.arange(10, 14))
    found = model_robust([0.0, 0.1, 0.0], x, population, np.arange(3), gamma=0.9)
    assert found.tolist() == [1.0, 1.0, 0.0]
    assert model_robust([0.0, 0.1, 0.0], x, population, np.arange(3), gamma=1.1).tolist() == [0.0, 1.0, 0.0]


def test_permuted_labels_give_one_half():
    rng = np.random.default_rng(3)
    p, x, population = setting(n=3000, z=200)
    member = rng.random(3000) < 0.5
    found = model_robust(p, x, population, np.arange(1000, 4000))
    assert abs(auroc(found[member], found[~member]) - 0.5) < 3 / np.sqrt(6 * min(member.sum(), (~member).sum()))


def related(a, n, models, seed):
    """P_in = a P_out + 1 - a, with noise of 10%, for records whose P_out is anything."""
    rng = np.random.default_rng(seed)
    out = rng.uniform(0.05, 0.95, n)
    inside = masks(models, n, rng)
    values = np.where(inside, a * out + 1 - a, out) * np.exp(0.1 * rng.standard_normal((models, n)))
    return References(values, inside, paired=True)


@pytest.mark.parametrize("a", [0.1, 0.4, 0.8])
def test_the_chosen_constant_is_that_of_the_data(a):
    references, population = (related(a, n, 8, seed) for n, seed in ((1500, 0), (500, 1)))
    chosen = choose_a(references, population, np.arange(1500), np.arange(2000, 2500), gamma=1.0)
    assert chosen.a == pytest.approx(a, abs=0.15)
    assert chosen.auroc[chosen.a] == max(chosen.auroc.values())
    assert list(chosen.auroc) == pytest.approx(np.arange(11) / 10)


def test_the_choice_attacks_each_model_with_the_others_but_its_partner():
    references, population = (related(0.5, n, 6, seed) for n, seed in ((60, 0), (80, 1)))
    found = choose_a(references, population, np.arange(60), np.arange(100, 180), grid=[0.3]).auroc[0.3]
    areas = []
    for m in range(6):
        kept = [k for k in range(6) if k // 2 != m // 2]
        unseen = ~population.inside[m]
        z = References(population.values[kept][:, unseen], population.inside[kept][:, unseen])
        rows = np.arange(100, 180)[unseen]
        scores = model_robust(
            references.values[m], References(references.values[kept], references.inside[kept]),
            Population(population.values[m, unseen], z, rows), np.arange(60), mode="offline", a=0.3,
        )  # fmt: skip
        areas.append(auroc(scores[references.inside[m]], scores[~references.inside[m]]))
    assert found == pytest.approx(np.mean(areas), abs=1e-12)


def test_what_rmia_refuses():
    p, x, population = setting()
    rows = np.arange(30)
    cases = [
        ({"rows": np.arange(90, 120)}, "20 population records are among the audited ones, the first is row 100"),
        ({"rows": np.arange(29)}, "30 audited records"),
        ({"gamma": 0.0}, "gamma=0.0"),
        ({"gamma": np.inf}, "gamma=inf"),
        ({"mode": "offline"}, "a=None"),
        ({"mode": "offline", "a": 1.5}, "a=1.5"),
        ({"mode": "both"}, "mode 'both'"),
        ({"p": -p}, "negative likelihood"),
        ({"references": References(x.values, np.zeros_like(x.inside))}, "offline data"),
    ]
    for change, said in cases:
        settings = {"p": p, "references": x, "population": population, "rows": rows} | change
        with pytest.raises(InputError, match=said):
            model_robust(**settings)
    offline_z = setting(online_z=False)[2]
    with pytest.raises(InputError, match="a=None"):
        model_robust(p, x, offline_z, rows)
    with pytest.raises(InputError, match="row numbers"):
        Population(population.target, population.references, np.arange(3))


def test_what_the_choice_refuses():
    _, x, population = setting()
    rows, z_rows = np.arange(30), np.arange(100, 140)
    z = population.references
    loose = References(x.values, x.inside)
    for references, others, grid, said in (
        (loose, z, [0.5], "not said to be paired"),
        (x, z.without(0, 1), [0.5], "8 models for the records but 6"),
        (x, z, [], "no value"),
        (References(x.values, np.zeros_like(x.inside), paired=True), z, [0.5], "cannot stand in"),
    ):
        with pytest.raises(InputError, match=said):
            choose_a(references, others, rows, z_rows, grid=grid)
    with pytest.raises(InputError, match="are among the audited"):
        choose_a(x, z, rows, np.arange(20, 60))
