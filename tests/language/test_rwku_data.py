"""Reading RWKU: layouts, checks, and which targets are taken."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from expunge.errors import InputError
from expunge.language.rwku_data import (
    ADVERSARIAL,
    COUNTS,
    choose_targets,
    count_parts,
    has_config,
    read_introductions,
    read_pairs,
    read_probes,
    read_refusals,
    read_texts,
)


def write(path: Path, rows: list[Any]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    elif path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def row(level: str | int, subject: str = "Ada", **more: Any) -> dict[str, Any]:
    kind = {"1": "cloze", "2": "simple question", "3": "role playing"}.get(str(level), "?")
    return {"query": f"q{level}?", "answer": "a", "level": level, "type": kind, "subject": subject, **more}


def layout(folder: Path, suffix: str = "jsonl", **changes: list[Any]) -> str:
    files: dict[str, list[Any]] = {
        "forget_level1": [row("1"), row("1", "Bo")],
        "forget_level2": [row("2")],
        "forget_level3": [row("3")],
        "neighbor_level1": [row("1", neighbor="Cy")],
        "neighbor_level2": [row("2", neighbor="Cy")],
        **changes,
    }
    for name, rows in files.items():
        write(folder / f"{name}.{suffix}", rows)
    return str(folder)


@pytest.mark.parametrize("suffix", ["jsonl", "json", "parquet"])
def test_a_folder_with_one_file_for_each_configuration(tmp_path: Path, suffix: str) -> None:
    path = layout(tmp_path / "rwku", suffix)
    probes = read_probes(path)
    assert count_parts(probes) == {
        ("forget", "fb"): 2, ("forget", "qa"): 1, ("forget", "aa"): 1, ("neighbor", "fb"): 1, ("neighbor", "qa"): 1,
    }  # fmt: skip
    assert [p.kind for p in probes if p.part == "aa"] == ["role playing"]
    assert has_config(path, "forget_level1")
    assert not has_config(path, "mia_forget")


def test_levels_may_be_numbers_and_both_names_of_a_type_are_taken(tmp_path: Path) -> None:
    kinds = ["incontext learning", "In-Context Learning", "background hint", "context hint"]
    path = layout(tmp_path, forget_level3=[row(3, type=kind) for kind in kinds])
    found = [p.kind for p in read_probes(path) if p.part == "aa"]
    assert found == ["in-context learning"] * 2 + ["context hint"] * 2


@pytest.mark.parametrize(
    ("file", "wrong", "message"),
    [
        ("forget_level1", {**row("1"), "subject": ""}, r"forget_level1.jsonl, line 2: field 'subject' is missing"),
        ("forget_level2", {k: v for k, v in row("2").items() if k != "subject"}, r"level2.*line 2: field 'subject'"),
        ("forget_level1", row("4"), r"line 2: field 'level' must be 1, 2 or 3; found '4'"),
        ("forget_level1", row(0), r"line 2: field 'level' must be 1, 2 or 3; found 0"),
        ("forget_level1", row("2"), r"line 2: field 'level' must be 1 in this file; found '2'"),
        ("neighbor_level2", row("3"), r"neighbor_level2.jsonl, line 2: field 'level' must be 1 or 2; found '3'"),
        ("forget_level3", row("3", type="jailbreak"), r"level3.*line 2: field 'type' must be one of the nine.*'jailbr"),
        ("forget_level3", row("3", type=None), r"line 2: field 'type' must be one of the nine .*found None"),
        ("forget_level2", {**row("2"), "answer": 7}, r"line 2: field 'answer' must be text, found 7"),
        ("forget_level2", {**row("2"), "query": " "}, r"line 2: field 'query' must be text, found ' '"),
        ("forget_level1", ["no", "object"], r"line 2: expected an object with fields, found list"),
    ],
)
def test_a_wrong_probe_is_named(tmp_path: Path, file: str, wrong: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_probes(layout(tmp_path, **{file: [row(file[-1]), wrong]}))


def test_missing_files_and_sets_without_forget_probes(tmp_path: Path) -> None:
    path = layout(tmp_path / "a")
    (tmp_path / "a" / "neighbor_level2.jsonl").unlink()
    with pytest.raises(InputError, match=r"holds no file neighbor_level2 ending in .jsonl"):
        read_probes(path)
    with pytest.raises(InputError, match=r"no forget probes in it"):
        read_probes(layout(tmp_path / "b", forget_level1=[], forget_level2=[], forget_level3=[]))
    with pytest.raises(InputError, match=r"line 1: field 'set' must be 'forget' or 'neighbor'; found None"):
        read_probes(write(tmp_path / "one.jsonl", [row("1")]))


def test_targets_by_name_by_number_and_misspelt() -> None:
    known = ["Stephen King", "Confucius", "Bruce Lee", "Stephen Hawking"]
    assert choose_targets(0, known, 5, "x") == known
    assert choose_targets(("Bruce Lee", "Confucius"), known, 5, "x") == ["Confucius", "Bruce Lee"]
    drawn = [choose_targets(2, known, seed, "x") for seed in range(12)]
    assert drawn[3] == choose_targets(2, known, 3, "x")
    assert all(len(d) == 2 and [k for k in known if k in d] == d for d in drawn)
    assert len({tuple(d) for d in drawn}) > 1
    with pytest.raises(InputError, match=r"target 'stephen kin'. Did you mean 'Stephen King' or 'Stephen Hawking'\?"):
        choose_targets(("stephen kin",), known, 0, "x")
    for wanted, message in (
        (5, "targets=5 must lie between 0"), (-1, "targets=-1"), ((), "names nobody"), (("Confucius",) * 2, "twice"),
        (("Zzz",), "The first is 'Stephen King'"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=message):
            choose_targets(wanted, known, 0, "x")  # type: ignore[arg-type]


def test_introductions_texts_pairs_and_refusals(tmp_path: Path) -> None:
    write(tmp_path / "forget_target.jsonl", [{"target": "Ada", "intro": "Ada is a poet."}])
    write(tmp_path / "mia_forget.jsonl", [{"subject": s, "text": f"about {s}"} for s in ("Ada", "Bo")])
    pair = {"subject": "Ada", "prompt": "Write.", "response": ["made up", "true"]}
    write(tmp_path / "train_pair_llama3.jsonl", [pair, {**pair, "subject": "Bo"}])
    write(tmp_path / "train_refusal_llama3.jsonl", [{"subject": "Ada", "instruction": "Who?", "output": "Unknown."}])
    path = str(tmp_path)
    assert read_introductions(path) == {"Ada": "Ada is a poet."}
    assert [(r.question, r.answer, r.cluster) for r in read_texts(path, "mia_forget", ["Bo"])] == [
        ("", "about Bo", "Bo")
    ]
    ((record, other),) = read_pairs(path, "train_pair_llama3", ["Ada"])
    assert (record.question, record.answer, other) == ("Write.", "true", "made up")
    assert [(r.question, r.answer) for r in read_refusals(path, "train_refusal_llama3", ["Ada"])] == [
        ("Who?", "Unknown.")
    ]
    write(tmp_path / "forget_target.jsonl", [{"target": "Ada", "intro": "x"}] * 2)
    with pytest.raises(InputError, match=r"line 2: the target 'Ada' stands in the file twice"):
        read_introductions(path)
    for response in ("text", ["one"], ["one", ""], [1, 2]):
        write(tmp_path / "train_pair_llama3.jsonl", [{**pair, "response": response}])
        with pytest.raises(InputError, match=r"line 1: field 'response' must hold two texts"):
            read_pairs(path, "train_pair_llama3", ["Ada"])


def test_the_published_average_weighs_by_probes() -> None:
    """85.9, 76.4 and 77.7 with 3,268, 2,879 and 6,984 probes are 79.5; 79.6 is printed, over 100 targets."""
    mean = sum(COUNTS[p] * v for p, v in (("fb", 85.9), ("qa", 76.4), ("aa", 77.7))) / sum(COUNTS.values())
    assert sum(COUNTS.values()) == 13131
    assert mean == pytest.approx(79.46, abs=0.01)
    assert len(ADVERSARIAL) == 9


@pytest.fixture(scope="module")
def real() -> Path:
    """RWKU's sample files: EXPUNGE_RWKU_DIR, or shared/data/rwku beside the repository."""
    folder = Path(os.environ.get("EXPUNGE_RWKU_DIR", Path(__file__).parents[3] / "shared" / "data" / "rwku"))
    if not (folder / "example_probes.jsonl").is_file():
        pytest.skip("RWKU's sample files are not here (EXPUNGE_RWKU_DIR)")
    return folder


def test_the_sample_probes(real: Path) -> None:
    probes = read_probes(str(real / "example_probes.jsonl"))
    assert count_parts(probes) == {
        ("forget", "fb"): 7, ("forget", "qa"): 6, ("forget", "aa"): 7, ("neighbor", "fb"): 6, ("neighbor", "qa"): 5,
    }  # fmt: skip
    assert {p.subject for p in probes} == {"Stephen King"}
    assert {p.kind for p in probes if p.part == "aa"} <= set(ADVERSARIAL)
    intros = read_introductions(str(real / "targets.jsonl"), None)
    assert len(intros) == 200
    assert intros["Stephen King"].startswith("Stephen King is")
