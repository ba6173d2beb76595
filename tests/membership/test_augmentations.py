from __future__ import annotations

import numpy as np
import pytest

from expunge.errors import InputError
from expunge.membership.augmentations import augmented_copies, in_range, neighbours_of, noisy_copies, rotate
from expunge.membership.classifier import Records


def continuous(n: int = 400, d: int = 6, low: object = -1.0, high: object = 3.0) -> Records:
    return Records(np.random.default_rng(0).uniform(-1, 3, (n, d)), np.zeros(n, dtype=int), "continuous", low, high)


def binary(n: int = 50, d: int = 300) -> Records:
    return Records(np.random.default_rng(0).integers(0, 2, (n, d)), np.zeros(n, dtype=int), "binary")


def pictures(n: int = 3, height: int = 8, width: int = 8) -> Records:
    return Records(np.random.default_rng(0).uniform(0, 1, (n, 2, height, width)), np.zeros(n, dtype=int), "image")


class TestNoise:
    def test_standard_deviation_is_a_share_of_half_the_range(self) -> None:
        """Range 4, so 0.01 * 2 = 0.02; 4 copies of 2,400 numbers know it to 0.8%."""
        records = continuous()
        noise = np.stack([copy - records.inputs for copy in noisy_copies(records, 4, seed=1)])
        assert noise.std() == pytest.approx(0.02, rel=0.03)
        assert abs(noise.mean()) < 0.001

    def test_each_feature_has_its_own_range_and_a_constant_one_no_noise(self) -> None:
        records = continuous(low=np.full(6, -1.0), high=np.array([3.0, 3.0, 3.0, 3.0, 39.0, -1.0]))
        noise = next(noisy_copies(records, 1, seed=1)) - records.inputs
        assert noise[:, 4].std() == pytest.approx(0.2, rel=0.15)
        assert not noise[:, 5].any()

    def test_one_in_a_hundred_binary_features_is_flipped(self) -> None:
        records = binary(d=300)
        for copy in noisy_copies(records, 3, seed=0):
            assert set(np.unique(copy)) == {0.0, 1.0}
            assert ((copy != records.inputs).sum(1) == 3).all()

    def test_at_least_one_binary_feature_is_flipped(self) -> None:
        records = binary(d=7)
        assert ((next(noisy_copies(records, 1, seed=0)) != records.inputs).sum(1) == 1).all()

    @pytest.mark.parametrize("records", [continuous(), binary(), pictures()])
    def test_no_share_gives_the_records_themselves(self, records: Records) -> None:
        for copy in noisy_copies(records, 2, seed=0, share=0.0):
            assert np.array_equal(copy, records.inputs)

    @pytest.mark.parametrize("records", [continuous(), binary(), pictures()])
    def test_a_copy_depends_on_seed_and_number_alone(self, records: Records) -> None:
        few, many = list(noisy_copies(records, 2, seed=5)), list(noisy_copies(records, 4, seed=5))
        assert all(np.array_equal(a, b) for a, b in zip(few, many, strict=False))
        assert not np.array_equal(many[0], many[1])
        assert not np.array_equal(many[0], next(noisy_copies(records, 1, seed=6)))

    def test_flipped_places_are_spread_over_all_features(self) -> None:
        records = binary(n=3000, d=20)
        hits = (next(noisy_copies(records, 1, seed=0)) != records.inputs).sum(0)
        assert hits.min() > 100
        assert hits.max() < 200  # 150 expected, standard deviation 12

    def test_texts_are_refused(self) -> None:
        with pytest.raises(InputError, match="noise"):
            next(noisy_copies(Records(["a"], np.array([0]), "text"), 1, seed=0))


class TestRotation:
    @pytest.mark.parametrize("quarters", [0, 1, 2, 3])
    def test_quarter_turns_are_exact(self, quarters: int) -> None:
        images = np.asarray(pictures().inputs)
        assert np.array_equal(rotate(images, 90.0 * quarters), np.rot90(images, quarters, axes=(2, 3)))

    def test_half_a_turn_of_an_oblong_image_is_exact(self) -> None:
        images = np.asarray(pictures(height=5, width=9).inputs)
        assert np.array_equal(rotate(images, 180.0), images[:, :, ::-1, ::-1])

    def test_an_oblong_image_is_not_stretched(self) -> None:
        """A quarter turn puts the middle 5 x 5 square of a 5 x 9 image onto itself, turned."""
        images = np.asarray(pictures(height=5, width=9).inputs)
        middle = images[:, :, :, 2:7]
        assert np.array_equal(rotate(images, 90.0)[:, :, :, 2:7], np.rot90(middle, 1, axes=(2, 3)))

    def test_angles_lie_between_1_and_15_degrees_on_both_sides(self) -> None:
        """A disc with one dark ray to the right: the angle is read off the dark pixels, to a degree."""
        y, x = np.mgrid[100:-101:-1, -100:101]
        ray = (np.abs(np.rad2deg(np.arctan2(y, x))) < 0.5).astype(float)
        records = Records(ray[None, None], np.array([0]), "image")
        where = np.hypot(x, y) > 60
        angles = []
        for copy in augmented_copies(records, 40, seed=0):
            dark = (copy[0, 0] > 0) & where
            angles.append(np.rad2deg(np.arctan2(y, x))[dark].mean())
        size = np.abs(angles)
        assert size.min() > 0.5
        assert size.max() < 15.5
        assert size.min() < 4
        assert size.max() > 12
        assert 8 < (np.array(angles) > 0).sum() < 32

    def test_all_images_are_turned_alike_whatever_their_number(self) -> None:
        records = pictures(4)
        whole, part = augmented_copies(records, 3, seed=1), augmented_copies(records.take([1, 3]), 3, seed=1)
        assert all(np.array_equal(a[[1, 3]], b) for a, b in zip(whole, part, strict=True))


class TestCutMix:
    def test_one_in_a_hundred_features_comes_from_one_other_record(self) -> None:
        """Each record is a constant row, so what was taken over names its donor."""
        records = Records(np.repeat(np.arange(40.0)[:, None], 300, axis=1), np.zeros(40, dtype=int), "continuous")
        for copy in augmented_copies(records, 3, seed=0):
            for i, row in enumerate(copy):
                values, counts = np.unique(row, return_counts=True)
                assert dict(zip(values, counts, strict=True))[float(i)] == 297
                assert len(values) == 2

    def test_equal_records_do_not_change(self) -> None:
        records = Records(np.ones((5, 4)), np.zeros(5, dtype=int), "binary")
        assert (next(augmented_copies(records, 1, seed=0)) == 1).all()

    def test_a_single_record_has_no_donor(self) -> None:
        with pytest.raises(InputError, match="at least 2"):
            next(augmented_copies(continuous(n=1), 1, seed=0))


class TestNeighboursAndRanges:
    records = Records(["a", "b"], np.array([0, 1]), "text")

    def test_repeated_neighbours_count_once(self) -> None:
        assert neighbours_of(self.records, lambda texts, q: [["x", "x", "y", "z"], ["u"]], 2) == [["x", "y"], ["u"]]

    def test_missing_neighbours_are_refused(self) -> None:
        with pytest.raises(InputError, match="Record 2 has no neighbour: 'b'"):
            neighbours_of(self.records, lambda texts, q: [["x"], []], 2)
        with pytest.raises(InputError, match="1 texts"):
            neighbours_of(self.records, lambda texts, q: [["x"]], 2)
        with pytest.raises(InputError, match="MaskedNeighbours"):
            neighbours_of(self.records, None, 2)

    def test_a_value_outside_its_range_is_named(self) -> None:
        inputs = np.zeros((2, 1, 2, 2))
        inputs[1, 0, 1, 0] = 255.0
        with pytest.raises(InputError, match="Record 2 holds the value 255, outside the range"):
            in_range(Records(inputs, np.array([0, 1]), "image"))

    def test_an_empty_range_is_refused(self) -> None:
        with pytest.raises(InputError, match="empty"):
            in_range(Records(np.zeros((2, 1, 2, 2)), np.array([0, 1]), "image", 0.0, 0.0))
