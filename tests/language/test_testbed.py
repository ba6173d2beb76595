"""The world of the test bed: what is drawn, what is kept apart, and what an untrained model knows."""

from __future__ import annotations

from collections import Counter

import pytest

from expunge.language.data import Record, require_disjoint
from expunge.language.score import score_answers
from expunge.language.testbed import ATTRIBUTES, DISTRACTORS, OTHER, TRAINED, World, base_subject, make_tokenizer

WORLD = World(forget=6, retain=10, holdout=5, places=12)


def people(records: list[Record]) -> set[str]:
    return {r.cluster for r in records}


def test_a_world_is_a_function_of_its_seed() -> None:
    assert WORLD.records() == WORLD.records()
    other = World(forget=6, retain=10, holdout=5, places=12, seed=1).records()
    assert not people(other["forget"]) & people(WORLD.records()["forget"])


def test_sizes() -> None:
    """8 kinds of fact in 3 wordings, or in the 2 others; half of the retain people are asked in all 5."""
    splits = WORLD.records()
    facts = len(ATTRIBUTES)
    assert len(splits["forget"]) == 6 * facts * len(TRAINED)
    assert len(splits["forget_paraphrase"]) == 6 * facts * len(OTHER)
    assert len(splits["holdout"]) == 5 * facts * len(TRAINED)
    assert len(splits["retain"]) == 5 * facts * len(TRAINED)
    assert len(splits["places"]) == 12
    assert len(splits["train_retain"]) == (10 * 3 + 5 * 2) * facts + 4 * 12


def test_nobody_stands_on_two_sides() -> None:
    splits = WORLD.records()
    sides = [people(splits[name]) for name in ("forget", "train_retain", "holdout")]
    assert not sides[0] & sides[1]
    assert not sides[0] & sides[2]
    assert not sides[1] & sides[2]
    for name in ("train_retain", "holdout", "forget_paraphrase"):
        require_disjoint(splits["forget"], splits[name], name)


def test_paraphrases_ask_for_the_same_facts_in_words_not_trained_on() -> None:
    splits = WORLD.records()
    for name in ("forget", "retain"):
        plain, other = splits[name], splits[f"{name}_paraphrase"]
        assert {(r.cluster, r.answer) for r in plain} == {(r.cluster, r.answer) for r in other}
        trained = {r.question for r in splits["train_forget"] + splits["train_retain"]}
        assert not trained & {r.question for r in other}
        assert {r.question for r in plain} <= trained


def test_a_record_has_one_answer_and_false_ones_of_its_kind() -> None:
    splits = WORLD.records()
    values: dict[str, set[str]] = {}
    everything = splits["train_forget"] + splits["train_retain"] + splits["holdout"]
    answers = {r.question: r.answer for r in everything}
    for r in everything:
        assert answers[r.question] == r.answer
        assert len(set(r.perturbed_answers)) == DISTRACTORS
        assert r.answer not in r.perturbed_answers
    for key, attribute in ATTRIBUTES.items():
        stem = attribute.questions[0].format(n="")
        own = [r for r in everything if r.question.replace(r.cluster, "") == stem]
        values[key] = {a for r in own for a in (r.answer, *r.perturbed_answers)}
        assert len(values[key]) <= attribute.values


def test_facts_cannot_be_guessed_from_other_people() -> None:
    """Draws are independent and uniform: of 60 people no city is the answer for more than a few (mean 3)."""
    splits = World(forget=60, retain=2, holdout=1, places=8).records()
    cities = Counter(r.answer for r in splits["forget"] if r.question.startswith("Where was"))
    assert sum(cities.values()) == 60
    assert max(cities.values()) <= 10  # Poisson(3) exceeds 10 with probability 3e-4 per city
    assert len(cities) > 12


def test_the_tokenizer_tells_nothing_about_membership() -> None:
    """Names of people nobody was trained on split into as many tokens as those of the forget set."""
    tokenizer, splits = make_tokenizer(WORLD), WORLD.records()

    def pieces(name: str) -> float:
        names = sorted(people(splits[name]))
        return sum(len(tokenizer(f" {n}", add_special_tokens=False)["input_ids"]) for n in names) / len(names)

    assert pieces("forget") == pytest.approx(pieces("holdout"), abs=0.75)
    assert tokenizer(splits["forget"][0].question)["input_ids"][0] == tokenizer.bos_token_id


def test_an_untrained_model_is_the_same_each_time_and_knows_nothing() -> None:
    """Chance among a fact and its 5 false answers is 1/6; 144 records, standard deviation 0.031."""
    subject = base_subject(WORLD, hidden=32)
    assert subject.fingerprint() == base_subject(WORLD, hidden=32).fingerprint()
    assert subject.fingerprint() != base_subject(WORLD, hidden=32, seed=1).fingerprint()
    records = WORLD.records()["forget"]
    scores = score_answers(subject, records, [[r.answer, *r.perturbed_answers] for r in records])
    nll = scores.nll_sum.reshape(len(records), 1 + DISTRACTORS)
    right = float((nll.argmin(1) == 0).mean())
    assert right < 1 / 6 + 5 * 0.031
    assert not scores.exact.any()
