"""Dose-response of membership: whole texts are scored, p-values beside AUROCs, and a bed of two draws ends the run."""

from __future__ import annotations

import pytest

from expunge.errors import InputError, RunError
from expunge.language.data import Record
from expunge.language.evidence import EvidenceStore
from expunge.language.insertion import ControlledInsertion
from expunge.language.insertion_response import dose_response
from expunge.language.insertion_world import InsertionWorld
from expunge.language.metrics.duplicate_response import DuplicateResponse
from expunge.language.metrics.forgetting_gap import ForgettingGap
from expunge.language.metrics.relearning_steps import RelearningSteps, steps_to
from expunge.language.subject import Subject
from tiny_insertion import background, few


@pytest.fixture(scope="module")
def subject() -> Subject:
    insertion = ControlledInsertion(background(60), few(6), {0: 2, 1: 2}, 40)
    return InsertionWorld(insertion, hidden=16, layers=1, vocabulary=320).base_subject()


def record(text: str, cut: int = 0) -> Record:
    return Record(text[:cut], text[cut:])


def test_questions_are_part_of_the_text(subject: Subject) -> None:
    metric = DuplicateResponse(draws=20, permutations=19)
    found = []
    for cut in (0, 6):
        splits = {
            "forget": [record(t.text, cut) for t in few(9)],
            "holdout": [record(t.text, cut) for t in few(9, prefix="other ")],
        }
        found.append([f.value for f in metric.measure(EvidenceStore("x", subject, splits), None)])
    assert found[0] == pytest.approx(found[1])


def test_texts_of_two_draws_end_the_run(subject: Subject) -> None:
    """An untrained model tells long words from short ones: they were not drawn together."""
    splits = {
        "forget": [record(f"{'z' * 30} {i}") for i in range(12)],
        "holdout": [record(t.text) for t in few(12)],
    }
    gold = EvidenceStore("gold", subject, splits)
    metric = DuplicateResponse(draws=20, permutations=19)
    with pytest.raises(RunError, match="'forget' against 'holdout': a model that has read neither"):
        metric.measure(gold, gold)
    assert metric.measure(gold, None)  # the target may tell them apart
    assert DuplicateResponse(unread=(), draws=20, permutations=19).measure(gold, gold)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"detectors": ("los",)}, "unknown detector 'los'. Did you mean 'loss'"),
        ({"detectors": ("reference",)}, "unknown detector 'reference'"),
        ({"k": 0.0}, "k=0.0"),
        ({"permutations": 5}, "permutations=5"),
    ],
)
def test_settings_out_of_range(settings: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        DuplicateResponse(**settings)  # type: ignore[arg-type]


def test_a_dose_response_needs_non_members(subject: Subject) -> None:
    with pytest.raises(InputError, match="no text with d=0"):
        dose_response(subject, {1: few(3)})
    with pytest.raises(InputError, match="no text with d=4"):
        dose_response(subject, {0: few(3), 4: []})


# -- relearning and gaps without a trained bed --------------------------------------------------------


def test_steps_are_counted_until_the_level_is_reached(subject: Subject) -> None:
    records = [record(t.text) for t in few(6)]
    store = EvidenceStore("x", subject, {"forget": records})
    start = float(store.answers("forget").nll.mean())
    before = subject.weights_hash()
    assert steps_to(subject, records, start + 0.01, lr=1e-2, limit=5) == 0
    counts = [steps_to(subject, records, start - drop, lr=1e-2, limit=30) for drop in (0.2, 1.0)]
    assert 0 < counts[0] < counts[1] <= 30
    assert steps_to(subject, records, 0.0, lr=1e-2, limit=3) == 4  # not within the limit
    assert subject.weights_hash() == before  # a copy was trained


def test_relearning_needs_as_many_unread_texts(subject: Subject) -> None:
    store = EvidenceStore("x", subject, {"forget": [record(t.text) for t in few(4)], "holdout": [record("gate 1")]})
    with pytest.raises(InputError, match="'holdout' has 1 records and 'forget' 4"):
        RelearningSteps().place(store, store, store)
    with pytest.raises(InputError, match="lr=0"):
        RelearningSteps(lr=0)


def test_nothing_to_forget_leaves_no_gap(subject: Subject) -> None:
    splits = {name: [record(t.text) for t in few(4, prefix=f"{name} ")] for name in ("forget", "retain", "holdout")}
    store = EvidenceStore("x", subject, splits)
    assert ForgettingGap().place(store, store, store) == []
    assert ForgettingGap().measure(store, store) == []
    with pytest.raises(InputError, match="measures="):
        ForgettingGap(measures=("loss",))
