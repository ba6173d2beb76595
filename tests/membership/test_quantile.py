from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from scipy.stats import kstest, norm

from expunge.errors import InputError
from expunge.membership.classifier import Floats, Inputs, Records
from expunge.membership.quantile import (
    LinearRegressor,
    NetworkRegressor,
    Normal,
    Regressor,
    TokenCounts,
    TreeRegressor,
    nonmember_score,
    query_qrm,
    rarity,
)
from expunge.membership.signals import Signals

SIZE = 3000


def features(seed: int, n: int = SIZE) -> Floats:
    return np.random.default_rng(seed).uniform(-1, 1, (n, 2))


def truth(x: Inputs) -> Normal:
    """mu = 3 x_1 and log sigma = x_2."""
    rows = np.asarray(x)
    return Normal(3 * rows[:, 0], np.exp(rows[:, 1]))


def draw(x: Floats, seed: int) -> Floats:
    return truth(x).mean + truth(x).deviation * np.random.default_rng(seed).standard_normal(len(x))


class Known:
    """Foretells the true distribution."""

    def fit(self, inputs: Inputs, scores: Floats, seed: int) -> Any:
        return truth


class Scored:
    """A model of two classes whose rescaled logit of class 0 is the last feature of a record."""

    classes = 2

    def logits(self, x: Inputs) -> Floats:
        last = np.asarray(x)[:, -1]
        return np.stack([last, np.zeros(len(last))], axis=1)


def records(seed: int) -> Records:
    x = features(seed)
    return Records(np.column_stack([x, draw(x, seed + 100)]), np.zeros(SIZE, dtype=int), "continuous")


def mlp(outputs: int) -> Any:
    from torch import nn

    return nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, outputs))


class TestScore:
    def test_margin_for_images_and_phi_for_features(self) -> None:
        signals = Signals(np.array([[3.0, 1.0, 2.0], [0.0, -5.0, -7.0]]), np.array([0, 1]))
        assert nonmember_score(signals, "image").tolist() == [1.0, -5.0]
        assert np.array_equal(nonmember_score(signals, "text"), nonmember_score(signals, "image"))
        assert np.array_equal(nonmember_score(signals, "binary"), signals.rescaled)

    def test_rarity_is_the_upper_tail_and_does_not_saturate(self) -> None:
        s = np.array([-1.0, 0.0, 1.0, 9.0, 30.0, 31.0])
        found = rarity(s, Normal(np.zeros(6), np.ones(6)))
        assert np.allclose(1 - np.exp(-found[:3]), norm.cdf(s[:3]))
        assert (np.diff(found) > 0).all()
        assert np.isfinite(found).all()


class TestDetector:
    def test_levels_of_nonmembers_are_uniform_when_the_distribution_is_known(self) -> None:
        found = query_qrm(Scored(), records(1), records(2), Known(), seed=0)
        assert kstest(1 - np.exp(-found.scores), "uniform").pvalue > 0.01

    def test_a_member_one_deviation_up_is_told_at_phi_of_one_over_root_two(self) -> None:
        """Non-members N(mu, sigma), members N(mu + sigma, sigma): AUROC Phi(1 / sqrt 2), whatever mu and sigma."""
        from expunge.membership.curves import auroc

        members = records(1)
        raised = np.asarray(members.inputs).copy()
        raised[:, -1] += truth(raised).deviation
        scored = [
            query_qrm(Scored(), r, records(2), Known(), seed=0).scores
            for r in (Records(raised, members.labels, "continuous"), records(3))
        ]
        assert auroc(*scored) == pytest.approx(norm.cdf(1 / np.sqrt(2)), abs=0.02)

    def test_counts(self) -> None:
        found = query_qrm(Scored(), records(1).take(range(10)), records(2), Known(), seed=0)
        assert found.queries.tolist() == [1] * 10
        assert found.total == 10 + SIZE
        assert found.trainings == 1

    def test_refusals(self) -> None:
        one = records(2).take([0])
        with pytest.raises(InputError, match="nothing to regress"):
            query_qrm(Scored(), records(1), one, Known(), seed=0)
        texts = Records(["a", "b"], np.array([0, 1]), "text")
        with pytest.raises(InputError, match="kind"):
            query_qrm(Scored(), records(1), texts, Known(), seed=0)


class TestRegressors:
    @pytest.mark.parametrize(
        "regressor", [TreeRegressor(rounds=40), NetworkRegressor(mlp, lr=1e-2)], ids=["trees", "network"]
    )
    def test_mean_and_deviation_are_learnt_from_the_features(self, regressor: Regressor) -> None:
        x, new = features(0), features(1)
        found, true = regressor.fit(x, draw(x, 0), 0)(new), truth(new)
        assert np.corrcoef(found.mean, true.mean)[0, 1] > 0.97
        assert np.corrcoef(np.log(found.deviation), np.log(true.deviation))[0, 1] > 0.9
        assert np.log(found.deviation / true.deviation).mean() == pytest.approx(0, abs=0.08)
        levels = norm.cdf((draw(new, 5) - found.mean) / found.deviation)
        assert levels.mean() == pytest.approx(0.5, abs=0.05)
        assert levels.std() == pytest.approx(np.sqrt(1 / 12), abs=0.02)

    def test_a_line_is_found_exactly_and_its_variance_is_that_of_the_scores(self) -> None:
        x = features(0)
        scores = 2 + x @ np.array([3.0, -1.0])
        found = LinearRegressor().fit(x, scores, 0)(features(1))
        assert np.allclose(found.mean, 2 + features(1) @ np.array([3.0, -1.0]))
        assert np.allclose(found.deviation, scores.std())

    @pytest.mark.parametrize(
        "regressor",
        [LinearRegressor(), TreeRegressor(rounds=5), NetworkRegressor(mlp, epochs=2)],
        ids=["linear", "trees", "network"],
    )
    def test_scores_in_other_units_give_the_same_distributions(self, regressor: Regressor) -> None:
        """s -> 10 s + 7 takes mu to 10 mu + 7 and sigma to 10 sigma."""
        x = features(0, 500)
        scores = draw(x, 0)
        one, other = (regressor.fit(x, s, 3)(x) for s in (scores, 10 * scores + 7))
        assert np.allclose(other.mean, 10 * one.mean + 7, rtol=1e-3, atol=1e-3)
        assert np.allclose(other.deviation, 10 * one.deviation, rtol=1e-3)

    @pytest.mark.parametrize(
        "regressor", [TreeRegressor(rounds=5), NetworkRegressor(mlp, epochs=2)], ids=["trees", "network"]
    )
    def test_the_seed_fixes_the_regressor(self, regressor: Regressor) -> None:
        x = features(0, 300)
        first, again = (regressor.fit(x, draw(x, 0), 4)(x) for _ in range(2))
        assert np.array_equal(first.mean, again.mean)
        assert np.array_equal(first.deviation, again.deviation)

    def test_the_network_keeps_its_best_epoch(self) -> None:
        """Scores are noise: trained far too long, a network would be sure of them; its validation part says stop."""
        x, noise = features(0, 60), np.random.default_rng(1).standard_normal(60)
        found = NetworkRegressor(mlp, epochs=300, lr=3e-2, validation=0.3).fit(x, noise, 0)(x)
        assert found.deviation.mean() > 0.6

    def test_trees_without_scikit_learn_say_what_to_install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "sklearn.ensemble", None)
        with pytest.raises(InputError, match="pip install scikit-learn"):
            TreeRegressor().fit(features(0, 50), np.arange(50.0), 0)

    def test_texts_need_features(self) -> None:
        with pytest.raises(InputError, match="texts need `features`"):
            LinearRegressor().fit(("a b", "b"), np.array([0.0, 1.0]), 0)
        with pytest.raises(InputError, match="not finite"):
            LinearRegressor(lambda texts: np.array([[np.nan], [1.0]])).fit(("a b", "b"), np.array([0.0, 1.0]), 0)


class TestTexts:
    def test_tokens_are_counted_without_padding(self) -> None:
        counts = TokenCounts(lambda texts: np.array([[3, 3, 5, 0], [1, 0, 0, 0]]), size=4)(["x", "y"])
        assert counts.tolist() == [[0, 1, 0, 2], [0, 1, 0, 0]]  # 5 shares the column of 1
        masked = TokenCounts(lambda texts: {"input_ids": np.array([[3, 3, 0]])}, size=4, padding=3)(["x"])
        assert masked.tolist() == [[1, 0, 0, 0]]

    def test_a_text_that_is_harder_than_its_words_stands_out(self) -> None:
        """The score is 2 for each "a"; one record scores 6 with a single "a"."""

        def encode(texts: Any) -> Any:
            return np.array([[1 + "ab".index(c) for c in text] for text in texts])

        class Model:
            classes = 2

            def logits(self, x: Inputs) -> Floats:
                high = [6.0 if text == "abbb" else 2.0 * text.count("a") for text in x]
                return np.stack([high, np.zeros(len(high))], axis=1)

        def texts(words: list[str]) -> Records:
            return Records(words, np.zeros(len(words), dtype=int), "text")

        regressor = LinearRegressor(TokenCounts(encode, size=3))
        population = texts(["aaaa", "baaa", "baba", "bbba", "bbbb"] * 4)
        found = query_qrm(Model(), texts(["babb", "abbb", "aabb"]), population, regressor, seed=0)
        assert found.scores.argmax() == 1
        assert found.scores[0] == pytest.approx(np.log(2))  # exactly as foretold: Phi = 1/2
        assert found.scores[2] == pytest.approx(np.log(2))
