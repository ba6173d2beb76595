"""Comparing representations: linear CKA, plain and over minibatches, and what a nearest-neighbour vote reads."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expunge.errors import InputError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def linear_cka(x: ArrayLike, y: ArrayLike) -> float:
    """Linear centred kernel alignment of two representations of the same records (Kornblith et al. 2019).

    CKA = ||Y^T X||_F^2 / (||X^T X||_F ||Y^T Y||_F), columns centred; in [0, 1], 1 for the same up to a rotation, a
    scale and a shift.

    Args:
        x: [n, d] features.
        y: [n, e] features of the same records in the same order.

    Raises:
        InputError: Fewer than two records, other shapes, or features that do not vary.
    """
    a, b = _centred(x), _centred(y)
    _same_records(a, b)
    own = [np.linalg.norm(m.T @ m) for m in (a, b)]
    if min(own) == 0:
        raise InputError("CKA: the features of a model are the same for all records; there is nothing to align.")
    return float(np.linalg.norm(b.T @ a) ** 2 / (own[0] * own[1]))


def minibatch_cka(x: ArrayLike, y: ArrayLike, batch: int = 512, *, seed: int = 0) -> float:
    """Linear CKA from minibatches, with unbiased HSIC (Nguyen, Raghu, Kornblith 2021, arXiv 2010.15327, equation 3).

    The records are shuffled once, the three HSIC terms are summed over batches of one size, and divided once. The mean
    of each batch's own biased CKA, which is also in use, lies above the full value, and on class-sorted records it
    measures the geometry within classes.

    Args:
        x: [n, d] features.
        y: [n, e] features of the same records.
        batch: Records of a batch, at least 4; what does not fill one is left out.
        seed: Shuffles the records.

    Raises:
        InputError: As `linear_cka`; a batch below 4, or fewer records than one batch.
    """
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    _same_records(a, b)
    batch = min(batch, len(a))
    if batch < 4:
        raise InputError(f"CKA over minibatches needs batches of at least 4 records; found {batch}.")
    order = np.random.default_rng(seed).permutation(len(a))
    sums = np.zeros(3)
    for start in range(0, len(a) - batch + 1, batch):
        rows = order[start : start + batch]
        k, m = (part[rows] @ part[rows].T for part in (a, b))
        sums += [unbiased_hsic(k, m), unbiased_hsic(k, k), unbiased_hsic(m, m)]
    if min(sums[1:]) <= 0:
        raise InputError("CKA: the features of a model are the same for all records; there is nothing to align.")
    return float(sums[0] / np.sqrt(sums[1] * sums[2]))


def unbiased_hsic(k: Floats, m: Floats) -> float:
    """Unbiased HSIC of two Gram matrices [n, n], n at least 4 (Song et al. 2012): 0 in expectation if independent.

    With zeroed diagonals: (tr(K L) + sum K sum L / ((n-1)(n-2)) - 2 sum(K L) / (n-2)) / (n (n-3)).
    """
    n = len(k)
    a, b = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
    cross = (a.sum(0) * b.sum(0)).sum()
    total = (a * b).sum() + a.sum() * b.sum() / ((n - 1) * (n - 2)) - 2 * cross / (n - 2)
    return float(total / (n * (n - 3)))


def knn_accuracy(
    train: ArrayLike, train_labels: ArrayLike, test: ArrayLike, test_labels: ArrayLike, k: int = 5
) -> Floats:
    """[m] whether the k nearest training records by cosine vote for a test record's label.

    Votes are counted; of labels with equally many the one with the larger sum of similarities wins, then the smaller
    label. Judged by the gap to gold's, not by its height: an untrained network may score as high as a trained one.

    Args:
        train: [n, d] features.
        train_labels: [n] classes.
        test: [m, d].
        test_labels: [m].
        k: Neighbours, at most n.

    Raises:
        InputError: No training record, or fewer than k.
    """
    a, b = (_unit(np.asarray(v, dtype=np.float64)) for v in (train, test))
    labels, truth = np.asarray(train_labels), np.asarray(test_labels)
    if not 1 <= k <= len(a):
        raise InputError(f"k-NN: k={k} must lie between 1 and the number of training records, {len(a)}.")
    classes = int(max(labels.max(), truth.max(initial=0))) + 1
    found = np.empty(len(b))
    for start in range(0, len(b), 1024):
        near = b[start : start + 1024] @ a.T
        nearest = np.argpartition(-near, k - 1, axis=1)[:, :k]
        similar = np.take_along_axis(near, nearest, axis=1)
        votes = np.zeros((len(near), classes))
        weight = np.zeros((len(near), classes))
        rows = np.arange(len(near))[:, None]
        np.add.at(votes, (rows, labels[nearest]), 1.0)
        np.add.at(weight, (rows, labels[nearest]), similar)
        best = votes == votes.max(1, keepdims=True)
        chosen = np.where(best, weight.round(12), -np.inf).argmax(1)
        found[start : start + 1024] = chosen == truth[start : start + 1024]
    return found


def _centred(values: ArrayLike) -> Floats:
    found = np.asarray(values, dtype=np.float64)
    if found.ndim != 2 or len(found) < 2:
        raise InputError(
            f"CKA: features of shape {found.shape}; [records, features] with at least 2 records is needed."
        )
    return np.asarray(found - found.mean(0), dtype=np.float64)


def _same_records(x: Floats, y: Floats) -> None:
    if len(x) != len(y):
        raise InputError(f"CKA: {len(x)} records under one model and {len(y)} under the other; they must be the same.")


def _unit(values: Floats) -> Floats:
    length = np.linalg.norm(values, axis=1, keepdims=True)
    return np.asarray(values / np.where(length == 0, 1.0, length), dtype=np.float64)
