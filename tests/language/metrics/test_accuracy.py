from __future__ import annotations

import pytest

from expunge.errors import InputError
from expunge.language.metrics.accuracy import Accuracy


def test_an_answer_counts_when_every_token_is_hit_end_of_sequence_included(scores, split, store):
    """Rows: all hit; first missed; only the end of sequence missed: 1 of 3."""
    hits = [[True, True], [False, True], [True, True, False]]
    model = store(forget=split(scores([[0.5] * len(h) for h in hits], hits)))
    (found,) = Accuracy(splits=("forget",)).measure(model, None)
    assert (found.metric, found.split, found.subject, found.n) == ("accuracy", "forget", "npo", 3)
    assert found.value == pytest.approx(1 / 3)


def test_direction_is_golds_value_on_forget_and_holdout_and_up_elsewhere(split, store):
    part = split([[0.5]] * 3)
    names = ("forget", "forget_paraphrase", "holdout", "retain", "places")
    found = Accuracy(splits=names).measure(store(**dict.fromkeys(names, part)), None)
    assert [f.direction for f in found] == ["match-gold"] * 3 + ["higher"] * 2


def test_the_interval_resamples_clusters(scores, split, store):
    """Two clusters of two rows, one all right and one all wrong: a draw gives 0, 1/2 or 1; four clusters differ."""
    hits = [[True], [True], [False], [False]]
    right = scores([[0.5]] * 4, hits)
    paired = Accuracy(splits=("forget",)).measure(store(forget=split(right, clusters=[0, 0, 1, 1])), None)[0]
    assert (paired.low, paired.value, paired.high) == (0.0, 0.5, 1.0)
    lone = Accuracy(splits=("forget",)).measure(store(forget=split(right, clusters=[7] * 4)), None)[0]
    assert lone.low != lone.low  # one cluster says nothing about the spread between clusters


def test_a_split_that_is_not_there_or_holds_nothing_is_refused(scores, split, store):
    with pytest.raises(InputError, match="No split 'retain'"):
        Accuracy(splits=("forget", "retain")).measure(store(forget=split([[0.5]])), None)
    with pytest.raises(InputError, match="'forget' has no records"):
        Accuracy(splits=("forget",)).measure(store(forget=split([])), None)
    with pytest.raises(InputError, match=r"'forget', row 2"):
        Accuracy(splits=("forget",)).measure(store(forget=split([[0.5], []])), None)
