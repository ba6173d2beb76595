"""Signals of a classifier against naive formulas, where those still hold, and by hand where they do not."""

from __future__ import annotations

import numpy as np
import pytest

from expunge.errors import InputError
from expunge.membership import Signals


@pytest.fixture
def outputs():
    rng = np.random.default_rng(0)
    return 3 * rng.standard_normal((50, 5)), rng.integers(0, 5, 50)


def test_signals_are_the_naive_formulas_on_moderate_logits(outputs):
    logits, y = outputs
    s, i = Signals(logits, y), np.arange(50)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    own = p[i, y]
    others = np.where(np.arange(5) == y[:, None], 0.0, p * np.log1p(-p)).sum(1)
    assert np.allclose(s.probabilities, p, atol=1e-14)
    assert np.allclose(s.ce, -np.log(own), atol=1e-12)
    assert np.allclose(s.confidence, own, atol=1e-14)
    assert np.allclose(s.rescaled, np.log(own) - np.log1p(-own), atol=1e-10)
    assert np.allclose(s.entropy, -(p * np.log2(p)).sum(1), atol=1e-12)
    assert np.allclose(s.mentr, -(1 - own) * np.log(own) - others, atol=1e-12)
    assert np.array_equal(s.correct, p.argmax(1) == y)


def test_signals_do_not_saturate():
    """z = (t, 0, 0) with y = 0: phi = t - log 2 and CE = log(1 + 2 e^-t) = 2 e^-t; with y = 1: phi = -log(e^t + 1).

    Mentr of the latter: (1 - p_y) CE + p_0 (-log(1 - p_0)) -> t + (t - log 2).
    """
    t = np.array([40.0, 300.0, 700.0, 5000.0])
    logits = np.stack([t, np.zeros(4), np.zeros(4)], 1)
    right, wrong = Signals(logits, np.zeros(4, int)), Signals(logits, np.ones(4, int))
    assert right.rescaled == pytest.approx(t - np.log(2), rel=1e-15)
    assert right.ce[:3] == pytest.approx(2 * np.exp(-t[:3]), rel=1e-12)
    assert len(set(right.ce[:3])) == 3  # the softmax is 1 for all of them
    assert wrong.rescaled == pytest.approx(-t, rel=1e-15)
    assert wrong.ce == pytest.approx(t, rel=1e-15)
    assert wrong.mentr == pytest.approx(2 * t - np.log(2), rel=1e-12)
    assert right.entropy[3] == 0


def test_shifting_all_logits_of_a_row_changes_nothing(outputs):
    logits, y = outputs
    once, moved = Signals(logits, y), Signals(logits + np.linspace(-500, 500, 50)[:, None], y)
    for name in ("ce", "confidence", "rescaled", "entropy", "mentr"):
        assert np.allclose(getattr(once, name), getattr(moved, name), rtol=1e-9, atol=1e-10), name


def test_float32_outputs_are_computed_in_float64():
    s = Signals(np.array([[60.0, 0.0]], dtype=np.float32), np.array([0]))
    assert s.rescaled.dtype == np.float64
    assert s.ce[0] == pytest.approx(np.exp(-60), rel=1e-12)


def test_probabilities_give_the_signals_of_their_logits(outputs):
    logits, y = outputs
    a = Signals(logits, y)
    b = Signals.from_probabilities(a.probabilities, y)
    for name in ("ce", "confidence", "rescaled", "entropy", "mentr"):
        assert np.allclose(getattr(a, name), getattr(b, name), atol=1e-9), name


def test_probabilities_of_exactly_0_and_1_end_at_the_floor():
    s = Signals.from_probabilities([[1.0, 0.0], [1.0, 0.0]], [0, 1])
    limit = 30 * np.log(10)
    assert s.rescaled == pytest.approx([limit, -limit], rel=1e-12)
    assert s.ce == pytest.approx([1e-30, limit], rel=1e-12)
    assert np.isfinite(s.mentr).all()


def test_one_minus_p_is_taken_from_the_other_classes():
    """p_y = 1 - 1e-20 is 1 in floating point; the other class still says 1e-20."""
    s = Signals.from_probabilities([[1.0, 1e-20]], [0])
    assert s.rescaled[0] == pytest.approx(20 * np.log(10), rel=1e-12)


@pytest.mark.parametrize(
    ("logits", "labels", "said"),
    [
        ([[0.0, 1.0], [np.nan, 0.0]], [0, 1], "row 2 are not finite"),
        ([[0.0, 1.0], [0.0, np.inf]], [0, 1], "row 2 are not finite"),
        ([[0.0, 1.0], [0.0, 1.0]], [0, 2], r"row 2 is 2; it must lie in 0 .. 1"),
        ([[0.0, 1.0]], [-1], "row 1 is -1"),
        ([[0.0, 1.0]], [0.0], "whole numbers"),
        ([[0.0, 1.0]], [0, 1], r"1 rows of logits but labels of shape \(2,\)"),
        ([0.0, 1.0], [0], "shape"),
        ([[0.0]], [0], "at least 2 classes"),
        (np.zeros((0, 3)), np.zeros(0, int), "shape"),
    ],
)
def test_wrong_outputs_name_their_row(logits, labels, said):
    with pytest.raises(InputError, match=said):
        Signals(np.asarray(logits), np.asarray(labels))


@pytest.mark.parametrize(
    ("probabilities", "said"),
    [
        ([[0.5, 0.5], [0.5, 0.6]], "row 2 sum to 1.1"),
        ([[0.5, 0.5], [1.5, -0.5]], "Row 2 holds a probability outside"),
        ([[np.nan, 0.5]], "Row 1"),
        ([0.5, 0.5], "shape"),
    ],
)
def test_wrong_probabilities_are_refused(probabilities, said):
    with pytest.raises(InputError, match=said):
        Signals.from_probabilities(probabilities, np.zeros(len(probabilities), int))
