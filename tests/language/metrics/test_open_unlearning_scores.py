from __future__ import annotations

import numpy as np
import pytest

from expunge.errors import InputError
from expunge.language.evidence import EvidenceStore
from expunge.language.metrics.membership import membership_scores
from expunge.language.metrics.model_utility import ModelUtility
from expunge.language.metrics.open_unlearning_scores import (
    OpenUnlearningScores,
    nearness,
    resampled_aurocs,
    unmemorised,
)
from expunge.membership import auroc, auroc_interval


@pytest.fixture
def one(split, store, scores):
    """One forget record; answer tokens 1/2, 1/2, 1/2 and end of sequence, of which the second is missed.

    ES = 1 - 2/3, EM = 2/3; the paraphrase has p = 0.4, the false answers 0.1 and 0.1.
    """
    right = scores([[0.5, 0.5, 0.5, 0.9]], [[True, False, True, True]])
    forget = split(right, [[[0.1], [0.1]]], paraphrase=[[0.4]])
    return store(forget=forget, retain=split([[0.5]], [[[0.25]]]))


def test_four_parts_by_hand(one):
    """1 - 1/3, 1 - 2/3, 1 - 0.4, 1 - 0.4 / (0.4 + 0.1)."""
    expected = np.array([2 / 3, 1 / 3, 0.6, 0.2])
    assert unmemorised(one, "forget")[0] == pytest.approx(expected)
    found = {f.metric: f for f in OpenUnlearningScores(stays=("retain",)).measure(one, None)}
    assert found["open_unlearning.memorization"].value == pytest.approx(4 / (1 / expected).sum())
    assert set(found) == {"open_unlearning.memorization", "open_unlearning.utility"}  # no gold: no privacy
    (utility,) = ModelUtility(splits=("retain",)).measure(one, None)
    assert found["open_unlearning.utility"].value == utility.value


def test_what_is_known_by_heart_scores_0(split, store):
    """p(answer) = 1 leaves nothing of one part, so the harmonic mean is 0."""
    known = split([[1.0, 1.0]] * 3, [[[0.5]]] * 3)
    found = OpenUnlearningScores(stays=("retain",)).measure(store(forget=known, retain=known), None)
    assert found[0].value == 0


@pytest.mark.parametrize("gold", [0.5, 0.3, 0.8])
def test_nearness_is_1_at_gold_and_0_at_the_farther_end(gold):
    far = 1.0 if gold < 0.5 else 0.0
    assert nearness(np.array([gold, far]), np.array(gold)) == pytest.approx([1, 0])
    between = nearness(np.linspace(0, 1, 101), np.array(gold))
    assert ((between >= 0) & (between <= 1)).all()
    assert between.argmax() == round(100 * gold)


@pytest.fixture(scope="module")
def measured(bed):
    splits = {s: bed.records[s] for s in ("forget", "holdout", "retain", "places")}
    return {n: EvidenceStore(n, s, splits, max_new_tokens=8) for n, s in (("target", bed.target), ("gold", bed.gold))}


METRIC = OpenUnlearningScores(stays=("retain", "places"), draws=200)


def test_gold_is_private_and_the_target_is_not(measured):
    found = {n: {f.metric: f for f in METRIC.measure(s, measured["gold"])} for n, s in measured.items()}
    gold, target = found["gold"], found["target"]
    assert (gold["open_unlearning.privacy"].value, gold["open_unlearning.privacy"].low) == (1, 1)
    assert target["open_unlearning.privacy"].value < 0.2
    assert target["open_unlearning.memorization"].value < 0.2 < gold["open_unlearning.memorization"].value
    assert gold["open_unlearning.overall"].value > 0.5 > target["open_unlearning.overall"].value
    for f in (*gold.values(), *target.values()):
        assert f.direction == "higher"
        if "overall" not in f.metric:
            assert f.low <= f.value <= f.high


def halfway(split, store, name, shift, seed):
    """Forget rows a little likelier than holdout rows; three false answers each."""
    rng = np.random.default_rng(seed)
    parts = {}
    for side, low in (("forget", 0.1 + shift), ("holdout", 0.1)):
        rows = rng.uniform(low, low + 0.6, (30, 5)).tolist()
        wrong = rng.uniform(0.1, 0.3, (30, 3, 2)).tolist()
        parts[side] = split(rows, wrong, answers=[f"{side[0]} {i:02}" for i in range(30)])
    return store(name, **parts, retain=split([[0.6]], [[[0.2]]]))


def test_privacy_is_the_harmonic_mean_of_four_nearnesses(split, store):
    model, gold = halfway(split, store, "npo", 0.1, 0), halfway(split, store, "gold", 0.0, 1)
    parts = []
    for detector in ("loss", "zlib", "min_k", "min_k_plus_plus"):
        u, r = (auroc(*(membership_scores(detector, s, side) for side in ("forget", "holdout"))) for s in (model, gold))
        parts.append(1 - abs(u - r) / max(r, 1 - r))
    found = {f.metric: f for f in OpenUnlearningScores(stays=("retain",), draws=100).measure(model, gold)}
    privacy = found["open_unlearning.privacy"]
    assert privacy.value == pytest.approx(4 / sum(1 / p for p in parts))
    assert 0.05 < privacy.low < privacy.value < 0.95
    model.data["forget"].right.hit[:] = False  # ES = EM = 0
    found = {f.metric: f for f in OpenUnlearningScores(stays=("retain",), draws=100).measure(model, gold)}
    three = [found[f"open_unlearning.{n}"].value for n in ("memorization", "privacy", "utility")]
    assert found["open_unlearning.overall"].value == pytest.approx(3 / sum(1 / v for v in three))


def test_the_intervals_draws_are_those_of_auroc_interval(measured):
    store = measured["gold"]
    x, y = (membership_scores("loss", store, s) for s in ("forget", "holdout"))
    a, b = (store.clusters(s) for s in ("forget", "holdout"))
    drawn = resampled_aurocs({("gold", "loss"): [x, y]}, a, b, seed=3, draws=100)["gold", "loss"]
    assert np.quantile(drawn, [0.025, 0.975]) == pytest.approx(auroc_interval(x, y, a, b, seed=3, draws=100)[1:])
    assert resampled_aurocs({("gold", "loss"): [x, y]}, 0 * a, b, seed=3, draws=10) is None


def test_refusals(bed, measured):
    with pytest.raises(InputError, match="k=0"):
        OpenUnlearningScores(k=0)
    fewer = EvidenceStore("gold", bed.gold, {s: measured["gold"].records(s)[:9] for s in measured["gold"].splits})
    with pytest.raises(InputError, match="splits of target and of gold differ"):
        METRIC.measure(measured["target"], fewer)
