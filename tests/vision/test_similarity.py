"""CKA and k-NN: closed forms, invariances, and what batching does."""

from __future__ import annotations

import numpy as np
import pytest

from expunge.errors import InputError
from expunge.vision.similarity import knn_accuracy, linear_cka, minibatch_cka, unbiased_hsic


def pair(n: int = 1000, d: int = 32, classes: int = 10) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two representations of clustered records that share their classes, sorted by class."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(classes), n // classes)
    centres = rng.normal(size=(classes, d))
    x = centres[labels] + rng.normal(0, 0.7, (n, d))
    y = (x + rng.normal(0, 0.9, (n, d))) @ rng.normal(size=(d, d)) / np.sqrt(d)
    return x, y, labels


def test_cka_is_blind_to_rotations_scales_and_shifts() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(50, 6))
    rotation = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    assert linear_cka(x, x) == pytest.approx(1.0)
    assert linear_cka(x, 3 * x @ rotation + 5) == pytest.approx(1.0)
    y = rng.normal(size=(50, 4))
    assert linear_cka(x, y) == pytest.approx(linear_cka(y @ np.diag([2.0] * 4) - 1, x @ rotation))


def test_the_feature_form_is_the_gram_form() -> None:
    x, y, _ = pair(200)
    centre = np.eye(200) - 1 / 200
    k, m = centre @ (x @ x.T) @ centre, centre @ (y @ y.T) @ centre
    gram = (k * m).sum() / np.sqrt((k * k).sum() * (m * m).sum())
    assert linear_cka(x, y) == pytest.approx(gram, abs=1e-10)


def test_independent_features_align_with_nothing() -> None:
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(5000, 4)), rng.normal(size=(5000, 4))
    assert linear_cka(x, y) < 0.005
    draws = [unbiased_hsic(a @ a.T, b @ b.T) for a, b in rng.normal(size=(400, 2, 10, 3))]
    assert abs(np.mean(draws)) < 3 * np.std(draws) / 20  # unbiased: 0 in the mean


def test_minibatches_agree_with_the_whole_and_batch_means_do_not() -> None:
    x, y, _ = pair()
    whole = linear_cka(x, y)
    order = np.random.default_rng(0).permutation(len(x))
    biased = np.mean([linear_cka(x[rows], y[rows]) for rows in np.split(order, 20)])
    assert minibatch_cka(x, y, 50) == pytest.approx(whole, abs=0.01)
    assert minibatch_cka(x, y, len(x)) == pytest.approx(whole, abs=0.005)
    assert biased > whole + 0.01
    on_sorted = np.mean([linear_cka(x[rows], y[rows]) for rows in np.split(np.arange(len(x)), 20)])
    assert on_sorted < whole  # within classes there is less to agree on


def test_what_cannot_be_aligned_is_refused() -> None:
    with pytest.raises(InputError, match="at least 2 records"):
        linear_cka(np.ones((1, 3)), np.ones((1, 3)))
    with pytest.raises(InputError, match="same for all records"):
        linear_cka(np.ones((4, 3)), np.eye(4))
    with pytest.raises(InputError, match="4 records under one model and 5"):
        linear_cka(np.eye(4), np.eye(5))
    with pytest.raises(InputError, match="at least 4 records; found 3"):
        minibatch_cka(np.eye(3), np.eye(3))
    with pytest.raises(InputError, match="same for all records"):
        minibatch_cka(np.ones((8, 3)), np.eye(8))


def test_neighbours_find_classes_and_permuted_labels_find_chance() -> None:
    x, _, labels = pair()
    apart = x + 50 * np.eye(10)[labels] @ np.random.default_rng(3).normal(size=(10, 32))
    odd = np.arange(len(x)) % 2 == 1
    assert knn_accuracy(apart[~odd], labels[~odd], apart[odd], labels[odd]).mean() == 1
    mixed = np.random.default_rng(4).permutation(labels)
    share = knn_accuracy(x[~odd], mixed[~odd], x[odd], mixed[odd]).mean()
    assert abs(share - 0.1) < 3 * np.sqrt(0.09 / 500)


def test_ties_are_settled_by_similarity_then_by_the_smaller_label() -> None:
    """Two neighbours, one of each label: the nearer wins; equally near, the smaller label."""
    train = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert knn_accuracy(train, [1, 0], [[1.0, 0.1]], [1], k=2).tolist() == [1.0]
    assert knn_accuracy(train, [1, 0], [[1.0, 1.0]], [0], k=2).tolist() == [1.0]
    with pytest.raises(InputError, match="k=3 must lie between 1 and the number of training records, 2"):
        knn_accuracy(train, [0, 1], train, [0, 1], k=3)
