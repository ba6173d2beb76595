"""``expunge run`` with further requests and with sequences: what is typed, what is passed on, what is refused."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from expunge.report._drift import Measured, drift
from expunge.report.scorecard import Finding, Scorecard
from tiny_chain import PEOPLE, recipe, settle, write_rows


@pytest.fixture
def first(tmp_path: Path) -> Path:
    settle(recipe(tmp_path / "runs" / "mine", "nowhere"))
    write_rows(tmp_path / "more.jsonl", [{"cluster": PEOPLE[0]}])
    return tmp_path


def test_a_further_request(invoke: Any, stub: Any, first: Path, card: Scorecard) -> None:
    card.curves["drift"] = drift([Measured(1, 96, None), Measured(2, 24, card)])
    result = invoke("run", "--continue", "runs/mine", "--forget", "more.jsonl", "unlearn.reference=initial", "--force")
    assert (result.exit_code, result.stdout) == (0, "runs/mine-2/report.html\n")
    (call,) = stub.calls
    made = call["recipe"]
    assert (made.request.continues, made.request.forget) == (Path("runs/mine"), "more.jsonl")
    assert (made.unlearn.reference, made.name, call["force"]) == ("initial", "mine-2", True)
    assert [m.name for m in made.methods] == ["npo"]
    assert "This request's records" in result.stderr
    assert invoke("run", "--continue", "runs/mine", "--forget", "more.jsonl", "--out", "there").stdout.startswith(
        "there/"
    )


def test_records_of_ones_own_instead_of_the_benchmarks(invoke: Any, stub: Any) -> None:
    assert invoke("run", "demo", "--forget", "more.jsonl").exit_code == 0
    request = stub.calls[0]["recipe"].request
    assert (request.forget, request.continues) == ("more.jsonl", None)


def test_dry_run_of_a_request_writes_nothing(invoke: Any, stub: Any, first: Path) -> None:
    result = invoke("run", "--continue", "runs/mine", "--forget", "more.jsonl", "--dry-run")
    assert result.exit_code == 0
    assert "continues: runs/mine" in result.stdout
    assert not (first / "runs" / "mine-2").exists()
    assert stub.calls == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "Missing argument 'RECIPE'"),
        (["--continue", "nowhere", "--forget", "more.jsonl"], "nowhere: not a run folder"),
        (["--continue", "runs/mine"], "what else is to be forgotten?"),
        (["demo", "--continue", "runs/mine", "--forget", "more.jsonl"], "'demo': with --continue the recipe is"),
        (["--continue", "runs/mine", "--forget", "more.jsonl", "unlearn.reference=last"], "'previous' or 'initial'"),
        (["--continue", "runs/mine", "--forget", "more.jsonl", "--out", "runs/mine"], "a folder of its own"),
        (["--continue", "runs/mine", "--forget", "more.jsonl", "methods.npo.beeta=1"], "Did you mean 'beta'?"),
    ],
)
def test_wrong_words(invoke: Any, stub: Any, first: Path, words: list[str], message: str) -> None:
    result = invoke("run", *words)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert stub.calls == []


def test_wrong_records_are_told_in_one_sentence(invoke: Any, first: Path) -> None:
    """With the real runner: data errors come before anything is written."""
    write_rows(first / "bad.jsonl", [{"cluster": "Ada"}])
    for words, message in (
        (["--forget", "bad.jsonl"], "error: bad.jsonl, line 1: no record is about 'Ada'"),
        (["--forget", "more.jsonl", "methods=[ga]"], "error: methods: [ga], and runs/mine ran [npo]"),
        (["--forget", "more.jsonl", "--seed", 9], "error: seed: it cannot differ from that of runs/mine"),
    ):
        result = invoke("run", "--continue", "runs/mine", *words)
        assert result.exit_code == 2
        assert result.stderr.startswith(message)
        assert result.stderr.count("\n") == 1
    assert not (first / "runs" / "mine-2").exists()


def test_a_sequence_prints_its_table_and_gates_every_request(
    invoke: Any, stub: Any, first: Path, card: Scorecard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gate fails in the second request alone."""
    driver = ModuleType("expunge.sequence_driver")
    good = Scorecard(findings=[Finding("accuracy", "forget", "npo", 0.1, 0.1, 0.1, 9, "match-gold")])
    driver.execute_all = lambda recipe, console, force: [good, card]  # type: ignore[attr-defined]
    driver.read_curves = lambda folder: drift([Measured(1, 9, good), Measured(2, 9, card)])  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "expunge.sequence_driver", driver)
    made = recipe(first / "all", "nowhere", sequence={"requests": [{}, {"forget": "more.jsonl"}]})
    (first / "all.yaml").write_text(made.to_yaml(), encoding="utf-8")
    result = invoke("run", "all.yaml", "--fail-on", "accuracy@forget:npo>0.2")
    assert (result.exit_code, result.stdout) == (1, f"{first}/all/report.html\n")
    assert "This request's records" in result.stderr
    gates = [line for line in result.stderr.splitlines() if "gate" in line]
    assert len(gates) == 1
    assert "request 2: gate" in gates[0]
    assert stub.calls == []
    assert "# requests: 2" in invoke("run", "all.yaml", "--dry-run").stdout
