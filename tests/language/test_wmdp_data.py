"""Reading WMDP's questions and corpora and MMLU from files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from expunge.errors import InputError
from expunge.language import wmdp_data
from expunge.language.metrics.multiple_choice import choice_prompt
from expunge.language.wmdp_data import (
    NEIGHBOURS,
    RELEASES,
    SUBJECTS,
    is_local,
    read_corpus,
    read_mmlu,
    read_questions,
    release_of,
)

ROW = {"question": "Which?", "choices": ["a", "b", "c", "d"], "answer": 2}


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_questions_from_jsonl_and_parquet_are_the_same(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [ROW, {**ROW, "question": "Who?", "answer": 0}]
    write(tmp_path / "wmdp-bio.jsonl", rows)
    found = read_questions(str(tmp_path), "wmdp-bio", "biology", "bio")
    assert [r.question for r in found] == [choice_prompt(r["question"], ROW["choices"], "biology") for r in rows]
    assert [(r.answer, r.topic) for r in found] == [(" C", "bio"), (" A", "bio")]
    (tmp_path / "wmdp-bio.jsonl").unlink()
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "wmdp-bio.parquet")
    assert read_questions(str(tmp_path), "wmdp-bio", "biology", "bio") == found


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**ROW, "question": " "}, "line 2: field 'question' is missing or empty"),
        ({**ROW, "choices": "abcd"}, "line 2: field 'choices' must be a list of 4 texts"),
        ({**ROW, "choices": ["a", "b"]}, "line 2: field 'choices' must hold exactly 4 texts; found 2"),
        ({**ROW, "answer": 4}, "line 2: field 'answer' must be 0, 1, 2 or 3.*found 4"),
        ({**ROW, "answer": "A"}, "found 'A'"),
        ([1], "line 2: field 'question'"),
    ],
)
def test_malformed_questions_name_the_line(tmp_path: Path, row: Any, message: str) -> None:
    write(tmp_path / "wmdp-bio.jsonl", [ROW, row])
    with pytest.raises(InputError, match=message):
        read_questions(str(tmp_path), "wmdp-bio", "biology")


def test_missing_questions(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no file wmdp-bio ending in .jsonl"):
        read_questions(str(tmp_path), "wmdp-bio", "biology")
    with pytest.raises(InputError, match="no such file"):
        read_questions(str(tmp_path / "x.jsonl"), "wmdp-bio", "biology")
    write(tmp_path / "wmdp-bio.jsonl", [])
    with pytest.raises(InputError, match="no questions in it"):
        read_questions(str(tmp_path), "wmdp-bio", "biology")
    (tmp_path / "notes.txt").write_text("x", encoding="utf-8")
    with pytest.raises(InputError, match=r"cannot read .txt"):
        read_questions(str(tmp_path / "notes.txt"), "wmdp-bio", "biology")


def test_hub_ids_are_read_by_configuration_and_split(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def read(name: str, config: str | None, split: str) -> Any:
        asked.append((name, config, split))
        return iter([("row 1", {**ROW, "text": "hello"})])

    monkeypatch.setattr(wmdp_data, "read_hub", read)
    read_questions("cais/wmdp", "wmdp-bio", "biology")
    read_corpus("cais/wmdp-corpora:cyber-forget-corpus")
    read_corpus("Salesforce/wikitext:wikitext-2-raw-v1:test")
    read_corpus("me/texts")
    assert asked == [
        ("cais/wmdp", "wmdp-bio", "test"),
        ("cais/wmdp-corpora", "cyber-forget-corpus", "train"),
        ("Salesforce/wikitext", "wikitext-2-raw-v1", "test"),
        ("me/texts", None, "train"),
    ]
    assert not is_local("cais/wmdp")
    assert is_local("./cais")


def test_the_release_is_told_by_its_numbers() -> None:
    for name, sizes in RELEASES.items():
        assert release_of(sizes) == name
        assert release_of({"bio": sizes["bio"]}) == name
        assert f"{sum(sizes.values()):,}" in name
    mixed = {"bio": 1273, "cyber": 2225}
    assert release_of(mixed) == "no public release (bio 1273, cyber 2225)"


def test_corpora(tmp_path: Path) -> None:
    rows = [
        {"title": "T", "abstract": "A", "text": "body one"},
        {"text": ""},
        {"title": "U", "abstract": None, "text": "b"},
        {"text": " = Heading = "},
    ]
    path = str(write(tmp_path / "corpus.jsonl", rows))
    found = read_corpus(path, topic="bio")
    assert [r.answer for r in found] == ["body one", "b", " = Heading = "]
    assert {(r.question, r.topic) for r in found} == {("", "bio")}
    assert [r.answer for r in read_corpus(path, "title-abstract")] == ["T\n\nA\n\nbody one", "U\n\nb", " = Heading = "]
    assert [r.answer for r in read_corpus(path, min_length=1)] == ["body one", " = Heading = "]
    assert [r.answer for r in read_corpus(path, "raw")] == [json.dumps(r) for r in rows]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"body": "x"}], "line 1: field 'text' is missing"),
        ([{"text": "x"}, {"text": 3}], "line 2: field 'text' must be text, found int"),
        ([["x"]], "line 1: expected an object with the field 'text', found list"),
        ([{"text": "x"}], "no text longer than 50 characters"),
    ],
)
def test_malformed_corpora(tmp_path: Path, rows: list[Any], message: str) -> None:
    path = write(tmp_path / "corpus.jsonl", rows)
    with pytest.raises(InputError, match=message):
        read_corpus(str(path), min_length=50 if "50" in message else 0)


def test_missing_corpora(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_corpus(str(tmp_path / "x.jsonl"))
    with pytest.raises(InputError, match="is a folder"):
        read_corpus(str(tmp_path))
    with pytest.raises(InputError, match="can be read from a file only"):
        read_corpus("cais/wmdp-corpora:cyber-forget-corpus", "raw")
    (tmp_path / "latin.jsonl").write_bytes(b"\xe9\n")
    with pytest.raises(InputError, match="not a text file in UTF-8"):
        read_corpus(str(tmp_path / "latin.jsonl"), "raw")


def test_mmlu_from_one_file_and_from_a_folder(tmp_path: Path) -> None:
    assert len(SUBJECTS) == len(set(SUBJECTS)) == 57
    assert set(NEIGHBOURS) <= set(SUBJECTS)
    rows = [{**ROW, "subject": s} for s in ("virology", "college_biology", "virology")]
    one = read_mmlu(str(write(tmp_path / "mmlu.jsonl", rows)))
    assert {s: len(r) for s, r in one.items()} == {"college_biology": 1, "virology": 2}
    assert "about college biology." in one["college_biology"][0].question
    for subject in ("virology", "college_biology"):
        write(tmp_path / f"{subject}.jsonl", [r for r in rows if r["subject"] == subject])
    assert read_mmlu(str(tmp_path)) == one


def test_malformed_mmlu(tmp_path: Path) -> None:
    path = write(tmp_path / "mmlu.jsonl", [{**ROW, "subject": "alchemy"}])
    with pytest.raises(InputError, match="line 1: field 'subject' must be one of MMLU's 57 subjects; found 'alchemy'"):
        read_mmlu(str(path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no questions of MMLU"):
        read_mmlu(str(tmp_path / "empty"))
