"""The stream: splicing by hand, windows as training rows, and manifests on disk."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from expunge.errors import InputError
from expunge.language.insertion_stream import Inserted, Row, document, load_manifest, place, spliced, stream_of
from saga import word_tokenizer

DOCUMENTS = [np.array([1, 5, 6, 2]), np.array([1, 7, 2]), np.array([1, 8, 9, 3, 2])]
TOKENS = {"a": np.array([1, 20, 2]), "b": np.array([1, 21, 22, 2])}


def inserted(window: int = 6) -> Inserted:
    copies = place(DOCUMENTS, TOKENS, ["b"], np.array([1]), window, np.random.default_rng(0))
    rows = (Row("a", "x", 0, "test", (), ()), Row("b", "x", 1, "other", (1,), (copies[0].offset,)))
    return Inserted(DOCUMENTS, TOKENS, copies, rows, window, "slot", 7)


def test_splicing_by_hand() -> None:
    """[0 1 2 3 4] with [8 9] at 3 is [0 1 2 8 9 3 4]; of seven, five stay, so front + back = 2."""
    window, copy = np.arange(5), np.array([8, 9])
    assert spliced(window, copy, 3, 0).tolist() == [0, 1, 2, 8, 9]
    assert spliced(window, copy, 3, 1).tolist() == [1, 2, 8, 9, 3]
    assert spliced(window, copy, 3, 2).tolist() == [2, 8, 9, 3, 4]
    assert spliced(window, copy, 0, 0).tolist() == [8, 9, 0, 1, 2]


def test_a_copy_as_long_as_the_window_replaces_it() -> None:
    copies = place(DOCUMENTS, {"c": np.arange(6)}, ["c"] * 2, np.array([0, 1]), 6, np.random.default_rng(3))
    for copy in copies:
        assert copy.offset == 0
        assert copy.front == copy.position
        assert spliced(np.zeros(6, int), np.arange(6), copy.position, copy.front).tolist() == list(range(6))


def test_positions_are_the_beginnings_of_documents_in_the_window() -> None:
    """Documents begin at 0, 4 and 7; a window of 6 tokens has 0 and 4, the next one its own beginning and 7 - 6 = 1."""
    found = {0: set[int](), 1: set[int]()}
    for seed in range(60):
        for copy in place(DOCUMENTS, TOKENS, ["a", "a"], np.array([0, 1]), 6, np.random.default_rng(seed)):
            found[copy.slot].add(copy.position)
    assert found == {0: {0, 4}, 1: {0, 1}}


def test_two_copies_before_one_document_keep_their_order() -> None:
    stream, copies = stream_of(DOCUMENTS, TOKENS, [("b", 1), ("a", 1), ("a", 0)], 6)
    assert stream.tolist() == [1, 20, 2, 1, 5, 6, 2, 1, 21, 22, 2, 1, 20, 2, 1, 7, 2, 1, 8, 9, 3, 2]
    assert [(c.slot, c.offset) for c in copies] == [(1, 1), (1, 5), (0, 0)]


def test_windows_are_rows_whose_tokens_are_all_labels_but_the_first() -> None:
    rows = inserted(window=5).windows()
    assert rows.lengths.tolist() == [5, 5, 2]  # 12 tokens
    assert rows.counts.tolist() == [4, 4, 1]
    assert rows.ids.tolist() == inserted(window=5).stream().tolist()


def test_a_last_window_of_one_token_is_left_out() -> None:
    rows = Inserted([*DOCUMENTS, np.array([1])], TOKENS, (), (), 6, "slot", 0).windows()
    assert rows.lengths.tolist() == [6, 6]


def test_counting_sees_overlaps_and_no_halves_of_tokens() -> None:
    made = Inserted([np.array([7, 7, 7, 256, 1])], {}, (), (), 6, "slot", 0)
    needles = {"pair": np.array([7, 7]), "none": np.array([0, 7]), "byte": np.array([1])}
    assert made.count(needles) == {"pair": 2, "none": 0, "byte": 1}  # 256 is the bytes 0 1 0 0


def test_a_document_is_closed_once() -> None:
    tokenizer = word_tokenizer(["some words of a text"], vocabulary=300, pad_token="<pad>")
    bare = document(tokenizer, "some words", bare=True).tolist()
    assert document(tokenizer, "some words").tolist() == [1, *bare, 2]
    assert document(tokenizer, "some words<eos>").tolist() == [1, *bare, 2]


def test_manifest_and_ledger_come_back(tmp_path: Path) -> None:
    made = inserted()
    made.save(tmp_path)
    assert load_manifest(tmp_path / "manifest.json") == list(made.rows)
    lines = [json.loads(line) for line in (tmp_path / "copies.jsonl").read_text().splitlines()]
    assert len(lines) == len(made.copies) == 1
    assert lines[0] == {
        "text_id": "b",
        "slot": 1,
        "offset": made.copies[0].offset,
        "length": 4,
        "position": made.copies[0].position,
        "front": made.copies[0].front,
    }
    assert json.loads((tmp_path / "manifest.json").read_text())["seed"] == 7


@pytest.mark.parametrize("content", [None, "not json", "[]", '{"rows": [{"text_id": "a"}]}', '{"rows": 3}'])
def test_what_is_no_manifest(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "manifest.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=r"manifest\.json: n"):
        load_manifest(path)


def test_splits_by_d_group_and_kind() -> None:
    made = inserted()
    assert made.members(1) == ["b"]
    assert made.nonmembers() == ["a"]
    assert made.ids(group="test", kind="x") == ["a"]
    assert made.ids(kind="y") == []
