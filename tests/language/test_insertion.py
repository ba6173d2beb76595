"""Controlled insertion: exact counts, whole copies, untouched windows, one draw for members and non-members."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from expunge.errors import InputError
from expunge.language.insertion import CAPS, ControlledInsertion, Text, allocate
from expunge.language.insertion_stream import Inserted, document
from saga import word_tokenizer
from tiny_insertion import background, few

COUNTS = {0: 5, 1: 5, 3: 4, 8: 3}
WINDOW = 40


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return word_tokenizer([*background(120), *(t.text for t in few(20))], vocabulary=420, pad_token="<pad>")


def insertion(**changes: Any) -> ControlledInsertion:
    settings: dict[str, Any] = {"background": background(120), "pool": few(20), "counts": COUNTS, "window": WINDOW}
    return ControlledInsertion(**{**settings, **changes})


@pytest.fixture(scope="module")
def made(tokenizer: Any) -> Inserted:
    return insertion().insert(tokenizer)


def cut(stream: np.ndarray, window: int = WINDOW) -> np.ndarray:
    """The full windows of a stream."""
    return stream[: len(stream) // window * window].reshape(-1, window)


def scan(stream: np.ndarray, needle: np.ndarray) -> list[int]:
    """Every place where a sequence of tokens stands, by comparing at each place."""
    n = len(needle)
    return [i for i in range(len(stream) - n + 1) if (stream[i : i + n] == needle).all()]


# -- 1. counts, length, untouched windows -------------------------------------------------------------


@pytest.mark.parametrize("placement", ["slot", "append"])
def test_every_text_stands_in_the_stream_exactly_d_times(tokenizer: Any, placement: str) -> None:
    made = insertion(placement=placement).insert(tokenizer)
    stream = made.stream()
    for row in made.rows:
        text = next(t.text for t in few(20) if t.id == row.text_id)
        assert len(scan(stream, document(tokenizer, text, bare=True))) == row.d
        assert len(scan(stream, document(tokenizer, text))) == row.d  # begin and end of sequence belong to a copy
    assert sorted(r.d for r in made.rows) == sorted(d for d, n in COUNTS.items() for _ in range(n))


def test_slots_leave_length_and_all_other_windows_as_they_were(made: Inserted) -> None:
    stream, standard = made.stream(), made.standard()
    assert len(stream) == len(standard) == sum(map(len, made.documents))
    assert (standard == np.concatenate(made.documents)).all()
    touched = {copy.slot for copy in made.copies}
    different = {i for i, (a, b) in enumerate(zip(cut(stream), cut(standard), strict=True)) if (a != b).any()}
    assert different == touched  # and not one of them was written over by accident with what stood there
    tail = len(stream) % WINDOW
    assert tail
    assert (stream[-tail:] == standard[-tail:]).all()


def test_appending_adds_the_copies_and_nothing_else(tokenizer: Any) -> None:
    made = insertion(placement="append").insert(tokenizer)
    stream, standard = made.stream(), made.standard()
    assert len(stream) == len(standard) + sum(copy.length for copy in made.copies)
    kept = np.ones(len(stream), dtype=bool)
    for copy in made.copies:
        start = copy.slot * WINDOW + copy.offset
        assert (stream[start : start + copy.length] == made.tokens[copy.text_id]).all()
        assert kept[start : start + copy.length].all()  # no two copies overlap
        kept[start : start + copy.length] = False
    assert (stream[kept] == standard).all()


def test_leaving_texts_out_restores_what_stood_there(made: Inserted) -> None:
    gone = made.members(8)[:1]
    without, whole, standard = made.stream(gone), made.stream(), made.standard()
    slots = {copy.slot for copy in made.copies if copy.text_id in gone}
    for i, (a, b, c) in enumerate(zip(cut(without), cut(whole), cut(standard), strict=True)):
        assert (a == (c if i in slots else b)).all()
    counted = made.count(made.tokens, gone)
    assert counted == {r.text_id: 0 if r.text_id in gone else r.d for r in made.rows}


# -- 2. whole copies in one window, one draw ----------------------------------------------------------


def test_every_copy_is_whole_and_inside_its_window(made: Inserted) -> None:
    windows, standard = cut(made.stream()), cut(made.standard())
    starts = set(np.cumsum([0, *map(len, made.documents)]).tolist())
    for copy in made.copies:
        assert copy.offset + copy.length <= WINDOW
        assert (windows[copy.slot][copy.offset : copy.offset + copy.length] == made.tokens[copy.text_id]).all()
        # it stands at a border between documents (or first), and what stood around it is still around it
        assert copy.position == 0 or copy.slot * WINDOW + copy.position in starts
        assert copy.offset == copy.position - copy.front
        before, after = windows[copy.slot][: copy.offset], windows[copy.slot][copy.offset + copy.length :]
        assert (before == standard[copy.slot][copy.front : copy.position]).all()
        assert (after == standard[copy.slot][copy.position : copy.position + len(after)]).all()


def test_the_cut_in_front_is_random_and_none_at_the_beginning(tokenizer: Any) -> None:
    made = insertion(background=background(600), counts={0: 1, 40: 3}).insert(tokenizer)
    assert {c.front for c in made.copies if c.position == 0} == {0}
    inner = [c for c in made.copies if c.position]
    assert len({c.front for c in inner}) > 5
    assert all(0 <= c.front <= min(c.position, c.length) for c in inner)


def test_same_seed_same_manifest_and_another_seed_other_slots(tokenizer: Any, made: Inserted) -> None:
    again = insertion().insert(tokenizer)
    assert again.rows == made.rows
    assert again.copies == made.copies
    other = insertion(seed=1).insert(tokenizer)
    assert {c.slot for c in other.copies} != {c.slot for c in made.copies}
    assert {r.text_id: r.d for r in other.rows} != {r.text_id: r.d for r in made.rows}


def test_no_window_gets_two_copies(made: Inserted) -> None:
    slots = [copy.slot for copy in made.copies]
    assert len(set(slots)) == len(slots) == sum(d * n for d, n in COUNTS.items())


def test_slots_fill_the_timing_range_and_nothing_outside_it(tokenizer: Any) -> None:
    full = len(cut(insertion().insert(tokenizer).stream()))
    made = insertion(counts={0: 2, 2: 8}, timing=(0.5, 0.75)).insert(tokenizer)
    slots = [copy.slot for copy in made.copies]
    assert round(full * 0.5) <= min(slots) <= max(slots) < round(full * 0.75)
    appended = insertion(counts={0: 2, 2: 8}, timing=(0.0, 0.25), placement="append").insert(tokenizer)
    assert max(copy.position for copy in appended.copies) < 30


# -- groups -------------------------------------------------------------------------------------------


def test_members_and_nonmembers_are_one_random_draw() -> None:
    drawn = [insertion(seed=s).groups() for s in range(200)]
    first = np.mean([groups[few(20)[0].id][0] == 0 for groups in drawn if few(20)[0].id in groups])
    expected = COUNTS[0] / sum(COUNTS.values())
    assert abs(first - expected) < 3 * np.sqrt(expected * (1 - expected) / len(drawn))


def test_forget_and_keep_are_drawn_from_one_d() -> None:
    one = insertion(forget_d=3, forget=2)
    groups = one.groups()
    assert [g for _, g in groups.values()].count("forget") == 2
    assert {d for d, g in groups.values() if g in ("forget", "keep")} == {3}
    assert {g for d, g in groups.values() if d == 0} == {"test"}
    assert {g for d, g in groups.values() if d in (1, 8)} == {"other"}
    assert any(insertion(forget_d=3, forget=2, seed=s).groups() != groups for s in range(3))
    # the division changes no number of copies: forgetting is a choice among texts that are already there
    assert {i: d for i, (d, _) in groups.items()} == {i: d for i, (d, _) in insertion().groups().items()}


def test_groups_are_drawn_within_each_kind() -> None:
    pool = [*few(8, "a"), *few(8, "b", "other ")]
    made = ControlledInsertion(background(60), pool, {"a": {0: 4, 2: 4}, "b": {0: 2, 1: 6}}, WINDOW)
    drawn = made.groups()
    assert sorted(d for i, (d, _) in drawn.items() if i.startswith("a")) == [0] * 4 + [2] * 4
    assert sorted(d for i, (d, _) in drawn.items() if i.startswith("b")) == [0] * 2 + [1] * 6
    assert made.copies == 4 * 2 + 6


def test_named_texts_keep_their_d() -> None:
    ids = [t.id for t in few(6)]
    made = ControlledInsertion(background(60), few(6), {0: ids[:3], 2: ids[3:]}, WINDOW)
    assert {i: d for i, (d, _) in made.groups().items()} == dict(zip(ids, [0] * 3 + [2] * 3, strict=True))


def test_allocation_keeps_the_proportions_within_both_limits() -> None:
    assert allocate(10_000, 10_000_000) == CAPS
    scaled = allocate(500, 10_000_000)
    assert sum(scaled.values()) <= 500
    assert scaled[0] == scaled[1] > scaled[4] > scaled[16] > scaled[64] > scaled[256] > 0
    tight = allocate(10_000, 1000)
    assert sum(d * n for d, n in tight.items()) <= 1000
    with pytest.raises(InputError, match="200 slots leave no text for d=64"):
        allocate(10_000, 200)


# -- 6. what must not pass ----------------------------------------------------------------------------


def test_more_copies_than_slots(tokenizer: Any) -> None:
    with pytest.raises(InputError, match=r"300 copies and \d+ slots \(windows of 40 tokens\)"):
        insertion(counts={0: 1, 100: 3}).insert(tokenizer)


def test_a_text_longer_than_the_window(tokenizer: Any) -> None:
    long = Text("long", " ".join(f"word{i}" for i in range(30)))
    with pytest.raises(InputError, match=r"text 'long' has \d+ tokens and a window has 40"):
        insertion(pool=[*few(20), long], counts={0: 2, 1: ["long"]}).insert(tokenizer)


def test_an_id_that_stands_twice() -> None:
    with pytest.raises(InputError, match="the id 'texts-0' stands twice"):
        insertion(pool=[*few(5), replace(few(1)[0], text="something else")])


def test_a_text_in_two_groups() -> None:
    with pytest.raises(InputError, match="text 'texts-1' stands in two groups"):
        insertion(counts={0: ["texts-0", "texts-1"], 4: ["texts-1"]}).groups()
    with pytest.raises(InputError, match="'texts-0' and 'again' are the same"):
        insertion(pool=[*few(5), Text("again", few(1)[0].text + "  ")])


def test_no_nonmembers() -> None:
    for counts in ({1: 5}, {0: 0, 1: 5}):
        with pytest.raises(InputError, match="no text with d=0"):
            insertion(counts=counts).groups()


def test_a_background_that_contains_a_text() -> None:
    documents = [*background(10), f"before {few(3)[2].text} after"]
    with pytest.raises(InputError, match="background document 11 contains the text 'texts-2'"):
        insertion(background=documents)


def test_a_text_that_is_part_of_another_is_found_by_counting(tokenizer: Any) -> None:
    whole = few(20)[0].text
    part = Text("part", whole[: whole.index(" past")])
    with pytest.raises(InputError, match=r"text 'part' stands [12] times in the stream, not d=0 times"):
        insertion(pool=[*few(20), part], counts={0: ["part"], 1: [few(20)[0].id], 2: 1}).insert(tokenizer)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"counts": {0: 15, 1: 15}}, "counts ask for 30 texts of 'texts' and the pool has 20"),
        ({"counts": {0: 1, 2: ["nobody"]}}, "the text 'nobody', which is not in the pool"),
        ({"counts": {0: 1, -2: 1}}, "d=-2; it must not be negative"),
        ({"counts": {"other": {0: 1}}}, "say nothing about the kind 'texts'"),
        ({"forget_d": 8, "forget": 3}, "forget=3 of the 3 texts of 'texts' with d=8"),
        ({"forget_d": 5, "forget": 1}, "forget=1 of the 0 texts"),
    ],
)
def test_groups_that_cannot_be_drawn(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        insertion(**changes).groups()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"timing": (0.5, 0.5)}, "timing="),
        ({"timing": (-0.1, 0.5)}, "timing="),
        ({"window": 3}, "window=3"),
        ({"placement": "somewhere"}, "placement='somewhere'"),
        ({"background": []}, "no background"),
        ({"pool": [Text("a", "  ")]}, "text 'a' is empty"),
    ],
)
def test_settings_that_make_no_sense(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        insertion(**changes)
