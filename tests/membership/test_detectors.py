"""The five detectors against their formulas written as loops, and their limits."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

from expunge.errors import InputError
from expunge.membership import compressed_bytes, loss, min_k, min_k_plus_plus, reference, zlib_ratio

LENGTHS = [1, 2, 3, 5, 8, 13, 40]
OFFSETS = np.concatenate([[0], np.cumsum(LENGTHS)])


@pytest.fixture
def logprob():
    return np.log(np.random.default_rng(0).uniform(0.001, 1, OFFSETS[-1]))


def rows(values):
    return np.split(values, OFFSETS[1:-1])


def test_loss_is_the_mean_log_probability(logprob):
    assert loss(logprob, OFFSETS) == pytest.approx([r.mean() for r in rows(logprob)], abs=1e-12)


@pytest.mark.parametrize("k", [0.05, 0.2, 0.4, 0.6, 1.0])
def test_min_k_is_the_mean_of_the_lowest(logprob, k):
    expected = [np.sort(r)[: max(1, int(k * len(r)))].mean() for r in rows(logprob)]
    assert min_k(logprob, OFFSETS, k) == pytest.approx(expected, abs=1e-12)


def test_min_k_of_all_tokens_is_the_loss_and_token_order_is_irrelevant(logprob):
    assert min_k(logprob, OFFSETS, 1.0) == pytest.approx(loss(logprob, OFFSETS), abs=1e-12)
    backwards = np.concatenate([r[::-1] for r in rows(logprob)])
    assert (min_k(backwards, OFFSETS) == min_k(logprob, OFFSETS)).all()


def test_min_k_counts_tokens_as_the_reference_code_does():
    """k = 0.4: floor gives 0 of 1 and of 2 tokens, raised to 1; 2 of 5 to 7; log p = -1, -2, ... -n."""
    for n, expected in ((1, -1.0), (2, -2.0), (4, -4.0), (5, -4.5), (7, -6.5), (10, -8.5)):
        assert min_k(-np.arange(1.0, n + 1), np.array([0, n])) == pytest.approx(expected)


def test_min_k_plus_plus_of_a_two_way_prediction():
    """p = (3/4, 1/4), label the rarer: with d = ln 3, log p - mu = -3d/4 and var = 3 d^2/16, so z = -sqrt(3)."""
    p = np.array([0.75, 0.25])
    mu = (p * np.log(p)).sum()
    var = (p * np.log(p) ** 2).sum() - mu**2
    score = min_k_plus_plus(np.log(p[1:]), np.array([mu]), np.array([var]), np.array([0, 1]))
    assert score == pytest.approx(-np.sqrt(3), abs=1e-9)


def test_min_k_plus_plus_of_a_uniform_prediction_is_0_not_nan():
    flat = np.full(6, -np.log(50))
    assert min_k_plus_plus(flat, flat, np.zeros(6), np.array([0, 2, 6])).tolist() == [0, 0]


def test_min_k_plus_plus_clamps_the_variance_at_one_millionth():
    score = min_k_plus_plus(np.array([-1.0]), np.array([-1.5]), np.array([1e-9]), np.array([0, 1]))
    assert score == pytest.approx(0.5 / 1e-3)


def test_zlib_divides_by_the_compressed_utf8_length(logprob):
    texts = ["é" * 50, "a", "ab" * 100, "xyz", "Who wrote it?", "0123456789", "q"]
    sizes = compressed_bytes(texts)
    assert sizes[0] == len(zlib.compress(("é" * 50).encode()))
    assert sizes[2] < 30  # 200 letters of repetition
    scores = loss(logprob, OFFSETS)
    assert zlib_ratio(scores, sizes) == pytest.approx(scores / sizes)


def test_reference_is_the_gain_over_a_model_that_has_not_seen_it():
    """p = 1/2 against a reference's 1/8: ln 4. A model against itself: 0."""
    seen, unseen = loss(np.log([0.5, 0.5]), np.array([0, 2])), loss(np.log([0.125, 0.125]), np.array([0, 2]))
    assert reference(seen, unseen) == pytest.approx(np.log(4))
    assert reference(seen, seen) == 0


def test_better_predicted_rows_score_higher_under_every_detector(logprob):
    better = logprob / 2
    mean, variance = np.full_like(logprob, -3.0), np.full_like(logprob, 2.0)
    sizes = np.arange(10, 10 + len(LENGTHS))
    for score in (
        lambda x: loss(x, OFFSETS),
        lambda x: zlib_ratio(loss(x, OFFSETS), sizes),
        lambda x: min_k(x, OFFSETS),
        lambda x: min_k_plus_plus(x, mean, variance, OFFSETS),
        lambda x: reference(loss(x, OFFSETS), loss(logprob, OFFSETS)),
    ):
        assert (score(better) > score(logprob)).all()


def test_a_row_without_tokens_is_named():
    offsets = np.array([0, 2, 2, 3])
    for detector in (loss, min_k):
        with pytest.raises(InputError, match="Row 2 has no tokens"):
            detector(np.zeros(3), offsets)


@pytest.mark.parametrize("k", [0, -0.1, 1.5, float("nan")])
def test_a_share_outside_its_range_is_refused(k):
    with pytest.raises(InputError, match=r"min-k: k="):
        min_k(np.zeros(2), np.array([0, 2]), k)
