"""BLEU to the target's own answers."""

from __future__ import annotations

import math

import pytest

from expunge.language.evidence import EvidenceStore
from expunge.language.metrics.bleu import Bleu, bleu
from tiny_bed import Bed


def test_by_hand() -> None:
    """4 of 5 words and 3 of 4 pairs, 2 of 3 triples, 1 of 2 quadruples match, same length: (4/5 3/4 2/3 1/2)^(1/4)."""
    assert bleu("a b c d e", "a b c d x") == pytest.approx((0.8 * 0.75 * 2 / 3 * 0.5) ** 0.25)


def test_smoothing_halves_for_each_order_without_a_match() -> None:
    """'a b c' against 'a x c': p1 = 2/3, p2 = 0 -> 1/(2*2), p3 = 0 -> 1/(4*1)."""
    assert bleu("a b c", "a x c") == pytest.approx((2 / 3 * 1 / 4 * 1 / 4) ** (1 / 3))


def test_short_answers_are_punished() -> None:
    """'a b' of 'a b c d': both precisions known are 1, the brevity penalty is exp(1 - 4/2)."""
    assert bleu("a b c d", "a b") < math.exp(-1) + 1e-9


@pytest.mark.parametrize("text", ["Paris", "two words", "a longer answer of six words"])
def test_the_same_answer_is_one(text: str) -> None:
    assert bleu(text, text) == pytest.approx(1)


def test_nothing_said() -> None:
    assert bleu("something", "") == 0
    assert bleu("", "") == 1


def test_beside_itself_a_model_says_the_same(bed: Bed) -> None:
    splits = {name: bed.records[name][:12] for name in ("forget", "retain")}
    target = EvidenceStore("target", bed.target, splits, max_new_tokens=6)
    same = EvidenceStore("copy", bed.fresh(), splits, max_new_tokens=6)
    gold = EvidenceStore("gold", bed.gold, splits, max_new_tokens=6)
    metric = Bleu()
    assert metric.measure(target, None) == []
    own = {(f.metric, f.split): f.value for f in metric.compare(same, target)}
    assert own == pytest.approx(dict.fromkeys(own, 1.0))
    assert len(own) == 4
    other = {(f.metric, f.split): f.value for f in metric.compare(gold, target)}
    assert other["bleu_to_target", "forget"] < 0.6 < other["bleu_to_target", "retain"]
    assert other["rouge_l_to_target", "forget"] < 0.6 < other["rouge_l_to_target", "retain"]
