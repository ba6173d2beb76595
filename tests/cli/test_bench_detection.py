"""``expunge bench`` with a recipe of detectors: a run as a user does it, a table of one's own, what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from expunge.cli import app

Call = Callable[..., Result]
SMALL = ("targets=1", "references=4", "draws=20", "--methods", "metric-loss,Model-lira", "--workers", 1)


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    monkeypatch.chdir(tmp_path)
    return lambda *words: CliRunner().invoke(app, ["bench", *(str(word) for word in words)])


def recipe(tmp_path: Path, case: str) -> str:
    (tmp_path / "mine.yaml").write_text(f"name: mine\ndetectors: all\ncases:\n  - {case}\n")
    return "mine.yaml"


def test_a_table_of_ones_own(call: Call, tmp_path: Path) -> None:
    rng, heading = np.random.default_rng(0), ",".join([*(f"f{i}" for i in range(20)), "answer"])
    lines = [",".join([*(f"{v:.3f}" for v in rng.normal(size=20)), "abcdef"[int(rng.integers(6))]]) for _ in range(80)]
    (tmp_path / "t.csv").write_text("\n".join([heading, *lines]) + "\n")
    source = recipe(tmp_path, "{name: own, data: t.csv, label: answer, kind: continuous, model: mlp, epochs: 200}")
    result = call(source, *SMALL)
    assert result.exit_code == 0, result.output
    assert result.stdout.endswith("runs/bench-mine/results.html\n")
    assert "Metric-loss" in result.stdout
    assert "own target 1: done" in result.stderr
    rows = json.loads(Path("runs/bench-mine/results.json").read_text())["cases"][0]["rows"]
    assert [row["name"] for row in rows] == ["Metric-loss", "Model-lira"]
    assert rows[0]["auroc"]["value"] > 0.75  # random labels can only be known by heart
    assert "80 continuous records, 6 classes" in Path("runs/bench-mine/results.md").read_text()
    before = Path("runs/bench-mine/results.html").read_text()
    again = call(source, *SMALL)
    assert (again.exit_code, "done" in again.stderr) == (0, False)
    assert Path("runs/bench-mine/results.html").read_text() == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tddbnch"], "neither a file nor a packaged bench recipe. Did you mean 'tddbench'?"),
        (["tddbench", "--methods", "metric-los"], "'metric-los' is no detector. Did you mean 'Metric-loss'?"),
        (["tddbench", "target=2"], "tddbench: target: unknown key. Did you mean 'targets'?"),
        (["tddbench", "references=5"], "references: 5 must be even"),
        (["tddbench", "cases.digit.limit=50"], "cases has no entry 'digit'"),
        (["tddbench", "--seeds", 2], "--seeds: is for benches of methods; this recipe compares detectors."),
        (["tddbench", "--trials", 2], "--trials: is for benches of methods"),
        (["tddbench", "--engine", "ray"], "--engine: is for benches of methods"),
        (["tddbench", "--limit-minutes", 2], "--limit-minutes: is for benches of methods"),
    ],
)
def test_wrong_input_before_any_work(call: Call, words: list[str], message: str) -> None:
    result = call(*words)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert (result.stdout, list(Path().iterdir())) == ("", [])


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (
            "{name: own, data: t.csv, label: y, kind: binary, model: mlp}",
            "t.csv, record 2, column 'a': '2' must be 0 or 1",
        ),
        ("{name: own, data: t.csv, label: z, kind: continuous, model: mlp}", "t.csv: has no column 'z'"),
        ("{name: own, data: u.csv, label: z, kind: continuous, model: mlp}", "u.csv: cannot be read as CSV"),
        ("{name: own, data: t.csv, label: y, kind: continuous, model: mlp}", "own: 3 records are too few"),
        ("{name: own, data: t.csv, model: mlp}", "cases.0: a CSV file needs 'label'"),
        ("{name: own, data: t.csv, label: y, kind: text, model: mlp}", "cases.0.kind: 'text'"),
    ],
)
def test_wrong_tables(call: Call, tmp_path: Path, case: str, message: str) -> None:
    (tmp_path / "t.csv").write_text("a,y\n1,u\n2,v\n0,u\n")
    result = call(recipe(tmp_path, case), *SMALL)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""


def test_a_failed_detector_is_exit_code_3(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from expunge.errors import RunError
    from expunge.membership import metric_based, suite
    from expunge.membership.roster import metric

    def broken(signals: object) -> object:
        raise RunError("It broke.")

    monkeypatch.setattr(suite, "DETECTORS", {**suite.DETECTORS, "Metric-loss": metric("Metric-loss", broken)})
    source = recipe(tmp_path, "{name: own, data: purchase, model: mlp, limit: 80, epochs: 1}")
    result = call(source, *SMALL)
    assert result.exit_code == 3
    assert "own, Metric-loss: It broke." in result.stderr
    assert "failed" in result.stdout
    monkeypatch.setattr(
        suite, "DETECTORS", {**suite.DETECTORS, "Metric-loss": metric("Metric-loss", metric_based.metric_loss)}
    )
    assert call(source, *SMALL).exit_code == 0


def test_dry_run_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom expunge.cli import app\n"
        "sys.argv = ['expunge', 'bench', 'tddbench', 'targets=3', '--dry-run']\n"
        "try:\n    app()\nexcept SystemExit as leaving:\n    assert not leaving.code\n"
        "heavy = ('torch', 'numpy', 'scipy', 'sklearn', 'transformers')\n"
        "print([name for name in heavy if name in sys.modules], file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "targets: 3" in done.stdout
    assert done.stderr.splitlines() == [
        "4 cases, 35 models each, 21 detectors on 3 targets and a stand-in; folder runs/bench-tddbench", "[]",
    ]  # fmt: skip
