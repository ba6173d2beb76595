from __future__ import annotations

import numpy as np
import pytest

from expunge.errors import InputError, RunError
from expunge.language.metrics.truth_ratio import (
    TruthRatio,
    closer_to_1,
    prob_mean,
    true_better,
    truth_ratio,
    truth_ratios,
)


@pytest.fixture
def nlls():
    rng = np.random.default_rng(0)
    return rng.uniform(0.1, 4, 30), rng.uniform(0.1, 6, (30, 5))


def test_against_the_formulas_in_probabilities(nlls):
    right, wrong = nlls
    p, p_wrong = np.exp(-right), np.exp(-wrong)
    geometric = np.prod(p_wrong, axis=1) ** (1 / 5) / p
    assert truth_ratio(right, wrong) == pytest.approx(geometric, rel=1e-12)
    assert truth_ratio(right, wrong, "arithmetic") == pytest.approx(p_wrong.mean(axis=1) / p, rel=1e-12)
    assert prob_mean(truth_ratio(right, wrong)) == pytest.approx(p / (p + geometric * p), rel=1e-12)


def test_arithmetic_is_above_geometric_unless_all_false_answers_are_alike(nlls):
    right, wrong = nlls
    assert (truth_ratio(right, wrong, "arithmetic") > truth_ratio(right, wrong)).all()
    alike = np.repeat(wrong[:, :1], 5, axis=1)
    assert truth_ratio(right, alike, "arithmetic") == pytest.approx(truth_ratio(right, alike), rel=1e-12)


@pytest.mark.parametrize("mean", ["geometric", "arithmetic"])
def test_a_constant_on_all_losses_changes_nothing(nlls, mean):
    """R is a ratio of probabilities; 2000 nats more also underflow every one of them."""
    right, wrong = nlls
    assert truth_ratio(right + 2000, wrong + 2000, mean) == pytest.approx(truth_ratio(right, wrong, mean), rel=1e-9)


def test_aggregates_by_hand():
    ratio = np.array([0.5, 1.0, 4.0])
    assert closer_to_1(ratio).tolist() == [0.5, 1.0, 0.25]
    assert closer_to_1(1 / ratio).tolist() == closer_to_1(ratio).tolist()
    assert true_better(ratio).tolist() == [0.5, 0.0, 0.0]
    assert prob_mean(ratio) == pytest.approx([2 / 3, 1 / 2, 1 / 5])


def test_uniform_model(uniform):
    """All answers equally likely: R = 1, so 1 on the forget side (no preference) and 0 elsewhere (no knowledge)."""
    assert truth_ratios(uniform, "forget") == pytest.approx(np.ones(8), rel=1e-12)
    forget, retain = TruthRatio().measure(uniform, None)
    assert (forget.value, forget.direction) == (pytest.approx(1), "match-gold")
    assert (retain.value, retain.direction) == (pytest.approx(0, abs=1e-12), "higher")


def test_right_is_the_paraphrased_answer_where_there_is_one(split, store):
    """p = 0.4 for the false answer; 0.8 for the answer, 0.2 for its paraphrase."""
    wrong = [[[0.4]]]
    plain, other = split([[0.8]], wrong), split([[0.8]], wrong, paraphrase=[[0.2]])
    assert truth_ratios(store(forget=plain), "forget") == pytest.approx([0.5])
    assert truth_ratios(store(forget=other), "forget") == pytest.approx([2.0])


def test_the_mean_is_a_setting_of_the_metric(split, store):
    """p = 0.5 against 0.1 and 0.4: R = 0.4 by the geometric mean 0.2, 0.5 by the arithmetic mean 0.25."""
    model = store(forget=split([[0.5]], [[[0.1], [0.4]]]))
    for mean, expected in (("geometric", 0.4), ("arithmetic", 0.5)):
        (found,) = TruthRatio(splits=("forget",), mean=mean).measure(model, None)
        assert found.value == pytest.approx(expected)


def test_extreme_models_stay_finite():
    """An answer of probability 0 against certain ones, and both impossible (they cannot be told apart: R = 1)."""
    certain, impossible = np.zeros(1), np.full(1, np.inf)
    for mean in ("geometric", "arithmetic"):
        assert 1e300 < truth_ratio(impossible, certain[:, None], mean)[0] < np.inf
        assert 0 < truth_ratio(certain, impossible[:, None], mean)[0] < 1e-300
        assert truth_ratio(impossible, impossible[:, None], mean)[0] == 1
    assert closer_to_1(truth_ratio(impossible, certain[:, None])) == pytest.approx(0, abs=1e-300)


def test_refusals(split, store):
    uneven = split([[0.5]] * 2, [[[0.5]] * 5, [[0.5]] * 4])
    with pytest.raises(InputError, match=r"'forget': Row 2 has 4 false answers and row 1 has 5"):
        truth_ratios(store(forget=uneven), "forget")
    with pytest.raises(InputError, match="No false answers"):
        truth_ratios(store(forget=split([[0.5]])), "forget")
    with pytest.raises(RunError, match=r"row 1.*false answer is NaN"):
        truth_ratios(store(forget=split([[0.5]], [[[float("nan")]]])), "forget")
    with pytest.raises(RunError, match="NaN"):
        truth_ratio(np.array([np.nan]), np.ones((1, 2)))
    with pytest.raises(InputError, match="mean='median'"):
        TruthRatio(mean="median")
    with pytest.raises(InputError, match="shape"):
        truth_ratio(np.ones(2), np.ones((3, 2)))
