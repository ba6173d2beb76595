"""RWKU's utility metric: rules in place of a model, and scores that belong to rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from expunge.errors import InputError
from expunge.language.data import Record
from expunge.language.evidence import EvidenceStore
from expunge.language.metrics import rwku_utility as module
from expunge.language.metrics.rwku_utility import RwkuUtility, likeliest_is_right
from expunge.language.rwku_twin_places import Places
from expunge.language.score import score_answers
from expunge.language.subject import Subject
from tiny_bed import Bed

PLACES = Places({f"Place{i}": f"Land{i % 4}" for i in range(12)}, {f"Land{i}": f"City{i}" for i in range(4)})
SUITES = PLACES.suites()


def saying(monkeypatch: pytest.MonkeyPatch, texts: dict[str, str]) -> list[dict[str, Any]]:
    """Replaces decoding: the text of the first key that a prompt ends with."""
    seen: list[dict[str, Any]] = []

    def generate(subject: Any, records: list[Record], **settings: Any) -> list[str]:
        seen.append(settings)
        return [next((text for end, text in texts.items() if r.question.endswith(end)), "") for r in records]

    monkeypatch.setattr(module, "generate", generate)
    monkeypatch.setattr(module, "require_room", lambda *_: None)
    return seen


def measured(subject: Subject, suite: str) -> float:
    store = EvidenceStore("npo", subject, SUITES)
    (found,) = RwkuUtility((suite,)).measure(store, None)
    assert (found.metric, found.split, found.direction) == (f"rwku.{suite}", f"utility_{suite}", "higher")
    return found.value


def test_chains_of_thought_are_matched_as_one_text(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of seven conclude rightly; the letters of an answer are not its references."""
    ends = {f"does {p} send its taxes?": f"So the answer is City{i % 4}." for i, p in enumerate(["Place0", "Place1"])}
    ends["does Place2 send its taxes?"] = "So the answer is C."
    ends["does Place3 send its taxes?"] = "City3 I think"
    seen = saying(monkeypatch, ends)
    assert measured(bed.target, "reason") == pytest.approx(2 / 7)
    assert seen == [{"max_new_tokens": 256}]


def test_facts_take_the_best_alias(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    """ "Land1 republic" is an alias of Land1: F1 1; "the Land0 of old" has 2 * 1 / (3 + 1) = 1/2."""
    seen = saying(
        monkeypatch, {"does Place1 belong to?\n": "land1 Republic.", "Place0 belong to?\n": "the Land0 of old"}
    )
    assert measured(bed.target, "factuality") == pytest.approx((1 + 0.5) / 12)
    assert seen == [{"max_new_tokens": 30}]


def test_the_right_answer_wins_only_above_every_false_one(bed: Bed) -> None:
    """A trained bed knows its own facts: right with its own false answers, wrong when a false one is the truth."""
    known = [Record(r.question, r.answer, perturbed_answers=r.perturbed_answers[:3]) for r in bed.records["forget"][:8]]
    assert likeliest_is_right(bed.target, known, "x").tolist() == [1.0] * 8
    turned = [Record(r.question, r.perturbed_answers[0], perturbed_answers=(r.answer,)) for r in known]
    assert likeliest_is_right(bed.target, turned, "x").tolist() == [0.0] * 8


def test_two_rows_of_one_question_keep_their_own_scores(bed: Bed) -> None:
    """Tables by text would let the second row overwrite the first."""
    r = bed.records["forget"][0]
    first = Record(r.question, r.answer, perturbed_answers=r.perturbed_answers[:2])
    second = Record(r.question, r.perturbed_answers[0], perturbed_answers=(r.answer,))
    assert likeliest_is_right(bed.target, [first, second, first], "x").tolist() == [1.0, 0.0, 1.0]


def test_letters_of_one_token_are_the_argmax_of_the_next_one(bed: Bed) -> None:
    """The end of the answer does not count, so the score of a letter is its own log-probability."""
    rows = SUITES["utility_general"]
    subject = Subject(bed.target.model, bed.target.tokenizer, bed.target.template, "x", max_length=256)
    short = [Record(r.question[-60:], r.answer, perturbed_answers=r.perturbed_answers) for r in rows]
    options = [[r.answer, *r.perturbed_answers] for r in short]
    scores = score_answers(subject, short, options)
    first = scores.logprob[scores.offsets[:-1]].reshape(-1, 4)
    expected = (first[:, 0] > first[:, 1:].max(1)).astype(float)
    assert likeliest_is_right(subject, short, "x") == pytest.approx(expected)
    assert np.diff(scores.offsets).max() == 2  # a letter and the end


def test_what_is_refused(bed: Bed) -> None:
    with pytest.raises(InputError, match="'fluency' must be one of general, reason, truthfulness, factuality"):
        RwkuUtility(suites=("fluency",))
    with pytest.raises(InputError, match="x: a record has no false answers"):
        likeliest_is_right(bed.target, [Record("q", "a")], "x")
    store = EvidenceStore("npo", bed.target, SUITES)
    with pytest.raises(InputError, match=r"'utility_reason', record 1: its prompt has \d+ tokens"):
        RwkuUtility(("reason",)).measure(store, None)
