"""MA: exact memorisation without x_0, on written-down hits and on models."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from expunge.errors import InputError
from expunge.language.data import Record
from expunge.language.encode import encode
from expunge.language.evidence import EvidenceStore
from expunge.language.metrics.exact_memorization import exact_memorization
from expunge.language.metrics.extraction_likelihood import measured
from expunge.language.metrics.memorization_accuracy import MemorizationAccuracy, memorization_accuracy
from expunge.language.scores import AnswerScores
from stub_model import Stub
from tiny_bed import Bed


def made(scores: Callable[..., AnswerScores], rows: list[str]) -> AnswerScores:
    """X is a hit; the last place is the end of sequence."""
    hits = [[c == "X" for c in row] for row in rows]
    return scores([[0.5] * len(h) for h in hits], hits)


def test_t_tokens_are_t_minus_1_predictions(scores: Any) -> None:
    """oXXX with something before it: x_0 is missed, and left out; without, four predictions follow x_0."""
    answers = made(scores, ["oXXXo", "XoXo", "oXXXo"])
    found = memorization_accuracy(answers, np.array([True, True, False]))
    assert found.tolist() == [1, 0.5, 0.75]


def test_without_anything_before_the_text_it_is_exact_memorisation(scores: Any) -> None:
    answers = made(scores, ["oXoXo", "XXXo", "oX"])
    found = memorization_accuracy(answers, np.zeros(3, dtype=bool))
    assert found.tolist() == exact_memorization(answers).tolist()


def test_a_text_of_one_token_predicts_nothing(scores: Any) -> None:
    with pytest.raises(InputError, match="'forget', row 2: no token of the text after its first token"):
        memorization_accuracy(made(scores, ["XXo", "Xo"]), np.array([True, True]), where="forget")


def test_stubs_that_know_all_and_nothing(bed: Bed) -> None:
    text = "Where was the old house built"
    known = bed.target.tokenizer(text)["input_ids"]
    absent = next(t for t in range(3, 2000) if t not in known)
    for rule, value in ((lambda seen: [*known, 2, 2][len(seen)], 1), (lambda seen: absent, 0)):
        subject = bed.target.with_model(Stub(rule, len(bed.target.tokenizer)))
        store = EvidenceStore("stub", subject, {"forget": [Record("", text)]}, fingerprint="stub")
        (finding,) = MemorizationAccuracy().measure(store, None)
        assert (finding.metric, finding.value, finding.n) == ("memorization_accuracy", value, 1)


def test_it_is_the_reading_that_comes_with_extraction_likelihood(bed: Bed) -> None:
    """Two ways to the same number: stored scores, and the pass of the continuations; plain text, and prompts."""
    plain = [Record("", bed.target.template.prompt(r, None) + r.answer) for r in bed.forget[:8]]
    asked = [Record(r.question, f"{r.answer} and {r.question}") for r in bed.forget[:8]]
    for records in (plain, asked):
        encoded = encode(records, bed.target.tokenizer, bed.target.template)
        rows = [encoded.ids[a:b].tolist() for a, b in itertools.pairwise(encoded.offsets.tolist())]
        follows = {tuple(row[:k]): row[k] for row in rows for k in range(1, len(row)) if k % 3}

        def says(seen: list[int], follows: dict[tuple[int, ...], int] = follows) -> int:
            return follows.get(tuple(seen), 0)

        subject = bed.target.with_model(Stub(says, len(bed.target.tokenizer)))
        store = EvidenceStore("stub", subject, {"forget": records}, fingerprint="stub")
        (finding,) = MemorizationAccuracy().measure(store, None)
        _, ma = measured(subject, records, 1)
        assert finding.value == pytest.approx(ma.mean())
        assert 0.5 < finding.value < 0.8
