"""Whole benches: what they leave, that they resume after a kill, and that a failure stays alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from expunge.bench import cells, grid
from expunge.bench.board import Board
from expunge.bench.cells import Job, Outcome, perform
from expunge.bench.engines import Engine
from expunge.bench.files import share_files
from expunge.bench.grid import run_bench
from expunge.bench.settings import Bench
from expunge.errors import InputError
from expunge.journal import lock_folder
from tiny_bench import Inline, tiny

pytest.importorskip("optuna")


def no_engine() -> Engine:
    raise AssertionError("nothing should be left to do")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bench, Board, Inline]:
    """Two methods, one seed, nobody disturbed it."""
    bench = tiny(tmp_path_factory.mktemp("bench") / "out")
    engine = Inline()
    return bench, run_bench(bench, lambda: engine), engine


Finished = tuple[Bench, Board, Inline]


def test_a_bench_leaves_its_leaderboard_and_a_file_for_each_cell(finished: Finished) -> None:
    bench, board, engine = finished
    assert engine.done == [
        "references seed 0",
        "search npo",
        "search grad-diff",
        "npo seed 0",
        "grad-diff seed 0",
    ]
    assert engine.closed
    assert sorted(path.name.rsplit("-", 1)[0] for path in (bench.out / "cells").iterdir()) == [
        "grad-diff-seed-0",
        "npo-seed-0",
    ]
    for name in ("leaderboard.json", "leaderboard.md", "leaderboard.html", "bench.json"):
        assert (bench.out / name).is_file()
    assert {row.name for row in board.rows} == {"npo", "grad-diff"}
    assert [row.name for row in board.references] == ["target", "gold"]
    for row in board.rows:
        assert set(row.excess) == {"forget", "paraphrase", "membership", "relearned"}
        assert row.status in ("ranked", "below-floor")


def test_the_references_are_audited_once_and_lent_to_the_cells(finished: Finished) -> None:
    bench, *_ = finished
    events = [json.loads(line) for line in (bench.out / "runs/npo/seed-0/log.jsonl").read_text().splitlines()]
    kept = {e["stage"] for e in events if e["event"] == "kept"}
    begun = {e["stage"] for e in events if e["event"] == "begin"}
    assert {"audit target", "audit gold"} <= kept
    assert "audit npo" in begun
    assert not {"audit target", "audit gold"} & begun


def test_a_cell_is_an_ordinary_run_and_its_excess_is_measured_from_gold(finished: Finished) -> None:
    bench, *_ = finished
    (path,) = (bench.out / "cells").glob("npo-*.json")
    result = json.loads(path.read_text())["result"]
    card = json.loads((bench.out / result["run"] / "scorecard.json").read_text())
    found = {(f["metric"], f["split"], f["subject"]): f["value"] for f in card["findings"]}
    auc = [found["membership.loss.auroc", "forget", name] for name in ("npo", "gold")]
    assert result["excess"]["membership"] == pytest.approx(auc[0] - auc[1], abs=1e-5)
    back = [found["relearning.held_out_accuracy", "forget", name] for name in ("npo", "gold")]
    assert result["excess"]["relearned"] == pytest.approx(back[0] - back[1], abs=1e-5)


def test_the_same_command_again_starts_nothing(finished: Finished) -> None:
    bench, board, _ = finished
    before = {path: path.stat().st_mtime_ns for path in (bench.out / "cells").iterdir()}
    assert run_bench(bench, no_engine) == board
    assert {path: path.stat().st_mtime_ns for path in (bench.out / "cells").iterdir()} == before


def test_another_seed_adds_only_its_own_cells(finished: Finished) -> None:
    bench, *_ = finished
    titles = [job.title for job in grid.Grid(replace(bench, seeds=(0, 1))).ready()]
    assert titles == ["references seed 0", "references seed 1"]
    wider = grid.Grid(replace(bench, seeds=(0, 1)))
    wider.keep_finished()
    assert [job.title for job in wider.ready()] == ["references seed 1"]


def test_forget_answers_are_in_nothing_that_is_published(finished: Finished) -> None:
    from expunge.language.testbed import World

    bench, *_ = finished
    names = {r.cluster for r in World(4, 8, 4, 6).records()["train_forget"]}
    published = [
        *bench.out.glob("leaderboard.*"),
        *(bench.out / "cells").iterdir(),
        *(bench.out / "references").iterdir(),
    ]
    for path in published:
        text = path.read_text(encoding="utf-8")
        assert not [name for name in names if name in text], path


# -- single jobs -----------------------------------------------------------------------------------------


def test_a_failing_cell_leaves_its_traceback_and_is_tried_again(
    finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, *_ = finished
    job = Job("cell", bench, 0, "npo", {"lr": 1e-3, "retain_weight": 1.0})

    def explode(job: Job) -> Outcome:
        raise ValueError("odd\nthing")

    monkeypatch.setattr(cells, "_cell", explode)
    assert perform(job).error == "unexpected ValueError: odd."
    assert "ValueError: odd" in job.log.read_text()
    assert job.result() is None


def test_two_processes_cannot_share_a_bench_folder(finished: Finished) -> None:
    bench, *_ = finished
    with lock_folder(bench.out), pytest.raises(InputError, match="another expunge process"):
        run_bench(bench, no_engine)


def test_a_mixture_method_is_unsuitable_for_a_dense_model(finished: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    from expunge.language.methods.npo import NPO

    bench, *_ = finished
    monkeypatch.setattr(NPO, "architecture", "moe", raising=False)
    found = perform(replace(Job("search", bench, 0, "npo"), bench=replace(bench, name="again")))
    assert found.status == "unsuitable"
    assert found.error == "needs a mixture-of-experts model, and this one is dense"


@pytest.mark.parametrize(
    ("values", "experts"), [({"num_local_experts": 8}, 8), ({"n_routed_experts": None}, 0), ({}, 0)]
)
def test_experts_are_read_from_the_configuration(values: dict[str, Any], experts: int) -> None:
    assert cells.experts_of(type("Config", (), values)()) == experts


# -- kill and resume ----------------------------------------------------------------------------------


SCRIPT = """
import sys
from pathlib import Path
from expunge.bench.engines import LocalEngine
from expunge.bench.grid import run_bench
from tiny_bench import tiny
if __name__ == "__main__":
    told = lambda job, outcome: print(job.title, outcome and outcome.status, flush=True)
    run_bench(tiny(Path(sys.argv[1]), cache=sys.argv[2]), lambda: LocalEngine(1), tell=told)
"""


def stopped(stop: signal.Signals, out: Path, cache: str) -> str:
    """A bench in a process of its own, with one worker, stopped while it searches for grad-diff; what it told."""
    script = out.parent / "bench_script.py"
    script.write_text(SCRIPT)
    path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    process = subprocess.Popen(
        [sys.executable, str(script), str(out), cache],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert process.stdout is not None
    lines = []
    with process.stdout as told:
        for line in told:
            lines.append(line)
            if line == "search grad-diff None\n":
                break
        time.sleep(0.2)
        process.send_signal(stop)
        lines.append(told.read())  # ends when the last process that holds the pipe, a worker, is gone
    assert process.wait() != 0
    return "".join(lines)


def half_written(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if ".tmp" in path.name]


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGTERM])
def test_stopped_in_the_middle_and_started_again_ends_with_the_same_board(
    stop: signal.Signals, finished: Finished, tmp_path: Path
) -> None:
    bench, board, _ = finished
    out, cache = tmp_path / "out", str(bench.out.parent / "cache")
    for part in ("references", "runs/references"):  # as if they were finished earlier
        share_files(bench.out / part, out / part)
    told = stopped(stop, out, cache)
    assert "search npo done" in told
    assert "references seed 0" not in told
    assert "search grad-diff done" not in told
    assert [path.name[:4] for path in out.glob("cells/*")] == ["npo-"]
    if stop == signal.SIGTERM:  # a killed process cannot clean up; the next one does
        assert not half_written(out)
        assert (out / "leaderboard.json").exists()
    engine = Inline()
    again = run_bench(tiny(out, cache=cache), lambda: engine)
    # terminated, a search may still come to its end between the signal and the stop, and is filed then
    early = engine.done == ["grad-diff seed 0"] and stop == signal.SIGTERM
    assert early or engine.done == ["search grad-diff", "grad-diff seed 0"]
    assert [(row.name, row.settings, row.excess, row.values) for row in again.rows] == [
        (row.name, row.settings, row.excess, row.values) for row in board.rows
    ]
    assert not half_written(out)
