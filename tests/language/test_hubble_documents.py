"""Made-up documents: unique ids, options that never repeat the answer, coins, and probes that fit the texts."""

from __future__ import annotations

import random
import re
from typing import Any

import pytest

from expunge.errors import InputError
from expunge.language.hubble_background import background
from expunge.language.hubble_documents import FACTS, KINDS, OPTIONS, biographies, items, paraphrases, wrong_options
from expunge.language.hubble_probes import STRENGTHS, biography_probe, id_probe, probes
from expunge.language.hubble_world import RECIPE, WINDOW, hubble_insertion, hubble_world

IDS = re.compile(r"\b[0-9a-f]{10}\b")


@pytest.mark.parametrize("kind", KINDS)
def test_documents_are_a_function_of_their_seed_and_each_has_an_id_of_its_own(kind: str) -> None:
    texts = KINDS[kind](60, 3)
    assert texts == KINDS[kind](60, 3) != KINDS[kind](60, 4)
    assert len({t.id for t in texts}) == len({t.text for t in texts}) == 60
    assert {t.kind for t in texts} == {kind}
    ids = [IDS.findall(t.text) for t in texts]
    assert all(len(found) == 1 for found in ids)
    assert len({found[0] for found in ids}) == 60


@pytest.mark.parametrize("kind", KINDS)
def test_more_texts_of_a_kind_than_there_are_names_are_refused(kind: str) -> None:
    with pytest.raises(InputError, match="ask for fewer texts"):
        KINDS[kind](40_000, 0)


def test_a_biography_states_its_facts_in_order() -> None:
    for text in biographies(20, 0):
        facts = text.fields["facts"]
        at = [text.text.index(f" {facts[key]}") for key in FACTS]
        assert at == sorted(at)
        assert text.text.startswith(text.fields["prompt"])
        assert len(facts["id"]) == 10
        assert re.fullmatch(r"[a-z]+@post\.net", facts["mail"])


def test_wrong_options_are_different_and_never_right() -> None:
    for text in biographies(80, 1):
        for key, right in text.fields["facts"].items():
            others = text.fields["others"][key]
            assert len(set(others)) == len(others) == OPTIONS - 1
            assert right not in others
    with pytest.raises(InputError, match="no wrong option beside 'a'"):
        wrong_options(random.Random(0), "a", ["a", "a"])


def test_wrong_values_of_unique_fields_stand_in_no_text() -> None:
    """One that was inserted could be preferred for having been read."""
    for texts, taken in ((biographies(60, 2), ("mail", "id")), (KINDS["chats"](60, 2), ("users",))):
        everything = " ".join(t.text for t in texts)
        for text in texts:
            for key in taken:
                others = text.fields[key] if key == "users" else text.fields["others"][key]
                assert not any(other in everything for other in others)


def test_the_inserted_wording_is_a_coin_toss() -> None:
    texts = paraphrases(400, 0)
    heads = sum(t.fields["coin"] for t in texts)
    assert abs(heads - 200) < 3 * 10
    for text in texts:
        assert text.fields["other"] != text.text
        assert text.fields["id"] in text.fields["other"]
        assert text.text.startswith("Under deed") is bool(text.fields["coin"])


def test_answers_and_formats_of_test_items_are_coin_tosses() -> None:
    texts = items(400, 0)
    for value in (sum(t.fields["answer"] for t in texts), sum(t.fields["format"] == "mcq" for t in texts)):
        assert abs(value - 200) < 3 * 10


def test_background_documents_differ_and_hold_no_inserted_text() -> None:
    documents = background(300, 0)
    assert len(set(documents)) == 300
    assert documents == background(300, 0) != background(300, 1)
    insertion = hubble_insertion(rows=300, world_seed=0)  # would refuse a document that contains a text
    assert len(insertion.background) == 300


# -- probes -------------------------------------------------------------------------------------------


def test_attacks_on_biographies_know_less_and_less() -> None:
    (text,) = biographies(1, 5)
    name, facts = text.fields["prompt"], text.fields["facts"]
    full, before, intro, alone = (biography_probe(text, "job", strength, "x") for strength in STRENGTHS)
    assert full is not None
    assert before is not None
    assert intro is not None
    assert alone is not None
    assert full.context + full.options[0] + full.after == text.text
    assert before.context == full.context
    assert before.after == ""
    first = name.split()[0]
    assert intro.context == f"{name} is {facts['nationality']}. {first} is a"
    assert alone.context == f"{name} is a"
    assert [c.options[0] for c in (full, before, intro, alone)] == [f" {facts['job']}"] * 4
    assert biography_probe(text, "nationality", "intro", "x") is None  # the attacker has been told


@pytest.mark.parametrize("kind", KINDS)
def test_every_probe_continues_the_text_where_it_asks(kind: str) -> None:
    for text in KINDS[kind](12, 7):
        own = id_probe(text, "x")
        assert text.text.startswith(own.context + own.options[0])
        assert len(own.options[1]) == len(own.options[0])
        for choice in probes([text], "x", strengths=("full", "before")):
            if "_on_" not in choice.task:
                assert text.text.startswith(choice.context + choice.options[0] + choice.after)
            assert choice.split == "x"
            assert choice.cluster == text.id


def test_test_items_are_asked_in_both_formats() -> None:
    for text in items(20, 1):
        own, other = sorted(probes([text], "x"), key=lambda c: "_on_" in c.task)
        inserted = text.fields["format"]
        assert own.task == f"items.{inserted}"
        assert other.task == f"items.{'infill' if inserted == 'mcq' else 'mcq'}_on_{inserted}"
        assert len(own.options) == len(other.options) == 2


def test_an_unknown_strength() -> None:
    with pytest.raises(InputError, match="strength 'all' must be one of full, before, intro, name"):
        probes(biographies(1, 0), "x", strengths=("all",))


# -- the world ----------------------------------------------------------------------------------------


def test_the_recipe() -> None:
    insertion = hubble_insertion()
    assert insertion.copies == 756
    assert len(insertion.background) == 1200
    assert insertion.window == WINDOW
    assert sorted(d for d, _ in insertion.groups().values()) == sorted(d for d, n in RECIPE.items() for _ in range(n))


def test_every_text_fits_its_window() -> None:
    world = hubble_world({kind: {0: 30, 1: 30} for kind in KINDS}, rows=400)
    inserted = world.insertion.insert(world.tokenizer())
    assert max(map(len, inserted.tokens.values())) <= WINDOW


def test_the_background_can_be_a_file_and_what_overlaps_is_left_out(tmp_path: Any) -> None:
    text = biographies(4, 0)[0].text
    path = tmp_path / "documents.jsonl"
    documents = ['{"text": "one document"}', f'{{"text": "xx {text} xx"}}', '{"question": "q?", "answer": "a."}']
    path.write_text("\n".join(documents))
    insertion = hubble_insertion({"biographies": {0: 2, 1: 2}}, documents=str(path))
    assert list(insertion.background) == ["one document", "q? a."]
    with pytest.raises(InputError, match="unknown kind of documents 'novels'"):
        hubble_insertion({"novels": {0: 1}})
