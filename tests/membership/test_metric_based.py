"""The five detectors that need one query."""

from __future__ import annotations

import numpy as np
import pytest

from expunge.membership import (
    Signals,
    auroc,
    metric_conf,
    metric_corr,
    metric_ent,
    metric_loss,
    metric_ment,
)

ALL = (metric_loss, metric_conf, metric_corr, metric_ent, metric_ment)


def outputs(n, classes, seed):
    rng = np.random.default_rng(seed)
    logits, y = rng.standard_normal((n, classes)), rng.integers(0, classes, n)
    member = rng.random(n) < 0.5
    logits[np.arange(n), y] += member
    return Signals(logits, y), member


def area(scores, member):
    return auroc(scores[member], scores[~member])


def test_by_hand():
    """p = (1/2, 1/4, 1/4), y = 1: CE = 2 log 2; H = 1.5 bits; argmax is 0.

    Mentr = -(3/4) log(1/4) - (1/2) log(1/2) - (1/4) log(3/4) = 2 log 2 + 1/4 log(4/3).
    """
    s = Signals(np.log([[0.5, 0.25, 0.25]]), np.array([1]))
    expected = (-2 * np.log(2), 0.25, 0.0, -1.5, -(2 * np.log(2) + np.log(4 / 3) / 4))
    assert [d(s)[0] for d in ALL] == pytest.approx(expected, abs=1e-12)


def test_loss_and_confidence_have_the_same_auroc():
    s, member = outputs(2000, 10, 0)
    assert area(metric_loss(s), member) == area(metric_conf(s), member)
    assert area(metric_loss(s), member) > 0.6


def test_for_two_classes_loss_confidence_mentr_and_phi_agree():
    s, member = outputs(2000, 2, 1)
    areas = {area(scores, member) for scores in (metric_loss(s), metric_conf(s), metric_ment(s), s.rescaled)}
    assert len(areas) == 1


def test_correctness_of_a_perfectly_accurate_model_says_nothing():
    rng = np.random.default_rng(2)
    y = rng.integers(0, 4, 100)
    s = Signals(10 * np.eye(4)[y] + rng.random((100, 4)), y)
    assert area(metric_corr(s), rng.random(100) < 0.5) == 0.5


def test_permuting_records_permutes_scores_and_permuted_labels_give_one_half():
    s, member = outputs(3000, 6, 3)
    order = np.random.default_rng(4).permutation(3000)
    for detector in ALL:
        scores = detector(s)
        assert np.array_equal(detector(Signals(s.logits[order], s.labels[order])), scores[order])
        bound = 3 / np.sqrt(6 * min(member.sum(), (~member).sum()))
        assert abs(area(scores, member[order]) - 0.5) < bound


def overfit(x, y, epochs, seed=0, hidden=128, lr=1.0):
    """Two layers by full-batch gradient descent; zero weights of the head before the first step."""
    rng = np.random.default_rng(seed)
    first, head = rng.standard_normal((x.shape[1], hidden)) / np.sqrt(x.shape[1]), np.zeros((hidden, 10))
    for _ in range(epochs):
        h = np.maximum(x @ first, 0)
        p = Signals(h @ head, y).probabilities
        error = (p - np.eye(10)[y]) / len(x)
        back = (error @ head.T) * (h > 0)
        head -= lr * (h.T @ error)
        first -= lr * (x.T @ back)
    return lambda z: np.maximum(z @ first, 0) @ head


def test_an_overfit_network_leaks_and_an_untrained_one_does_not():
    """200 points with one of ten random labels each against 200 fresh ones."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((400, 100)), rng.integers(0, 10, 400)
    member = np.arange(400) < 200
    for epochs, leaks in ((200, True), (0, False)):
        model = overfit(x[:200], y[:200], epochs)
        found = area(metric_loss(Signals(model(x), y)), member)
        assert found > 0.95 if leaks else found == 0.5
