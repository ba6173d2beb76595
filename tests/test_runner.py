"""Whole runs on a small test bed: what they leave, that they resume, and that killing them changes nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from expunge import api
from expunge.errors import InputError
from expunge.journal import lock_folder
from expunge.language.testbed import World
from expunge.recipe import Recipe
from expunge.report.missing import missing_evidence
from expunge.report.scorecard import Scorecard
from expunge.report.verdict import Tolerance, judge_model
from expunge.runner import execute

RECIPE = """
name: small
seed: 3
threads: 1
model: {source: testbed}
benchmark: {name: testbed, forget: 6, retain: 8, holdout: 6, places: 6}
target: {train: {steps: 60, batch_size: 64, optimizer: muon, lr: 4.0e-3, schedule: cosine}}
gold: {source: retrain, seeds: 1}
unlearn: {train: {steps: 12, batch_size: 16, lr: 3.0e-4, evaluate_every: 4}}
methods: [{name: npo, beta: 0.5, retain_weight: 5.0}]
audit:
  draws: 20
  attacks: [paraphrase, {name: relearn, steps: [2, 4], seeds: 1}, {name: quantise, bits: [8]}]
"""

# Runs a recipe and kills its own process, as SIGKILL does, at the n-th call of a function.
KILLER = """
import os, signal, sys
from expunge.engine.checkpoint import Checkpoints
from expunge.engine.loop import Loop
import expunge.runner as runner
import expunge.language.wing as wing
Checkpoints.due = lambda self: self.folder is not None
moment, number = os.environ["KILL_AT"].split(":")
calls = 0
def deadly(function):
    def wrapped(*args, **kwargs):
        global calls
        calls += 1
        if calls == int(number):
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return wrapped
if moment == "step":
    Loop._step = deadly(Loop._step)
elif moment == "audit":
    wing.audit_model = deadly(wing.audit_model)
from expunge.recipe import Recipe
runner.execute(Recipe.load(sys.argv[1]))
"""


def recipe(folder: Path) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(RECIPE + f"out: {folder / 'run'}\ncache: {folder / 'cache'}\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run nobody disturbed."""
    folder = tmp_path_factory.mktemp("finished")
    execute(Recipe.load(recipe(folder)))
    return folder


def test_a_run_leaves_everything_the_contract_names(finished: Path) -> None:
    run = finished / "run"
    for name in ("recipe.yaml", "scorecard.json", "report.html", "log.jsonl", "model/model.safetensors"):
        assert (run / name).is_file(), name
    raw = json.loads((run / "scorecard.json").read_text())
    assert raw["schema"] == 1
    subjects = {f["subject"] for f in raw["findings"]}
    assert subjects == {"target", "gold", "control", "npo"}
    assert {f["direction"] for f in raw["findings"]} <= {"higher", "lower", "match-gold"}
    assert set(raw["verdicts"]) == {"npo", "control"}
    measured = {(f["metric"], f["split"]) for f in raw["findings"] if f["subject"] == "npo"}
    for wanted in (
        ("accuracy", "forget"),
        ("accuracy", "forget_paraphrase"),
        ("accuracy", "retain"),
        ("truth_ratio", "forget"),
        ("forget_quality", "forget"),
        ("relearning.held_out_accuracy", "forget"),
        ("membership.loss.auroc", "forget"),
    ):
        assert wanted in measured


def test_the_target_knows_and_gold_does_not(finished: Path) -> None:
    """60 steps teach the small world; chance is about 0.06."""
    card = Scorecard.load(finished / "run" / "scorecard.json")
    target, gold = (card.value("accuracy", "forget", name) for name in ("target", "gold"))
    assert target is not None
    assert target > 0.8
    assert gold is not None
    assert gold < 0.3


def test_verdicts_are_a_pure_function_of_the_scorecard(finished: Path) -> None:
    card = Scorecard.load(finished / "run" / "scorecard.json")
    for name, verdict in card.verdicts.items():
        assert judge_model(card, name, Tolerance(delta=0.2)).verdict == verdict.verdict


def test_nothing_of_the_forget_records_is_in_what_a_run_publishes(finished: Path) -> None:
    names = {r.cluster for r in World(6, 8, 6, 6).records()["train_forget"]}
    for file in ("scorecard.json", "report.html", "log.jsonl", "model/README.md"):
        text = (finished / "run" / file).read_text(encoding="utf-8")
        assert not [name for name in names if name in text], file


def test_the_same_command_again_does_nothing_twice(finished: Path) -> None:
    run = finished / "run"
    stamp = (run / "model" / "model.safetensors").stat().st_mtime_ns
    execute(Recipe.load(finished / "recipe.yaml"))
    assert (run / "model" / "model.safetensors").stat().st_mtime_ns == stamp
    events = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [e["stage"] for e in events if e["event"] == "kept"].count("audit npo") == 1


def test_a_changed_method_redoes_only_what_it_touches(finished: Path, tmp_path: Path) -> None:
    before = {p.name for p in (finished / "cache" / "models").iterdir()}
    execute(Recipe.load(finished / "recipe.yaml", [f"out={tmp_path / 'run'}", "methods.0.beta=0.1"]))
    assert {p.name for p in (finished / "cache" / "models").iterdir()} == before
    ours = load_file(tmp_path / "run" / "model" / "model.safetensors")
    others = load_file(finished / "run" / "model" / "model.safetensors")
    assert any((ours[name] != others[name]).any() for name in ours)


@pytest.mark.parametrize("moment", ["step:9", "step:141", "audit:2"])
def test_killed_and_started_again_ends_with_the_same_weights(moment: str, finished: Path, tmp_path: Path) -> None:
    """SIGKILL while the target trains, while the method unlearns, and in the audit.

    Steps: target 60, then gold 60 * retain / all, control 12, npo 12.
    """
    path = recipe(tmp_path)
    words = [sys.executable, "-c", KILLER, str(path)]
    if moment == "step:141":
        world = World(6, 8, 6, 6).records()
        kept = len(world["train_retain"]) / (len(world["train_retain"]) + len(world["train_forget"]))
        moment = f"step:{60 + round(60 * kept) + 12 + 7}"
    killed = subprocess.run(words, env={**os.environ, "KILL_AT": moment}, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    assert not (tmp_path / "run" / "scorecard.json").exists()
    again = subprocess.run(words, env={**os.environ, "KILL_AT": "never:0"}, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr[-2000:]
    ours = load_file(tmp_path / "run" / "model" / "model.safetensors")
    undisturbed = load_file(finished / "run" / "model" / "model.safetensors")
    assert all((ours[name] == undisturbed[name]).all() for name in undisturbed)
    ends = [json.loads((f / "run" / "scorecard.json").read_text())["findings"] for f in (tmp_path, finished)]
    assert ends[0] == ends[1]


def test_two_processes_cannot_share_a_run_folder(finished: Path) -> None:
    with lock_folder(finished / "run"), pytest.raises(InputError, match="another expunge process"):
        execute(Recipe.load(finished / "recipe.yaml"))


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_unlearn_and_audit_of_ones_own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The two calls of the README, on the embedded model, with records of our own."""
    monkeypatch.setenv("EXPUNGE_CACHE", str(tmp_path / "cache"))
    records = World().records()
    files = {}
    for name in ("train_forget", "retain", "holdout"):
        rows = [{"question": r.question, "answer": r.answer, "cluster": r.cluster} for r in records[name][:48]]
        files[name] = write(tmp_path / f"{name}.jsonl", rows)
    result = api.unlearn(
        "testbed",
        files["train_forget"],
        files["retain"],
        out=tmp_path / "mine",
        train={"steps": 20, "batch_size": 16, "lr": 3e-4},
        hyper={"retain_weight": 5.0},
    )
    assert (result.model / "model.safetensors").is_file()
    card = api.audit(
        str(result.model),
        files["train_forget"],
        files["retain"],
        files["holdout"],
        target="testbed",
        control=True,
        train={"steps": 20, "batch_size": 16, "lr": 1e-3},
        out=tmp_path / "audit",
        attacks=["quantise"],
    )
    assert card.value("accuracy", "forget", "target") == 1.0
    refused = card.value("accuracy", "forget", "control")
    assert refused is not None
    assert refused < 0.9  # made from the target on the spot
    unlearned = card.value("accuracy", "forget", "unlearned")
    assert unlearned is not None
    assert unlearned < 0.9
    assert card.verdicts["unlearned"].verdict == "inconclusive"  # no gold model was given
    assert "No gold model" in missing_evidence(card)[0].what
    with pytest.raises(InputError, match="'retain' is missing"):
        api.audit(str(result.model), files["train_forget"], target="testbed", control=True, out=tmp_path / "no")


def test_bad_input_comes_before_anything_is_written(tmp_path: Path) -> None:
    forget = write(tmp_path / "f.jsonl", [{"question": "q", "answer": "a"}])
    with pytest.raises(InputError, match="share 1 records"):
        api.unlearn("testbed", forget, forget, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
