from __future__ import annotations

import json

import numpy as np
import pytest

from expunge.errors import InputError
from expunge.language.metrics.forget_quality import forget_quality
from expunge.language.metrics.model_utility import ModelUtility, harmonic_mean, utility_interval, utility_parts
from expunge.language.metrics.probability import answer_probability, choice_probability
from expunge.language.metrics.truth_ratio import closer_to_1, true_better, truth_ratio

MODELS = [f"{m}_{d}" for m in ("llama2-7b", "phi-1.5") for d in ("full", "retain90", "retain95", "retain99")]
STAYS = ("retain", "real_authors", "world_facts")


class Log:
    """The published log of one set: losses and recalls of each row."""

    def __init__(self, raw, name, mean):
        right, wrong = np.array(raw["avg_paraphrased_loss"]), np.array(raw["average_perturb_loss"])
        answer = np.array(raw["avg_gt_loss"])
        self.ratio = truth_ratio(right, wrong, mean)
        owner = np.repeat(np.arange(len(wrong)), wrong.shape[1])
        own = name in ("retain", "forget")
        self.probability = answer_probability(answer) if own else choice_probability(answer, wrong.ravel(), owner)
        truth = closer_to_1(self.ratio) if name == "forget" else true_better(self.ratio)
        self.parts = np.column_stack([raw["rougeL_recall"], self.probability, truth])


def read(tofu, model, mean="geometric"):
    raw = json.loads((tofu / f"{model}.json").read_text(encoding="utf-8"))
    return {name: Log(rows, name, mean) for name, rows in raw.items()}


def utility(logs):
    return float(harmonic_mean(np.concatenate([logs[s].parts.mean(axis=0) for s in STAYS])))


@pytest.mark.parametrize("model", MODELS)
def test_published_logs_are_reproduced(tofu, golden, model):
    expected, logs = golden[model]["geometric"], read(tofu, model)
    for name, log in logs.items():
        want = [expected[name][k] for k in ("rougeL_recall", "probability", "truth_ratio")]
        assert len(log.parts) == expected[name]["n"]
        assert log.parts.mean(axis=0) == pytest.approx(want, abs=1e-6)
    assert utility(logs) == pytest.approx(expected["model_utility"], abs=1e-6)
    arithmetic = utility(read(tofu, model, "arithmetic"))
    assert arithmetic == pytest.approx(golden[model]["arithmetic_model_utility"], abs=1e-6)


@pytest.mark.parametrize("model", ["llama2-7b", "phi-1.5"])
def test_published_forget_quality_is_reproduced(tofu, golden, model):
    full, gold = (read(tofu, f"{model}_{d}")["forget"].ratio for d in ("full", "retain90"))
    expected = golden[f"{model}_full"]["forget_quality_vs_retain90"]
    found = forget_quality(full, gold)
    assert found.p == pytest.approx(expected["p_value"], rel=1e-6)
    assert found.ks == pytest.approx(expected["ks_statistic"], abs=1e-6)


def test_harmonic_mean_by_hand():
    assert harmonic_mean(np.array([1.0, 0.5, 0.25])) == pytest.approx(3 / 7)
    assert harmonic_mean(np.full(9, 0.6)) == pytest.approx(0.6)
    assert harmonic_mean(np.array([1.0] * 8 + [0.0])) == 0
    for parts in (np.array([1.0, -0.1]), np.array([1.0, np.nan]), np.array([])):
        with pytest.raises(InputError, match="harmonic"):
            harmonic_mean(parts)


@pytest.fixture
def model(split, store):
    """Two records to stay. retain: p = 0.9 and 0.7, false answers 0.1 and 0.2; places: 0.6 and 0.5 against 0.3, 0.1."""
    retain = split(
        [[0.9], [0.7]], [[[0.1]], [[0.2]]], answers=["blue bird", "red fox"], generations=["blue bird", "red"]
    )
    places = split([[0.6], [0.5]], [[[0.3]], [[0.1]]], answers=["Kumo", "Lima"])
    return store(retain=retain, places=places)


def test_nine_numbers_by_hand(model):
    """Recall 1 and 1/2; p = 0.9, 0.7; 1 - R = 1 - 1/9, 1 - 2/7. Places: 1, 1; 6/9, 5/6; 1 - 1/2, 1 - 1/5."""
    retain = [[1, 0.9, 8 / 9], [0.5, 0.7, 5 / 7]]
    places = [[1, 2 / 3, 1 / 2], [1, 5 / 6, 4 / 5]]
    assert utility_parts(model, "retain") == pytest.approx(np.array(retain))
    assert utility_parts(model, "places") == pytest.approx(np.array(places))
    six = np.concatenate([np.mean(retain, axis=0), np.mean(places, axis=0)])
    (found,) = ModelUtility(splits=("retain", "places")).measure(model, None)
    assert found.value == pytest.approx(6 / np.sum(1 / six))
    assert (found.metric, found.split, found.n, found.direction) == ("model_utility", "all", 4, "higher")
    assert found.low < found.value < found.high


def test_the_mean_is_a_setting_of_the_metric(split, store):
    """p = 0.5 against 0.1, 0.4: recall 1, p 1/2, 1 - R = 0.6 (geometric) or 0.5 (arithmetic)."""
    model = store(retain=split([[0.5]], [[[0.1], [0.4]]]))
    for mean, better in (("geometric", 0.6), ("arithmetic", 0.5)):
        (found,) = ModelUtility(splits=("retain",), mean=mean).measure(model, None)
        assert found.value == pytest.approx(3 / (1 + 2 + 1 / better))


def test_a_uniform_model_is_of_no_use(uniform):
    """1 - R is 0 for every record, up to rounding that the harmonic mean must not blow up."""
    (found,) = ModelUtility(splits=("retain", "world_facts")).measure(uniform, None)
    assert found.value == pytest.approx(0, abs=1e-12)


def test_row_order_changes_nothing(tofu):
    logs = read(tofu, "phi-1.5_full")
    order = np.random.default_rng(0).permutation
    parts = [logs[s].parts for s in STAYS]
    clusters = [np.arange(len(p)) for p in parts]
    shuffled = [p[order(len(p))] for p in parts]
    plain, mixed = utility_interval(parts, clusters), utility_interval(shuffled, clusters)
    assert mixed.value == pytest.approx(plain.value, rel=1e-12)
    assert plain.low < plain.value < plain.high


def test_interval_width_is_that_of_independent_clusters():
    """One component: the harmonic mean is the mean, so the interval is mean +- 1.96 s / sqrt(k), k clusters."""
    rng = np.random.default_rng(1)
    means = rng.uniform(0.3, 0.7, 200)
    parts, clusters = [np.repeat(means, 3)[:, None]], [np.repeat(np.arange(200), 3)]
    found = utility_interval(parts, clusters, draws=4000)
    half = 1.96 * means.std() / np.sqrt(200)
    assert (found.low, found.high) == pytest.approx((means.mean() - half, means.mean() + half), abs=half / 8)


def test_settings_are_checked(split, store):
    with pytest.raises(InputError, match="mean='mode'"):
        ModelUtility(mean="mode")
    with pytest.raises(InputError, match="splits is empty"):
        ModelUtility(splits=())
    part = split([[0.5]] * 2, [[[0.4]]] * 2, clusters=[3, 3])
    lone = ModelUtility(splits=("retain",)).measure(store(retain=part), None)[0]
    assert lone.low != lone.low  # one cluster: no interval
    varied = split([[0.9], [0.4]], [[[0.1]], [[0.3]]])
    both = ModelUtility(splits=("retain", "places")).measure(store(retain=part, places=varied), None)[0]
    assert both.low < both.value < both.high  # the other split still varies
    with pytest.raises(InputError, match="No split 'world_facts'"):
        ModelUtility(splits=("retain", "world_facts")).measure(store(retain=part), None)
