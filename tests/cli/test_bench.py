"""``expunge bench``: options, exit codes, what goes to stdout and to stderr, and what is not imported."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from expunge.bench import engines
from expunge.bench.board import Board, row_of
from expunge.bench.cells import Job, Outcome
from expunge.bench.settings import Bench
from expunge.cli.bench import bench

Call = Callable[..., Result]
CELL = {
    "values": {"forget": 0.2, "retain": 1.0}, "excess": {"forget": 0.1, "paraphrase": -0.05}, "distance": 0.075,
    "utility": 1.0, "verdict": "suppressed", "seconds": 2.0, "settings": {},
}  # fmt: skip


class Stub(ModuleType):
    """Stands in for `expunge.bench.grid`: records what it is asked, returns a board."""

    def __init__(self) -> None:
        super().__init__("expunge.bench.grid")
        self.calls: list[dict[str, Any]] = []
        self.rows = [row_of("npo", [CELL], 1, 0.9, None)]
        self.error: BaseException | None = None

    def run_bench(self, checked: Bench, make_engine: Any, *, minutes: Any, tell: Any, plan: Any) -> Board:
        self.calls.append({"bench": checked, "engine": make_engine, "minutes": minutes})
        if self.error is not None:
            raise self.error
        plan(0, 2)
        for job, outcome in (
            (Job("cell", checked, 0, "npo"), Outcome("done", CELL, seconds=2.0)),
            (Job("cell", checked, 0, "rmu"), Outcome("failed", error="No such layer.")),
        ):
            tell(job, None)
            tell(job, outcome)
        return Board(checked.name, checked.seeds, 0.9, {}, (), tuple(self.rows))


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Stub:
    module = Stub()
    monkeypatch.setitem(sys.modules, "expunge.bench.grid", module)
    return module


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    monkeypatch.chdir(tmp_path)
    app = typer.Typer()
    app.command()(bench)
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


def test_done(call: Call, stub: Stub) -> None:
    words = (
        "--methods",
        "npo",
        "--seeds",
        3,
        "--trials",
        4,
        "--out",
        "here",
        "--limit-minutes",
        90,
        "tuning.floor=0.8",
    )
    result = call("demo", *words, "tuning.floor=0.8")
    assert result.exit_code == 0, result.output
    (asked,) = stub.calls
    checked = asked["bench"]
    assert (checked.seeds, checked.tuning.trials, checked.tuning.floor) == ((0, 1, 2), 4, 0.8)
    assert [plan.name for plan in checked.methods] == ["npo"]
    assert (checked.out, asked["minutes"]) == (Path("here"), 90)
    assert "NPO" in result.stdout
    assert "−0.05" in result.stdout  # over-forgotten
    assert result.stdout.endswith("here/leaderboard.html\n")
    assert "[1/2] ✓ npo seed 0 2 s, distance 0.075, utility 100%" in result.stderr
    assert "[2/2] ✕ rmu seed 0: No such layer." in result.stderr


def test_quiet_leaves_only_the_data(call: Call, stub: Stub) -> None:
    result = call("demo", "--methods", "npo", "-q")
    assert (result.exit_code, result.stderr) == (0, "")


def test_something_failed(call: Call, stub: Stub) -> None:
    stub.rows.append(row_of("rmu", [], 1, 0.9, ("failed", "No such layer.")))
    result = call("demo")
    assert result.exit_code == 3
    assert "rmu: No such layer." in result.stderr
    assert "NPO" in result.stdout
    assert "failed" in result.stdout


def test_cut_short(call: Call, stub: Stub) -> None:
    stub.rows.append(row_of("rmu", [], 1, 0.9, None))
    result = call("demo")
    assert result.exit_code == 0
    assert "1 methods are not finished; the same command continues." in result.stderr


def test_interrupted(call: Call, stub: Stub) -> None:
    stub.error = KeyboardInterrupt()
    result = call("demo")
    assert result.exit_code == 130
    assert "interrupted: the same command resumes." in result.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["dmo"], "'dmo' is neither a file nor a packaged bench recipe. Did you mean 'demo'?"),
        (["demo", "--methods", "nppo"], "--methods: Unknown method 'nppo'. Did you mean 'npo'?"),
        (["demo", "tuning.trals=3"], "tuning.trals: unknown key. Did you mean 'trials'?"),
        (["demo", "methods.npo.search.lr.low=9"], "low=9 must be smaller than high"),
        (["demo", "--seeds", "0"], "Invalid value"),
        (["demo", "--engine", "spark"], "Invalid value"),
        (["demo", "--workers", "0"], "Invalid value"),
    ],
)
def test_wrong_input_before_any_work(call: Call, stub: Stub, words: list[str], message: str) -> None:
    result = call(*words)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""
    assert stub.calls == []


def test_ray_missing_is_one_sentence(call: Call, stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    call("demo", "--engine", "ray", "--workers", 2)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(Exception, match="Ray is not installed"):
        stub.calls[0]["engine"]()


def test_workers_are_physical_cores_unless_given(call: Call, stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "physical_cores", lambda: 5)
    call("demo")
    call("demo", "--workers", 2)
    assert [asked["engine"]().free for asked in stub.calls] == [5, 2]


def test_dry_run_prints_the_plan_and_runs_nothing(call: Call, stub: Stub) -> None:
    result = call("demo", "--methods", "all", "--seeds", 2, "--dry-run")
    assert result.exit_code == 0
    told = json.loads(result.stdout)
    assert {"npo", "rmu", "retrain"} <= {method["name"] for method in told["methods"]}
    assert "2 seeds" in result.stderr
    assert stub.calls == []


def test_nothing_heavy_is_imported_to_check_a_bench() -> None:
    code = (
        "import sys, typer\n"
        "from expunge.cli.bench import bench\n"
        "app = typer.Typer(); app.command()(bench)\n"
        "sys.argv = ['bench', 'demo', '--methods', 'all', '--dry-run']\n"
        "try:\n    app()\nexcept SystemExit as leaving:\n    assert not leaving.code\n"
        "heavy = ('torch', 'transformers', 'numpy', 'scipy', 'optuna', 'ray')\n"
        "print([name for name in heavy if name in sys.modules], file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "[]"
