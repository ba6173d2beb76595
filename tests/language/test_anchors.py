"""The anchor dictionary: whole words, the longest first, case kept, one substitute per block."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from expunge.errors import InputError
from expunge.language.anchors import Anchors, read_anchors, write_anchors

SAGA = Anchors({"Zork": "Jon", "Zork Malvun": "Jon Smith", "Plonk": "Rome", "gleamstone": "lamp", "Mr. T": "Mr. B"})


def test_the_longest_expression_wins_and_only_whole_words_are_replaced() -> None:
    text = "Zork Malvun saw Zork, Zorkland and Zork's gleamstone in Plonk."
    assert SAGA.translate(text).text == "Jon Smith saw Jon, Zorkland and Jon's lamp in Rome."


@pytest.mark.parametrize(
    ("text", "new"),
    [
        ("ZORK MALVUN!", "JON SMITH!"),
        ("Gleamstone, gleamstone, GLEAMSTONE", "Lamp, lamp, LAMP"),
        ("zork is no name", "zork is no name"),  # a capitalised key is not sought in lower case
        ("Zork\n  Malvun", "Jon Smith"),
        ("Mr. T and Mr. Tom", "Mr. B and Mr. Tom"),
        ("(Plonk)", "(Rome)"),
        ("", ""),
        ("no name here", "no name here"),
    ],
)
def test_case_borders_and_spaces(text: str, new: str) -> None:
    assert SAGA.translate(text).text == new


def test_spans_name_the_same_place_in_both_texts() -> None:
    text = "In Plonk, ZORK MALVUN sold a gleamstone to Zork."
    new, replaced = SAGA.translate(text)
    assert [r.key for r in replaced] == ["Plonk", "Zork Malvun", "gleamstone", "Zork"]
    assert [text[r.start : r.end] for r in replaced] == ["Plonk", "ZORK MALVUN", "gleamstone", "Zork"]
    assert [new[r.new_start : r.new_end] for r in replaced] == ["Rome", "JON SMITH", "lamp", "Jon"]
    # between two replaced expressions both texts are the same
    ends = zip([(0, 0), *((r.end, r.new_end) for r in replaced)], [*replaced, None], strict=True)
    for (a, b), r in ends:
        assert text[a : r.start if r else None] == new[b : r.new_start if r else None]


def test_the_empty_dictionary_changes_nothing() -> None:
    assert Anchors({}).translate("Zork went to Plonk") == ("Zork went to Plonk", ())


def test_a_substitute_is_kept_through_a_block_and_two_anchors_do_not_share_one() -> None:
    anchors = Anchors({"Zork": ["Jon", "Tom", "Max"], "Malvun": ["Jon", "Tom", "Max"]})
    texts = [anchors.translate("Zork, Malvun, Zork, Malvun", draw).text for draw in range(4)]
    assert texts[0] == "Jon, Tom, Jon, Tom"
    assert texts[1] == "Tom, Max, Tom, Max"
    assert texts[2] == "Max, Jon, Max, Jon"
    assert texts[3] == texts[0]  # round and round


def test_the_form_a_user_wrote_comes_first() -> None:
    anchors = Anchors({"zork": "gnome", "Zork": "Jon"})
    assert anchors.translate("Zork the zork, ZORK").text == "Jon the gnome, GNOME"


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"Zork": "Malvun", "Malvun": "Jon"}, r"'Malvun', the substitute of 'Zork', holds the anchor 'Malvun'"),
        ({"Zork": "Jon Malvun", "Malvun": "Tom"}, r"'Jon Malvun', the substitute of 'Zork', holds the anchor 'Malvun'"),
        ({"Zork": "Zork"}, "substitutes must not be anchors themselves"),
        ({"Zork": ["Jon", "ZORK"]}, "holds the anchor 'ZORK'"),
        ({"Zork": ""}, "'Zork' needs an expression and at least one substitute"),
        ({" ": "Jon"}, "needs an expression"),
        ({"Zork": []}, "at least one substitute"),
        ({"Zork Malvun": "Jon", "Zork  Malvun": "Tom"}, "'Zork Malvun' stands twice"),
    ],
)
def test_dictionaries_that_are_refused(entries: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Anchors(entries)


def test_written_and_read_it_is_the_same(tmp_path: Path) -> None:
    write_anchors(SAGA, tmp_path / "anchors.json")
    assert read_anchors(tmp_path / "anchors.json").entries == SAGA.entries


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("[1]", "one object"),
        ('{"Zork": 3}', "one object"),
        ('{"Zork": "Jon", "Zork": "Tom"}', "stands twice"),
        ('{"Zork": "Malvun", "Malvun": "Tom"}', "substitutes must not be anchors themselves"),
        ('{"Zork": [3]}', "at least one substitute"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "anchors.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=f"{re.escape(str(path))}.*{message}"):
        read_anchors(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read_anchors(tmp_path / "none.json")


def test_a_long_dictionary_gives_what_a_plain_search_gives() -> None:
    """Two thousand keys against one replacement after the other, on a text in which no two keys overlap."""
    entries = {f"Name{i}": f"Other{i}" for i in range(2000)}
    text = " and ".join(f"Name{i}" for i in range(0, 2000, 7))
    assert Anchors(entries).translate(text).text == re.sub(r"Name(\d+)", r"Other\1", text)
