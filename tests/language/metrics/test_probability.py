from __future__ import annotations

import numpy as np
import pytest

from expunge.errors import InputError, RunError
from expunge.language.metrics.probability import Probability, answer_probability, choice_probability

OWNER = np.array([0, 0, 1, 1])


def test_two_token_toy(split, store):
    """Two answer tokens and the end of sequence: p = (p1 p2 p_eos)^(1/3)."""
    model = store(forget=split([[0.9, 0.5, 0.8]]))
    (found,) = Probability(splits=("forget",), options=()).measure(model, None)
    assert found.value == pytest.approx((0.9 * 0.5 * 0.8) ** (1 / 3), rel=1e-12)
    assert found.direction == "match-gold"


def test_uniform_model(uniform):
    """Every token has p = 1/50, so every answer has; among 1 right and 3 false ones that is 1/4."""
    plain, among = Probability(splits=("forget",), options=("world_facts",)).measure(uniform, None)
    assert plain.value == pytest.approx(1 / 50, rel=1e-12)
    assert among.value == pytest.approx(1 / 4, rel=1e-12)
    assert (among.split, among.direction) == ("world_facts", "higher")


def test_share_among_options_by_hand():
    """p = 0.6 against 0.3 and 0.1: 0.6; p = 0.2 against 0.4 and 0.4: 0.2."""
    right, wrong = -np.log([0.6, 0.2]), -np.log([0.3, 0.1, 0.4, 0.4])
    assert choice_probability(right, wrong, OWNER) == pytest.approx([0.6, 0.2])


def test_share_among_options_survives_underflow():
    """exp(-2000) is 0 as a double, but the share only depends on differences of NLL."""
    right, wrong = -np.log([0.6, 0.2]), -np.log([0.3, 0.1, 0.4, 0.4])
    shifted = choice_probability(right + 2000, wrong + 2000, OWNER)
    assert shifted == pytest.approx([0.6, 0.2])


def test_impossible_answers_have_probability_0(split, store):
    assert answer_probability(np.array([np.inf, 0.0])).tolist() == [0, 1]
    infinite = np.full(4, np.inf)
    assert choice_probability(np.array([0.0, np.inf]), infinite, OWNER) == pytest.approx([1, 1 / 3])
    model = store(forget=split([[0.0, 0.5], [1.0, 1.0]]))
    assert Probability(("forget",), ()).measure(model, None)[0].value == 0.5


def test_nan_losses_are_refused(scores, split, store):
    broken = split([[0.5], [float("nan")]], [[[0.5]], [[0.5]]])
    for metric in (Probability(("retain",), ()), Probability((), ("retain",))):
        with pytest.raises(RunError, match=r"'retain', row 2.*NaN"):
            metric.measure(store(retain=broken), None)
    with pytest.raises(RunError, match="NaN"):
        choice_probability(np.array([0.0, 0.0]), np.array([0, 0, 0, np.nan]), OWNER)
    with pytest.raises(RunError, match="NaN"):
        choice_probability(np.array([0.0, np.nan]), np.zeros(4), OWNER)


def test_a_row_without_labelled_tokens_is_named(split, store):
    with pytest.raises(InputError, match=r"'retain', row 3"):
        Probability(("retain",), ()).measure(store(retain=split([[0.5], [0.5], []])), None)


@pytest.mark.parametrize("counts", [(2, 2, 3), (2, 0, 2), (0, 0, 0)])
def test_missing_or_uneven_false_answers_are_refused(split, store, counts):
    part = split([[0.5]] * 3, [[[0.5]] * c for c in counts])
    with pytest.raises(InputError, match=r"'places'.*alse answers"):
        Probability((), ("places",)).measure(store(places=part), None)
    owner = np.repeat(np.arange(3), counts)
    with pytest.raises(InputError, match="alse answers"):
        choice_probability(np.zeros(3), np.zeros(len(owner)), owner)
