"""WMDP: what is trained on and asked, from files and in the twin; wrong settings are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from expunge.errors import InputError
from expunge.language.benchmarks import wmdp as module
from expunge.language.benchmarks.wmdp import CORPORA, WIKITEXT, WMDP, published
from expunge.language.data import Record, require_disjoint
from expunge.language.evidence import EvidenceStore
from expunge.language.metrics.multiple_choice import right_letters
from expunge.language.wmdp_twin import Twin

SMALL: dict[str, Any] = {"secret": 3, "school": 4, "public": 2, "control": 4}


def write(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def question(i: int, **more: Any) -> dict[str, Any]:
    return {"question": f"Number {i}?", "choices": ["a", "b", "c", "d"], "answer": i % 4, **more}


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Any]:
    """The whole data set as files: harmless questions and texts in its format."""
    asked = tmp_path / "wmdp"
    asked.mkdir()
    for topic, count in (("bio", 5), ("cyber", 4), ("chem", 3)):
        write(asked / f"wmdp-{topic}.jsonl", [question(i) for i in range(count)])
    subjects = ("virology", "astronomy", "college_biology")
    return {
        "questions": str(asked),
        "forget": tuple(
            write(tmp_path / f"{t}.jsonl", [{"text": f"{t} text {i}"} for i in range(3)]) for t in ("bio", "cyber")
        ),
        "retain": (write(tmp_path / "keep.jsonl", [{"text": ""}, {"text": " = Title = "}, {"text": "kept text"}]),),
        "mmlu": write(tmp_path / "mmlu.jsonl", [question(i, subject=s) for s in subjects for i in range(3)]),
    }


def test_everything_from_files(files: dict[str, Any]) -> None:
    load = WMDP(**files).load(0)
    assert [(r.answer, r.topic, r.question) for r in load.forget] == [
        (f"{t} text {i}", t, "") for t in ("bio", "cyber") for i in range(3)
    ]
    assert [(r.answer, r.topic) for r in load.retain] == [(" = Title = ", ""), ("kept text", "")]
    sizes = {name: len(rows) for name, rows in load.splits.items()}
    assert sizes == {
        "forget": 9,
        "forget_bio": 5,
        "forget_cyber": 4,
        "chem": 3,
        "retain": 9,
        "mmlu_virology": 3,
        "mmlu_college_biology": 3,
    }
    for name, rows in load.splits.items():
        right_letters(rows, name)
    assert "about cybersecurity.\n\nNumber 0?" in load.splits["forget_cyber"][0].question
    assert "about chemistry." in load.splits["chem"][0].question
    assert "no public release (bio 5, cyber 4, chem 3)" in load.notes[0]
    assert "9 questions of 3 of 57 subjects" in load.notes[-1]
    require_disjoint(load.forget, [r for rows in load.splits.values() for r in rows], "measured")


def test_the_release_is_said(files: dict[str, Any]) -> None:
    write(Path(files["questions"]) / "wmdp-bio.jsonl", [question(i) for i in range(1273)])
    fields = {**files, "forget": files["forget"][:1]}
    load = WMDP(**fields, topics=("bio",), evaluated=()).load(0)
    assert "current release (3,668 questions)" in load.notes[0]
    assert set(load.splits) >= {"forget", "forget_bio"}


def test_small_runs_and_forms(files: dict[str, Any]) -> None:
    fields = {**files, "text": ("text", "raw"), "documents": 2, "question_rows": 2, "min_length": 10, "mmlu": ""}
    load = WMDP(**fields).load(0)
    assert [r.answer for r in load.forget] == [
        "bio text 0",
        "bio text 1",
        '{"text": "cyber text 0"}',
        '{"text": "cyber text 1"}',
    ]
    assert [r.answer for r in load.retain] == [" = Title = "]
    assert len(load.splits["forget"]) == 4
    assert "retain" not in load.splits
    assert "No MMLU was given" in load.notes[-1]


def test_a_retain_corpus_for_each_topic_bears_its_topic(files: dict[str, Any]) -> None:
    load = WMDP(**{**files, "retain": files["retain"] * 2}).load(0)
    assert [r.topic for r in load.retain] == ["bio", "bio", "cyber", "cyber"]


def test_public_corpora_and_the_one_that_is_not(files: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def read(source: str, form: str, **_: Any) -> list[Record]:
        asked.append(source)
        return [Record("", "text")]

    monkeypatch.setattr(module, "read_corpus", read)
    fields = {k: v for k, v in files.items() if k not in ("forget", "retain")}
    WMDP(**fields, topics=("cyber",)).load(0)
    assert asked == [CORPORA["cyber"], WIKITEXT]
    assert WIKITEXT.endswith(":test")
    with pytest.raises(InputError, match=r"no public corpus on bio; name one for each topic.*on request"):
        WMDP(**fields).load(0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"topics": ("biology",)}, "wmdp: topic 'biology' must be one of bio, chem, cyber"),
        ({"topics": ()}, "at least one topic is forgotten"),
        ({"topics": ("bio", "chem")}, "none stands in the lists twice"),
        ({"forget": ("one.jsonl",)}, "forget names 1 corpora and topics 2"),
        ({"retain": ("a", "b", "c")}, "retain has 3 entries; give one, or one per topic"),
        ({"retain": ()}, "retain has 0 entries"),
        ({"text": ("words",)}, "text='words' must be one of text, title-abstract, raw"),
        ({"text": ("raw",) * 3}, "text has 3 entries"),
        ({"documents": -1}, "documents=-1 must not be below 0"),
        ({"secret": 1}, "secret=1 must be at least 2"),
    ],
)
def test_settings_out_of_range(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        WMDP(**fields)


# -- the twin -----------------------------------------------------------------------------------------


def test_without_a_path_it_is_the_twin() -> None:
    benchmark = WMDP(**SMALL, world_seed=5)
    assert benchmark.world == Twin(3, 4, 2, 4, 5)
    assert WMDP(questions="cais/wmdp").world is None
    load, records = benchmark.load(0), Twin(3, 4, 2, 4, 5).records()
    assert load.forget == records["train_forget"]
    assert load.retain == records["train_retain"]
    assert set(load.splits) == {"forget", "forget_plants", "forget_machines", "retain", "neighbours"}
    assert "harmless twin" in load.notes[0]


def test_its_metrics_run_on_its_model() -> None:
    benchmark = WMDP(**SMALL)
    assert benchmark.world is not None
    load = benchmark.load(0)
    store = EvidenceStore("target", benchmark.world.base_subject(hidden=32), load.splits)
    found = [f for metric in load.metrics for f in metric.measure(store, None)]
    assert {f.split for f in found} == set(load.splits)
    assert {f.metric for f in found} == {
        "multiple_choice",
        "multiple_choice.standard_error",
        *(f"multiple_choice.chose_{letter}" for letter in "ABCD"),
    }
    directions = {f.split: f.direction for f in found if f.metric == "multiple_choice"}
    assert directions["forget"] == directions["forget_plants"] == "match-gold"
    assert directions["retain"] == directions["neighbours"] == "higher"


# -- the published numbers ----------------------------------------------------------------------------


def test_published_numbers_are_shares_with_a_source() -> None:
    """One number per model, method, split and source; a model before unlearning knows more than after."""
    rows = {(p.model, p.method, p.metric, p.split, p.source): p.value for p in published()}
    assert len(rows) == len(published())
    assert all(0 < value < 1 for value in rows.values())
    for (model, method, metric, split, source), value in rows.items():
        assert "log" in source or "model card" in source or source.endswith("from memory")
        before = rows.get((model, "before", metric, split, source))
        assert method == "before" or before is None or value < before


def test_the_published_average_is_that_of_the_current_release() -> None:
    """Size-weighted: (1273 * 30.9 + 1987 * 28.0 + 408 * 45.6) / 3668 = 31.0."""
    log = {p.split: p.value for p in published() if "log" in p.source}
    mean = (1273 * log["forget_bio"] + 1987 * log["forget_cyber"] + 408 * log["chem"]) / 3668
    assert mean == pytest.approx(log["all"], abs=1e-3)
