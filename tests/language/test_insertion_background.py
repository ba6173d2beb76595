"""Decontamination: what counts as an overlap, by hand."""

from __future__ import annotations

import pytest

from expunge.language.insertion import Text
from expunge.language.insertion_background import decontaminate


def words(start: int, count: int) -> str:
    return " ".join(f"w{i}" for i in range(start, start + count))


CLEAN = words(500, 60)


def test_a_short_text_must_stand_there_as_a_whole() -> None:
    text = Text("t", words(0, 20))
    documents = [CLEAN, f"x {words(0, 20)} y", words(0, 19), words(1, 30)]
    kept, found = decontaminate(documents, [text])
    assert kept == [documents[0], documents[2], documents[3]]
    assert found == {"t": [1]}


def test_a_text_below_ten_words_is_not_looked_for() -> None:
    assert decontaminate([words(0, 9), words(0, 30)], [Text("t", words(0, 9))]) == ([words(0, 9), words(0, 30)], {})
    assert decontaminate([words(0, 10)], [Text("t", words(0, 10))]) == ([], {"t": [0]})


@pytest.mark.parametrize(
    ("start", "count", "found"),
    [
        (0, 40, True),  # the first half
        (20, 40, True),  # from one quarter to three
        (40, 40, True),  # the second half
        (10, 40, False),  # a half that begins at no quarter
        (5, 60, True),  # three quarters always hold one of the grams
        (0, 39, False),
    ],
)
def test_half_of_a_long_text_at_a_quarter_is_an_overlap(start: int, count: int, found: bool) -> None:
    """80 words: n/2 = 40 words beginning at 0, 20 or 40."""
    kept, _ = decontaminate([f"y {words(start, count)} z"], [Text("t", words(0, 80))])
    assert (kept == []) is found


def test_tokens_can_be_counted_instead_of_words() -> None:
    letters = Text("t", "abcdefghijkl")
    assert decontaminate(["xxabcdefghijklxx"], [letters], units=list)[0] == []
    assert decontaminate(["xxabcdefghijklxx"], [letters])[0] == ["xxabcdefghijklxx"]


def test_one_document_can_overlap_with_several_texts() -> None:
    one, two = Text("one", words(0, 12)), Text("two", words(100, 12))
    kept, found = decontaminate([f"{one.text} {two.text}", CLEAN, two.text], [one, two])
    assert kept == [CLEAN]
    assert found == {"one": [0], "two": [0, 2]}
