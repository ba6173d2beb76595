"""Scores of answers: rows in any batch and order, cut rows, and statistics with closed forms."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from expunge.language.data import Record
from expunge.language.score import length_batches, score_answers, token_statistics
from expunge.language.scores import AnswerScores
from tiny_bed import Bed


@pytest.mark.parametrize("tokens", [1, 7, 40, 10_000])
def test_batches_cover_all_rows_within_the_budget(tokens: int) -> None:
    lengths = torch.randint(1, 30, (57,), generator=torch.Generator().manual_seed(0))
    batches = length_batches(lengths, tokens)
    assert torch.cat(batches).sort().values.tolist() == list(range(57))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * int(lengths[batch].max()) <= tokens
    means = [float(lengths[b].float().mean()) for b in batches]
    assert means == sorted(means)
    assert length_batches(torch.zeros(0, dtype=torch.long), tokens) == []


def test_statistics_by_hand() -> None:
    """p = (1/2, 1/4, 1/4): mean = -1.5 ln 2; log p is -ln 2 or -2 ln 2 with equal weight: variance = (ln 2)^2 / 4."""
    logits = torch.tensor([[0.5, 0.25, 0.25]]).log() + 3.0
    logp, hit, mean, variance = token_statistics(logits, torch.tensor([1]))
    assert float(logp) == pytest.approx(math.log(0.25))
    assert not bool(hit)
    assert float(mean) == pytest.approx(-1.5 * math.log(2))
    assert float(variance) == pytest.approx(math.log(2) ** 2 / 4)


def test_variance_keeps_its_digits_where_it_is_small() -> None:
    """Uniform over V = 50 000 but for one logit d: the difference of moments would drown it in rounding.

    With p0 = e^d / (e^d + V - 1), the log-probabilities differ by d: variance = p0 (1 - p0) d^2.
    """
    vocabulary, d = 50_000, 1.0
    logits = torch.zeros(1, vocabulary)
    logits[0, 0] = d
    p0 = math.exp(d) / (math.exp(d) + vocabulary - 1)
    variance = token_statistics(logits, torch.tensor([3]))[3]
    assert float(variance) == pytest.approx(p0 * (1 - p0) * d**2, rel=1e-2)


def test_impossible_labels_are_infinite_and_no_nan() -> None:
    logits = torch.tensor([[0.0, -math.inf, -1e4]])
    logp, hit, mean, variance = token_statistics(logits, torch.tensor([1]))
    assert float(logp) == -math.inf
    assert not bool(hit)
    assert (float(mean), float(variance)) == (0.0, 0.0)


def test_a_uniform_model_knows_nothing(bed: Bed) -> None:
    """All logits zero: log p = mean = -ln V at every token, variance 0."""
    subject = bed.fresh()
    with torch.no_grad():
        for p in subject.model.parameters():
            p.zero_()
    scores = score_answers(subject, bed.forget[:4], [[r.answer, *r.perturbed_answers] for r in bed.forget[:4]])
    expected = -math.log(subject.model.config.vocab_size)
    assert np.allclose(scores.logprob, expected, atol=1e-5)
    assert np.allclose(scores.mean, expected, atol=1e-5)
    assert np.allclose(scores.variance, 0, atol=1e-8)


def test_rows_cut_at_the_maximum_length_say_so_one_by_one(bed: Bed) -> None:
    """Only the long row loses its end token; without_eos takes one label from the other two and none from it."""
    rows = [Record("Where?", "a"), Record("Where?", "b c d e f g h i j k l m n o p"), Record("Where?", "c d")]
    whole = score_answers(bed.gold, rows, [[r.answer] for r in rows])
    assert whole.has_eos.tolist() == [True, True, True]  # type: ignore[union-attr]
    short = replace(bed.gold, max_length=16)
    cut = score_answers(short, rows, [[r.answer] for r in rows])
    assert cut.has_eos.tolist() == [True, False, True]  # type: ignore[union-attr]
    assert (cut.lengths - cut.without_eos().lengths).tolist() == [1, 0, 1]
    assert not np.any(cut.without_eos().has_eos)
    kept = cut.without_eos().select(np.array([1]))
    assert np.array_equal(kept.logprob, cut.logprob[cut.offsets[1] : cut.offsets[2]])
    assert cut.select(np.array([1, 0])).has_eos.tolist() == [False, True]  # type: ignore[union-attr]


def test_no_answers_at_all(bed: Bed) -> None:
    assert len(score_answers(bed.gold, [], [])) == 0
    scores = score_answers(bed.gold, bed.forget[:2], [[], []])
    assert len(scores) == 0
    assert scores.nll_sum.tolist() == []
    assert scores.exact.tolist() == []


def test_empty_rows_beside_impossible_ones() -> None:
    """Rows of 0, 1, 0 tokens, the one with probability 0: sums 0, inf, 0 and no NaN."""
    one = np.array([-np.inf])
    scores = AnswerScores(
        np.array([0, 0, 1, 1]), one, np.array([False]), np.array([-1.0]), np.array([1.0]), has_eos=False
    )
    assert scores.nll_sum.tolist() == [0.0, np.inf, 0.0]
    assert scores.exact.tolist() == [False, False, False]


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_of_the_model_is_left_alone(bed: Bed, training: bool) -> None:
    subject = bed.fresh()
    subject.model.train(training)
    score_answers(subject, bed.forget[:1], [["x"]])
    assert subject.model.training is training
