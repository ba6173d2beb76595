"""A failure stays alone: what fails, what is not run and what time cuts short stand on the board; the rest is done."""

from __future__ import annotations

from pathlib import Path

import pytest

from expunge.bench.cells import Job, Outcome
from expunge.bench.grid import run_bench
from tiny_bench import Inline, tiny

pytest.importorskip("optuna")


def pretend(job: Job) -> Outcome:
    """Outcomes without work; npo fails on its second seed, rmu's search fails, router does not fit."""
    if job.kind == "reference":
        values = {"target": {"forget": 1.0, "retain": 1.0}, "gold": {"forget": 0.1, "retain": 1.0}}
        return Outcome("done", {"values": values, "notes": []})
    if job.kind == "search":
        if job.method == "rmu":
            return Outcome("failed", error="All 2 trials failed; the last one: no such layer.")
        if job.method == "ga":
            return Outcome("unsuitable", error="needs a mixture-of-experts model, and this one is dense")
        return Outcome("done", {"settings": {}})
    if job.method == "npo" and job.seed == 1:
        return Outcome("failed", error="The loss is not finite.")
    values, excess = {"forget": 0.2, "retain": 1.0}, {"forget": 0.1}
    return Outcome(
        "done",
        {"values": values, "excess": excess, "distance": 0.1, "utility": 1.0, "verdict": None, "seconds": 1.0,
         "settings": {}},
    )  # fmt: skip


def test_a_failure_stays_alone(tmp_path: Path) -> None:
    listed = [{"name": name, "search": {}} for name in ("npo", "grad-diff", "rmu", "ga")]
    bench = tiny(tmp_path / "out", seeds=2, methods=[*listed, {"name": "idk", "skip": "not today"}])
    engine = Inline(pretend)
    board = run_bench(bench, lambda: engine)
    told = {row.name: (row.status, row.note) for row in board.rows}
    assert told == {
        "grad-diff": ("ranked", ""),
        "npo": ("failed", "seed 1: The loss is not finite. (1 of 2 seeds done)"),
        "rmu": ("failed", "All 2 trials failed; the last one: no such layer."),
        "ga": ("not-run", "needs a mixture-of-experts model, and this one is dense"),
        "idk": ("not-run", "not today"),
    }
    assert [row.name for row in board.failed] == ["npo", "rmu"]
    assert "rmu seed 0" not in engine.done


def test_without_references_every_method_fails_with_their_sentence(tmp_path: Path) -> None:
    bench = tiny(tmp_path / "out")
    board = run_bench(bench, lambda: Inline(lambda job: Outcome("failed", error="No such file.")))
    assert {row.note for row in board.rows} == {"references of seed 0: No such file."}
    assert {row.status for row in board.rows} == {"failed"}


def test_past_the_limit_nothing_begins_and_the_board_says_so(tmp_path: Path) -> None:
    engine = Inline(pretend)
    board = run_bench(tiny(tmp_path / "out"), lambda: engine, minutes=0.0)
    assert engine.done == []
    assert engine.closed
    assert [row.status for row in board.unfinished] == ["unfinished", "unfinished"]
