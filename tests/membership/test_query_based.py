from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from expunge.errors import InputError
from expunge.membership.canary import CanarySettings, query_ref
from expunge.membership.classifier import Classifier, Floats, Inputs, Records
from expunge.membership.curves import auroc
from expunge.membership.hopskipjump import BoundarySettings
from expunge.membership.quantile import LinearRegressor, NetworkRegressor, TreeRegressor, query_qrm
from expunge.membership.query_based import (
    Queried,
    correctness,
    query_adv,
    query_augment,
    query_neighbor,
    query_transfer,
)
from tiny_queried import CLASSES, Constant, Line, images, learner, network, world

FAST = BoundarySettings(iterations=4, first_evaluations=15)


class Counted:
    """Counts the records a model is asked about."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.classes, self.asked = inner, inner.classes, 0

    def logits(self, x: Inputs) -> Floats:
        self.asked += len(x)
        return self.inner.logits(x)


class Letters:
    """A classifier of texts: the logit of class c is how often letter c occurs."""

    classes = 2

    def logits(self, x: Inputs) -> Floats:
        return np.array([[text.count("a"), text.count("b")] for text in x], dtype=np.float64)


def similar(texts: Sequence[str], count: int) -> list[list[str]]:
    """Each text with one letter of each place left out, at most `count`."""
    return [[text[:i] + text[i + 1 :] for i in range(len(text))][:count] for text in texts]


TEXTS = Records(["aab", "abbb", "aa", "bab"], np.array([0, 1, 0, 0]), "text")


def ce(a: int, b: int, label: int) -> float:
    return float(np.log(1 + np.exp((b - a) * (1 if label == 0 else -1))))


class TestNeighbor:
    def test_the_share_of_copies_above_on_a_line(self) -> None:
        """On a line the loss rises with one half of all noise, whatever the record: 1/2, standard deviation 0.035."""
        records = Records(np.random.default_rng(0).uniform(0, 1, (300, 5)), np.arange(300) % 2, "continuous")
        scores = query_neighbor(Line(np.arange(1.0, 6.0), -5.0), records, seed=0, queries=200).scores
        assert abs(scores.mean() - 0.5) < 0.01
        assert scores.std() == pytest.approx(np.sqrt(0.25 / 200), rel=0.2)

    def test_a_record_in_a_pit_scores_1_and_one_on_a_peak_0(self) -> None:
        class Pit:
            classes = 2

            def logits(self, x: Inputs) -> Floats:
                depth = ((np.asarray(x) - 0.5) ** 2).sum(1)  # logit of class 0 is largest at the middle
                return np.stack([-depth, depth], axis=1)

        records = Records(np.full((2, 3), 0.5), np.array([0, 1]), "continuous")
        assert query_neighbor(Pit(), records, seed=0).scores.tolist() == [1.0, 0.0]

    @pytest.mark.parametrize("kind", ["image", "continuous", "binary"])
    def test_without_noise_no_copy_is_above(self, kind: Any) -> None:
        records, _, models, _, _ = world()
        inputs = np.asarray(records.inputs)
        if kind != "image":
            inputs = (inputs.reshape(len(inputs), -1) > 0.5).astype(float)
        again = Records(inputs, records.labels, kind)
        assert not query_neighbor(models[0], again, seed=0, share=0.0).scores.any()

    def test_texts_get_the_mean_of_the_neighbours_minus_their_own(self) -> None:
        found = query_neighbor(Letters(), TEXTS, seed=0, neighbours=similar)
        own = ce(2, 1, 0)
        # Two deletions of "aab" give "ab", which counts once.
        assert found.scores[0] == pytest.approx((ce(1, 1, 0) + ce(2, 0, 0)) / 2 - own)
        assert found.queries.tolist() == [3, 3, 2, 4]

    def test_counts(self) -> None:
        records, _, models, _, _ = world()
        target = Counted(models[0])
        found = query_neighbor(target, records, seed=0, queries=7)
        assert found.total == target.asked == 8 * len(records)
        texts = Counted(Letters())
        assert query_neighbor(texts, TEXTS, seed=0, neighbours=similar).total == texts.asked == 12

    def test_refusals(self) -> None:
        with pytest.raises(InputError, match="queries=0"):
            query_neighbor(Letters(), TEXTS, seed=0, queries=0, neighbours=similar)
        with pytest.raises(InputError, match="neighbours"):
            query_neighbor(Letters(), TEXTS, seed=0)


class TestAugment:
    def test_the_vector_is_the_record_and_its_copies(self) -> None:
        records, _, models, _, _ = world()
        vectors, asked = correctness(models[0], records, 3, seed=0)
        assert vectors.shape == (240, 4)
        assert np.array_equal(vectors[:, 0], models[0].logits(records.inputs).argmax(1) == records.labels)
        assert set(asked) == {4}

    def test_a_model_that_augmentation_does_not_touch_gives_constant_vectors(self) -> None:
        """A rotation keeps the colour of a plain image's middle; so does the class made of its brightest pixel."""

        class Colour:
            classes = 2

            def logits(self, x: Inputs) -> Floats:
                bright = np.asarray(x).max((2, 3))
                return np.asarray(bright[:, :2])

        rng = np.random.default_rng(0)
        plain = np.repeat(np.repeat(rng.uniform(0.1, 1, (30, 2, 1, 1)), 5, axis=2), 5, axis=3)
        vectors, _ = correctness(Colour(), Records(plain, np.arange(30) % 2, "image"), 6, seed=0)
        assert (vectors == vectors[:, :1]).all()
        assert 0 < vectors[:, 0].mean() < 1

    def test_texts_with_few_neighbours_repeat_them_and_ask_once(self) -> None:
        model = Counted(Letters())
        vectors, asked = correctness(model, TEXTS, 4, seed=0, neighbours=similar)
        # "aab" is right; its neighbours are "ab" (a tie, which goes to the first class) and "aa".
        assert vectors[0].tolist() == [1, 1, 1, 1, 1]
        # "bab", labelled 0, is wrong; of "ab", "bb", "ba" the ties are right, and "ab" comes round again.
        assert vectors[3].tolist() == [0, 1, 0, 1, 1]
        assert asked.sum() == model.asked == 12

    def test_counts(self) -> None:
        records, masks, models, _, _ = world()
        target, reference = Counted(models[0]), Counted(models[2])
        found = query_augment(target, records.take(range(50)), reference, records, masks[2], seed=0, queries=4)
        assert found.total == target.asked == 50 * 5
        assert found.other_queries == reference.asked == 240 * 5
        assert found.trainings == 1

    def test_one_sided_membership_and_mixed_kinds_are_refused(self) -> None:
        records, _, models, _, _ = world()
        with pytest.raises(InputError, match="too few"):
            query_augment(models[0], records, models[2], records, np.ones(240, dtype=bool), seed=0)
        with pytest.raises(InputError, match="kind"):
            query_augment(models[0], records, models[2], TEXTS, np.ones(4, dtype=bool), seed=0)


class TestAdv:
    def test_images_on_a_line_get_their_distance_and_0_where_they_are_wrong(self) -> None:
        rng = np.random.default_rng(3)
        w = rng.standard_normal(36)
        line = Line(w, 0.5 - w.sum() / 2)
        x = rng.uniform(0.3, 0.7, (20, 1, 6, 6))
        labels = line.logits(x).argmax(1)
        labels[:5] = 1 - labels[:5]
        line.asked = 0
        settings = BoundarySettings(iterations=20)
        found = query_adv(line, Records(x, labels, "image"), seed=0, settings=settings)
        assert line.asked == found.total
        assert not found.scores[:5].any()
        ratio = found.scores[5:] / line.distance(x[5:])
        assert (ratio >= 1).all()
        assert (ratio < 1.03).all()
        assert found.rows is None
        assert found.notes == ()

    def test_a_failed_search_scores_the_diagonal_of_the_range(self) -> None:
        records = Records(np.zeros((3, 1, 6, 6)), np.array([0, 0, 1]), "image", -1.0, 1.0)
        found = query_adv(Constant(1.0, 0.0, 0.0, 0.0), records, seed=0)
        assert found.scores.tolist() == [12.0, 12.0, 0.0]  # sqrt(36 * 2^2)
        assert "2 of 3 records" in found.notes[0]

    def test_the_first_records_only_and_the_result_says_so(self) -> None:
        records, _, models, _, _ = world()
        found = query_adv(models[0], records, seed=0, limit=7, settings=FAST)
        assert found.rows is not None
        assert found.rows.tolist() == [*range(7)]
        assert found.scores.shape == found.queries.shape == (7,)
        assert "7 of 240 records: not comparable" in found.notes[0]
        some = query_adv(models[0], records, seed=0, rows=[3, 5, 100], settings=FAST)
        assert some.rows is not None
        assert some.rows.tolist() == [3, 5, 100]
        assert np.allclose(some.scores[:2], found.scores[[3, 5]])

    def test_features_get_the_share_of_correct_copies(self) -> None:
        """A step at 0.5: noise of standard deviation 0.2 crosses it from 0.5 - 0.2 with probability Phi(-1)."""

        class Step:
            classes = 2

            def logits(self, x: Inputs) -> Floats:
                return np.stack([np.full(len(x), 0.5), np.asarray(x)[:, 0]], axis=1)

        records = Records(np.full((400, 1), 0.3), np.zeros(400, dtype=int), "continuous", 0.0, 40.0)
        found = query_adv(Step(), records, seed=0, queries=99)
        assert found.scores.mean() == pytest.approx(0.01 + 0.99 * 0.8413, abs=0.006)
        assert found.total == 400 * 100

    def test_texts_get_the_share_of_correct_neighbours(self) -> None:
        found = query_adv(Letters(), TEXTS, seed=0, queries=3, neighbours=similar)
        assert found.scores[3] == pytest.approx(2 / 4)
        assert found.queries.sum() == 12

    def test_refusals(self) -> None:
        records = images(5, 0)
        with pytest.raises(InputError, match="label"):
            query_adv(Line(np.ones(36), -18.0), Records(records.inputs, np.full(5, 3), "image"), seed=0)
        with pytest.raises(InputError, match="outside the range"):
            query_adv(
                Line(np.ones(36), -18.0), Records(records.inputs, np.zeros(5, dtype=int), "image", 0, 0.1), seed=0
            )


class TestTransfer:
    def test_the_proxy_learns_the_targets_classes_and_is_judged_by_the_true_ones(self) -> None:
        seen: list[Records] = []

        def train(records: Records, seed: int) -> Classifier:
            seen.append(records)
            return line

        line = Line(np.ones(3), -1.5)
        reference = Records(np.random.default_rng(0).uniform(0, 1, (50, 3)), np.zeros(50, dtype=int), "continuous")
        records = Records(np.random.default_rng(1).uniform(0, 1, (9, 3)), np.arange(9) % 2, "continuous")
        found = query_transfer(line, records, reference, train, seed=0)
        (taught,) = seen
        assert len(taught) == 40
        assert np.array_equal(taught.labels, line.logits(taught.inputs).argmax(1))
        value = np.asarray(records.inputs).sum(1) - 1.5
        assert np.allclose(found.scores, -np.log1p(np.exp(np.where(records.labels == 1, -value, value))))
        assert found.queries.sum() == 0
        assert found.total == 50
        assert found.other_queries == 9 + 10
        assert found.trainings == 1
        assert "100% of 10" in found.notes[0]

    def test_a_target_that_knows_one_class_is_refused(self) -> None:
        records = images(20, 0)
        with pytest.raises(InputError, match="class 2"):
            query_transfer(Constant(0.0, 0.0, 1.0, 0.0), records, records, learner().fit, seed=0)
        with pytest.raises(InputError, match="1 reference"):
            query_transfer(Constant(0.0, 0.0, 1.0, 0.0), records, records.take([0]), learner().fit, seed=0)


# -- all six on networks that memorised their data ----------------------------------------------------

W = world
DETECTORS: dict[str, Callable[[Classifier], Queried]] = {
    "neighbor": lambda c: query_neighbor(c, W().records, seed=0, queries=60, share=0.3),
    "augment": lambda c: query_augment(c, W().records, W().models[2], W().records, W().masks[2], seed=0),
    "adv": lambda c: query_adv(c, W().records, seed=0, settings=FAST),
    "transfer": lambda c: query_transfer(c, W().records, W().records, learner(40).fit, seed=0),
    "qrm-network": lambda c: query_qrm(
        c, W().records, W().population, NetworkRegressor(network, epochs=10, batch=32), seed=0
    ),
    "qrm-trees": lambda c: query_qrm(c, W().records, W().population, TreeRegressor(rounds=4, folds=2), seed=0),
    "qrm-linear": lambda c: query_qrm(c, W().records, W().population, LinearRegressor(), seed=0),
    "ref": lambda c: query_ref(
        c, W().records, W().models[2:], W().masks[2:], seed=0, settings=CanarySettings(queries=3, steps=8)
    ),
}  # fmt: skip
CHANCE = 3 / np.sqrt(6 * 120)  # three standard deviations of an AUROC of 120 members and 120 others


@pytest.mark.parametrize("name", DETECTORS)
def test_a_model_that_memorised_is_caught_and_a_stranger_is_not(name: str) -> None:
    member = world().masks[0]
    caught, stranger = DETECTORS[name](world().models[0]), DETECTORS[name](world().stranger)
    assert auroc(caught.scores[member], caught.scores[~member]) > 0.5 + CHANCE
    assert abs(auroc(stranger.scores[member], stranger.scores[~member]) - 0.5) < CHANCE
    permuted = np.random.default_rng(5).permutation(member)
    assert abs(auroc(caught.scores[permuted], caught.scores[~permuted]) - 0.5) < CHANCE


@pytest.mark.parametrize("name", DETECTORS)
def test_one_seed_one_answer(name: str) -> None:
    first, second = DETECTORS[name](world().models[0]), DETECTORS[name](world().models[0])
    assert np.array_equal(first.scores, second.scores)
    assert np.array_equal(first.queries, second.queries)
    assert np.isfinite(first.scores).all()


@pytest.mark.parametrize("name", DETECTORS)
def test_every_question_is_counted(name: str) -> None:
    target = Counted(world().models[0])
    found = DETECTORS[name](target)
    assert found.total == target.asked
    assert len(found.queries) == len(found.scores)


@pytest.mark.parametrize("name", DETECTORS)
def test_answers_that_are_not_finite_are_refused(name: str) -> None:
    broken = learner(0).fit(world().records, 0)
    with torch.no_grad():
        list(broken.module.parameters())[-1][0] = float("nan")
    with pytest.raises(InputError, match="not finite"):
        DETECTORS[name](broken)


def test_labels_lie_within_the_classes() -> None:
    wrong = Records(world().records.inputs, world().records.labels + CLASSES, "image")
    with pytest.raises(InputError, match="label"):
        query_neighbor(world().models[0], wrong, seed=0)
