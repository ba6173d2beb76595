"""Paraphrase preference: by hand, and exactly one half for whoever has read neither."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from expunge.errors import InputError
from expunge.language.continuations import continuation_scores
from expunge.language.data import Record
from expunge.language.evidence import EvidenceStore
from expunge.language.hubble_documents import paraphrases
from expunge.language.insertion import ControlledInsertion
from expunge.language.insertion_world import InsertionWorld
from expunge.language.metrics.paraphrase_preference import ParaphrasePreference, preference
from expunge.language.subject import Subject
from tiny_insertion import background

TEXTS = paraphrases(24, 0)


@pytest.fixture(scope="module")
def subject() -> Subject:
    insertion = ControlledInsertion(background(60), TEXTS, {0: 2, 1: 2}, 80)
    return InsertionWorld(insertion, hidden=16, layers=1, vocabulary=400).base_subject()


def store(subject: Subject, swap: bool = False) -> EvidenceStore:
    pairs = [(t.text, t.fields["other"]) for t in TEXTS]
    pairs = [(b, a) for a, b in pairs] if swap else pairs
    return EvidenceStore("x", subject, {"forget": [Record("", a, perturbed_answers=(b,)) for a, b in pairs]})


def test_equal_likelihoods_share_the_point() -> None:
    assert preference(np.array([1.0, 0.0, 2.0]), np.array([0.0, 1.0, 2.0])).tolist() == [1, 0, 0.5]


def test_the_likelier_wording_wins_and_swapping_the_two_turns_it_round(subject: Subject) -> None:
    first = {f.metric: f.value for f in ParaphrasePreference(("forget",)).measure(store(subject), None)}
    second = {f.metric: f.value for f in ParaphrasePreference(("forget",)).measure(store(subject, swap=True), None)}
    for name in ("hubble.paraphrase_preference", "hubble.paraphrase_preference.per_byte"):
        assert first[name] == pytest.approx(1 - second[name])
    likelihood = continuation_scores(subject, [("", w) for t in TEXTS for w in (t.text, t.fields["other"])])[0]
    a, b = likelihood.reshape(-1, 2).T
    assert first["hubble.paraphrase_preference"] == pytest.approx(np.mean(a > b))
    sizes = np.array([[len(t.text), len(t.fields["other"])] for t in TEXTS])
    assert first["hubble.paraphrase_preference.per_byte"] == pytest.approx(np.mean(a / sizes[:, 0] > b / sizes[:, 1]))


def test_a_model_with_a_taste_and_no_memory_scores_one_half(subject: Subject) -> None:
    """Whatever it thinks of the wordings, a coin chose: over both outcomes of every coin its score is 1/2."""
    both = [*store(subject).records("forget"), *store(subject, swap=True).records("forget")]
    evidence = EvidenceStore("x", subject, {"forget": both})
    found = ParaphrasePreference(("forget",)).measure(evidence, None)
    assert [f.value for f in found] == [0.5, 0.5]
    assert {f.direction for f in found} == {"match-gold"}


@pytest.mark.parametrize("broken", [Record("q", "a", perturbed_answers=("b",)), Record("", "a")])
def test_what_is_no_pair(subject: Subject, broken: Record) -> None:
    good = replace(broken, question="", perturbed_answers=("b",))
    evidence = EvidenceStore("x", subject, {"forget": [good, broken], "empty": []})
    with pytest.raises(InputError, match="Split 'forget', record 2: a pair of wordings"):
        ParaphrasePreference(("forget",)).measure(evidence, None)
    with pytest.raises(InputError, match="Split 'empty' has no records"):
        ParaphrasePreference(("empty",)).measure(evidence, None)
