"""ConceptVectors: the published files' fields, and the embedded stand-in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from expunge.errors import InputError
from expunge.language.benchmarks.concept_vectors import ConceptVectors, paragraphs, read_items
from expunge.language.metrics.intrinsic import Intrinsic


def item(name: str, **changes: Any) -> dict[str, Any]:
    text = " ".join(f"{name} has done thing number {i} in the year {1900 + i}." for i in range(40))
    return {
        "Concept": name,
        "Layer": 1,
        "Dim": 5,
        "QA": [f"What is {name}?"],
        "text_completion": [{"First_half": f"{name} is", "Second_half": "a thing."}],
        "unrelated_QA": ["What is rain?"],
        "wikipedia_content": text,
        **changes,
    }


def written(tmp_path: Path, rows: Any) -> str:
    path = tmp_path / "llama2-7b_concepts_dev.json"
    path.write_text(json.dumps(rows))
    return str(path)


def test_a_published_file(tmp_path: Path) -> None:
    path = written(tmp_path, [item("Baseball", ID=3), item("Poland", id="7")])
    work = ConceptVectors(path=path, concept="Poland").load(0)
    assert {r.cluster for r in work.forget} == {"Poland"}
    assert {r.cluster for r in work.retain} == {"Baseball"}
    assert set(work.splits) == {"forget", "retain", "forget_qa", "unrelated_qa", "forget_completion"}
    assert work.splits["forget_qa"][0].question == "What is Poland?"
    assert work.splits["forget_completion"][0].answer == "a thing."
    (intrinsic,) = (m for m in work.metrics if isinstance(m, Intrinsic))
    assert (intrinsic.places[0].layer, intrinsic.places[0].dim) == (1, 5)


def test_at_least_as_much_is_kept_as_is_forgotten(tmp_path: Path) -> None:
    path = written(tmp_path, [item("Long"), item("Short", wikipedia_content="Short is short.")])
    work = ConceptVectors(path=path).load(0)
    assert sum(len(r.answer) for r in work.retain) >= sum(len(r.answer) for r in work.forget)


def test_jailbreaks_ask_the_same_questions_in_three_forms(tmp_path: Path) -> None:
    path = written(tmp_path, [item("Baseball"), item("Poland")])
    work = ConceptVectors(path=path, jailbreaks=True).load(0)
    for name in ("oracle", "grandmother", "context"):
        (record,) = work.splits[f"forget_qa_{name}"]
        assert "What is Baseball?" in record.question
    assert "thing number 3" in work.splits["forget_qa_context"][0].question


def test_paragraphs_end_with_sentences_and_lose_nothing() -> None:
    rows = paragraphs(item("X"))
    assert " ".join(r.answer for r in rows) == item("X")["wikipedia_content"]
    assert all(len(r.answer) > 400 for r in rows[:-1])
    assert all(r.answer.endswith(".") for r in rows)
    assert not any(r.question for r in rows)


def test_without_a_file_the_embedded_people_stand_in() -> None:
    work = ConceptVectors(forget=3, retain=4).load(0)
    (intrinsic,) = (m for m in work.metrics if isinstance(m, Intrinsic))
    assert {p.concept for p in intrinsic.places} == {r.cluster for r in work.forget}
    assert all(p.layer is None and p.concept in p.article for p in intrinsic.places)
    assert ConceptVectors().world is not None
    assert ConceptVectors(path="x").world is None


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([item("A", Layer="1"), item("B")], "record 1: field 'Layer' must be int"),
        ([item("A"), item("B", QA=[])], "record 2: field 'QA' holds no question"),
        ([item("A", QA=[""]), item("B")], "record 1: field 'QA' must hold texts"),
        ([item("A", text_completion=[{"First_half": "x"}]), item("B")], "field 'text_completion' must hold"),
        (["A"], "record 1: expected an object"),
        ([], "expected a list of concepts"),
        ([item("A")], "it holds one concept"),
    ],
)
def test_malformed_files(tmp_path: Path, rows: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ConceptVectors(path=written(tmp_path, rows)).load(0)


def test_missing_things(tmp_path: Path) -> None:
    path = written(tmp_path, [item("Baseball"), item("Poland")])
    with pytest.raises(InputError, match=r"no concept 'Basebal'.*Baseball"):
        ConceptVectors(path=path, concept="Basebal").load(0)
    with pytest.raises(InputError, match="no such file"):
        read_items(str(tmp_path / "none.json"))
    with pytest.raises(InputError, match="its article is empty"):
        paragraphs(item("X", wikipedia_content=" "))
