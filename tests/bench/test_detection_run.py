"""A detection bench carried out: everything filed, nothing done twice, a killed one goes on, a broken part is told."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from expunge.bench import detection_run
from expunge.bench.detection import DetectionBench, load_detection
from expunge.bench.detection_run import run_detection
from expunge.errors import InputError
from expunge.membership.curves import auroc
from expunge.membership.thresholds import rates_at

NAMES = ["Metric-loss", "Metric-corr", "Model-lira"]


def make(folder: Path, **changes: Any) -> DetectionBench:
    case = {"name": "bought", "data": "purchase", "model": "mlp", "limit": 160, "epochs": 30, "widths": [32]}
    raw = {
        "targets": 2, "references": 4, "draws": 50, "detectors": NAMES, "cases": [{**case, **changes.pop("case", {})}],
        "seed": 3, **changes,
    }  # fmt: skip
    return load_detection(raw, "tiny", out=folder)


def files(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("bench")
    return folder, run_detection(make(folder))


def test_one_row_for_each_detector_on_each_target(done: tuple[Path, dict[str, Any]]) -> None:
    folder, results = done
    rows = results["cases"][0]["rows"]
    assert [(row["target"], row["name"]) for row in rows] == [(t, name) for t in range(2) for name in NAMES]
    assert {row["status"] for row in rows} == {"measured"}
    assert json.loads((folder / "results.json").read_text()) == results
    loss = rows[0]
    assert loss["auroc"]["low"] <= loss["auroc"]["value"] <= loss["auroc"]["high"]
    assert (loss["members"], loss["nonmembers"]) == (40, 40)
    assert loss["cost"]["queries"] == 80
    assert rows[2]["cost"]["trainings"] == 4


def test_filed_scores_give_the_rows_again(done: tuple[Path, dict[str, Any]]) -> None:
    """AUROC and rates at the calibrated threshold, from nothing but scores and what the target was trained on."""
    folder, results = done
    prepared = detection_run.prepare(make(folder), make(folder).cases[0], 1, lambda line: None)
    for row in results["cases"][0]["rows"]:
        scored = load_file(folder / "cells" / "bought" / f"target-{row['target']}" / f"{row['name']}.safetensors")
        member = prepared.division.targets.inside[row["target"], scored["rows"]]
        assert auroc(scored["scores"][member], scored["scores"][~member]) == pytest.approx(row["auroc"]["value"])
        rates = rates_at(row["calibrated"]["threshold"], scored["scores"], member)
        assert rates.accuracy == pytest.approx(row["calibrated"]["accuracy"])
        assert rates.accuracy <= row["published"]["best"]["accuracy"] + 1e-12


def test_members_are_known_better(done: tuple[Path, dict[str, Any]]) -> None:
    case = done[1]["cases"][0]
    assert case["accuracy"]["members"] > case["accuracy"]["nonmembers"] + 0.1
    lira = np.mean([row["auroc"]["value"] for row in case["rows"] if row["name"] == "Model-lira"])
    assert lira > 0.6


def test_the_same_command_does_nothing_again(done: tuple[Path, dict[str, Any]]) -> None:
    folder, results = done
    before = files(folder)
    assert run_detection(make(folder)) == results
    changed = {path.name for path, when in files(folder).items() if before.get(path) != when}
    assert changed == {"recipe.yaml", "results.json"}


def test_another_detector_or_target_keeps_what_there_is(done: tuple[Path, dict[str, Any]]) -> None:
    folder, results = done
    before = files(folder)
    more = run_detection(make(folder, detectors=[*NAMES, "Metric-ent"], targets=3))
    after = files(folder)
    assert {path.name for path in after if before.get(path, after[path]) != after[path]} == {
        "recipe.yaml", "results.json",
    }  # fmt: skip
    assert more["cases"][0]["rows"][:3] == results["cases"][0]["rows"][:3]
    assert len(more["cases"][0]["rows"]) == 12
    other = make(folder, case={"epochs": 13})
    assert run_detection(other)["cases"][0]["rows"][0] != results["cases"][0]["rows"][0]
    assert run_detection(make(folder))["cases"][0]["rows"][0]["auroc"] == results["cases"][0]["rows"][0]["auroc"]


def test_a_killed_bench_goes_on(tmp_path: Path, done: tuple[Path, dict[str, Any]]) -> None:
    """Killed in the middle of its cells, with two workers at work; no process is left, what was filed stays."""
    raw = make(tmp_path).model_dump(mode="json")
    code = (
        "import json, sys, time\nfrom expunge.bench import detection_run\nfrom expunge.bench.detection import *\n"
        "bench = DetectionBench.model_validate(json.loads(sys.argv[1]))\n"
        "filed = detection_run.write_json\n"
        "def slowly(path, value):\n    filed(path, value)\n    time.sleep(30 * ('target-1' in str(path)))\n"
        "detection_run.write_json = slowly\n"
        "detection_run.run_detection(bench)\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", code, json.dumps(raw)], env=environment)
    while not (tmp_path / "cells" / "bought" / "target-1" / "Metric-loss.json").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = files(tmp_path)
    assert not (tmp_path / "results.json").exists()
    results = run_detection(make(tmp_path))
    again = files(tmp_path)
    assert all(again[path] == when for path, when in before.items() if path.name != "recipe.yaml")
    for row, whole in zip(results["cases"][0]["rows"], done[1]["cases"][0]["rows"], strict=True):
        assert row["auroc"]["value"] == pytest.approx(whole["auroc"]["value"], abs=1e-9)


def test_without_scikit_learn_the_drawn_cases_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    bench = make(tmp_path)
    digits = {"name": "digits", "data": "digits", "model": "cnn"}
    forest = {"name": "trees", "data": "purchase", "model": "random-forest"}
    raw = {**bench.model_dump(mode="json"), "cases": [digits, forest, bench.cases[0].model_dump()]}
    told: list[str] = []
    results = run_detection(load_detection(raw, "tiny", out=tmp_path), tell=told.append)
    assert [case["name"] for case in results["cases"]] == ["bought"]
    assert set(results["missing"]) == {"digits", "trees"}
    assert sum("pip install 'expunge[detect]'" in line for line in told) == 2
    with pytest.raises(InputError, match="scikit-learn, which is not installed"):
        run_detection(load_detection({**raw, "cases": [digits]}, "tiny", out=tmp_path))


def test_too_few_records(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("a,y\n" + "1,0\n0,1\n" * 10)
    case = {"name": "own", "data": str(table), "label": "y", "kind": "binary", "model": "mlp"}
    raw = {**make(tmp_path).model_dump(mode="json"), "cases": [case]}
    with pytest.raises(InputError, match="own: 20 records are too few; at least 40"):
        run_detection(load_detection(raw, "tiny", out=tmp_path))
