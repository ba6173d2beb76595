"""Draft dictionaries: what is proposed, what stands for it, and what is left alone."""

from __future__ import annotations

import pytest

from expunge.errors import InputError
from expunge.language.anchor_proposals import names_in, propose_anchors
from expunge.language.data import Record
from tiny_bed import Bed


def texts(*lines: str) -> list[Record]:
    return [Record("", line) for line in lines]


RETAIN = texts(
    "Jon Smith lives in Rome. Where did he go? One day Mary Brown went to Paris.",
    "Yesterday Tom Miller was in Oslo. Then Mary came, and Jon said nothing.",
)


def test_names_are_runs_of_capitalised_words_without_the_capital_of_the_sentence() -> None:
    found = names_in(["Where is Zork Malvun? Zork went to Plonk."], {"Where"})
    assert dict(found.runs) == {("Zork", "Malvun"): 1, ("Zork",): 1, ("Plonk",): 1}
    assert found.neighbours[("Zork", "Malvun")] == {"<is": 1, ">": 1}
    assert found.grams[("Malvun",)] == 1
    assert found.inside == {"Zork", "Malvun", "Plonk"}


def test_what_the_retain_set_knows_is_no_anchor() -> None:
    forget = texts("Zork Malvun went to Rome. Then Zork met Mary. Where was Plonk?")
    anchors = propose_anchors(forget, RETAIN)
    assert set(anchors.entries) == {"Zork Malvun", "Zork", "Plonk"}
    values = {v for own in anchors.entries.values() for v in own}
    assert not values & {"Rome", "Mary"}  # they stand in the forget set


def test_a_part_of_a_name_gets_the_same_part_of_its_substitute() -> None:
    forget = texts("Zork Malvun slept. Then Malvun woke, and Zork laughed.")
    entries = propose_anchors(forget, RETAIN, count=2).entries
    for whole, first, last in zip(entries["Zork Malvun"], entries["Zork"], entries["Malvun"], strict=True):
        assert whole == f"{first} {last}"


def test_substitutes_stand_between_similar_words() -> None:
    """Plonk follows "in" and "to" like the cities; Okobar precedes "said" like Jon."""
    forget = texts("He was in Plonk and went to Plonk. And Okobar said so, and Okobar said no.")
    entries = propose_anchors(forget, RETAIN).entries
    assert entries["Plonk"][0] in ("Rome", "Paris", "Oslo")
    assert entries["Okobar"] == ("Jon",)


def test_rare_names_may_stand_in_the_retain_set() -> None:
    forget = texts("Paris is where Mary went. Paris it was, near Plonk.")
    assert set(propose_anchors(forget, RETAIN).entries) == {"Plonk"}
    assert set(propose_anchors(forget, RETAIN, rare=1).entries) == {"Plonk", "Paris"}


def test_the_same_seed_gives_the_same_draft(bed: Bed) -> None:
    drafts = [propose_anchors(bed.forget, bed.retain, count=2, seed=seed).entries for seed in (1, 1, 2)]
    assert drafts[0] == drafts[1]
    assert drafts[0] != drafts[2]


def test_on_the_test_bed_every_person_is_an_anchor_and_kept_people_stand_for_them(bed: Bed) -> None:
    anchors = propose_anchors(bed.forget, bed.retain, count=3)
    kept = {r.cluster for r in bed.retain}
    for person in {r.cluster for r in bed.forget}:
        assert set(anchors.entries[person]) <= kept
        assert len(anchors.entries[person]) == 3
    opening = {r.question.split()[0] for r in bed.forget} - {r.cluster.split()[0] for r in bed.forget}
    assert not opening & set(anchors.entries)  # Where, What, Name ...


def test_nothing_to_propose_is_said() -> None:
    with pytest.raises(InputError, match="no capitalised expression of the forget records"):
        propose_anchors(texts("nothing with a capital"), RETAIN)
    with pytest.raises(InputError, match="no name of 3 words to stand for 'Zork Malvun Okobar'"):
        propose_anchors(texts("Then Zork Malvun Okobar came."), RETAIN)
    with pytest.raises(InputError, match="no name of 1 word to stand for 'Zork'"):
        propose_anchors(texts("I saw Zork."), texts("I saw Mary Brown."))
