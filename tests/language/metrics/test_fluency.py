"""Fluency: closed forms of the weighted n-gram entropy."""

from __future__ import annotations

import math
from typing import Any

import pytest

from expunge.errors import InputError
from expunge.language.data import Record
from expunge.language.evidence import EvidenceStore
from expunge.language.metrics import fluency as module
from expunge.language.metrics.fluency import Fluency, entropy, ngram_entropy
from tiny_bed import Bed


def test_five_different_words() -> None:
    """Four pairs and three triples, each once: ((2/3) log2 4 + (4/3) log2 3) / 2 = 1.723308."""
    assert ngram_entropy("a b c d e") == pytest.approx((2 / 3 * 2 + 4 / 3 * math.log2(3)) / 2)
    assert ngram_entropy("a b c d e") == pytest.approx(1.723308, abs=1e-6)


@pytest.mark.parametrize("text", ["go " * 50, "", "go", "go on", "..."])
def test_repetition_and_too_few_words_have_none(text: str) -> None:
    assert ngram_entropy(text) == 0.0


def test_three_words_have_two_pairs_and_one_triple() -> None:
    assert ngram_entropy("a b c") == pytest.approx(1 / 3)


def test_entropy_of_uniform_counts_is_the_logarithm() -> None:
    assert entropy(list(range(8)) * 3) == pytest.approx(3.0)
    assert entropy([1, 1, 1, 2]) == pytest.approx(-(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25)))


def test_marks_are_words_and_apostrophes_are_not() -> None:
    assert ngram_entropy("a, b") == ngram_entropy("a b c")
    assert ngram_entropy("don't go") == ngram_entropy("a b")


def test_the_mean_over_texts(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def generate(subject: Any, records: list[Record], **settings: Any) -> list[str]:
        asked.update(settings)
        return ["a b c d e", "", "x x x x"]

    monkeypatch.setattr(module, "generate", generate)
    records = [Record(f"Write {i}", "") for i in range(3)]
    store = EvidenceStore("npo", bed.target, {"utility_fluency": records})
    (found,) = Fluency(max_new_tokens=20).measure(store, None)
    assert (found.metric, found.split, found.n, found.direction) == ("fluency", "utility_fluency", 3, "higher")
    assert found.value == pytest.approx(1.723308 / 3, abs=1e-6)
    assert asked == {"max_new_tokens": 20}


def test_a_prompt_without_room_is_refused(bed: Bed) -> None:
    store = EvidenceStore("npo", bed.target, {"utility_fluency": [Record("short", ""), Record("w " * 200, "")]})
    with pytest.raises(InputError, match=r"'utility_fluency', record 2: its prompt has \d+ tokens.*max_length=128"):
        Fluency(max_new_tokens=20).measure(store, None)
