"""Whole runs on one another: what each starts from and sees, what it leaves, and that killing one changes nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.numpy import load_file

import expunge.language.wing as wing
import expunge.stages as stages
from expunge import api
from expunge.errors import InputError
from expunge.language.benchmarks import testbed
from expunge.language.data import Record, digest
from expunge.language.methods.npo import npo
from expunge.language.metrics.accuracy import Accuracy
from expunge.language.metrics.membership import Membership
from expunge.language.metrics.probability import Probability
from expunge.language.prepare import Models, model_ref
from expunge.language.score import score_answers
from expunge.language.unlearn import UnlearnJob
from expunge.recipe import Recipe
from expunge.report.scorecard import Scorecard
from expunge.runner import execute, opened
from expunge.sequence import continuation
from expunge.sequence_driver import execute_all, read_curves
from tiny_bed import WORLD, Bed
from tiny_chain import PEOPLE, keep_model, recipe, settle, write_rows

RECORDS = WORLD.records()
RELEARN = {"name": "relearn", "steps": [1], "seeds": 1}

KILLER = """
import os, signal, sys
from expunge.engine.checkpoint import Checkpoints
from expunge.engine.loop import Loop
import expunge.runner as runner
Checkpoints.due = lambda self: self.folder is not None
step, calls = Loop._step, 0
def deadly(self, number):
    global calls
    calls += 1
    if calls == int(os.environ["KILL_AT"]):
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, number)
Loop._step = deadly
from expunge.recipe import Recipe
runner.execute(Recipe.load(sys.argv[1]))
"""


def about(name: str) -> list[Record]:
    return [r for r in RECORDS["train_retain"] if r.cluster == name]


@pytest.fixture(scope="module", autouse=True)
def light() -> Iterator[None]:
    """Few metrics with few draws: these tests are about what is trained, and on what it is measured."""
    real = testbed.Testbed.load
    few = (
        Accuracy(splits=("forget", "retain")),
        Probability(splits=("forget", "retain"), options=()),
        Membership(detectors=("loss",), draws=10),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(testbed.Testbed, "load", lambda self, seed: replace(real(self, seed), metrics=few))
        yield


@pytest.fixture(scope="module")
def source(bed: Bed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bed's target as a model folder."""
    return keep_model(bed.target, tmp_path_factory.mktemp("source") / "target")


@pytest.fixture(scope="module")
def chain(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three requests in turn: the benchmark's four people, one by name, and the records of another one."""
    folder = tmp_path_factory.mktemp("chain")
    audit = {"control": False, "draws": 5, "attacks": [RELEARN]}
    execute(recipe(folder / "run", source, audit=audit))
    execute(continuation(folder / "run", write_rows(folder / "second.jsonl", [{"cluster": PEOPLE[0]}])))
    execute(continuation(folder / "run-2", write_rows(folder / "third.jsonl", about(PEOPLE[1]))))
    return folder


def card(run: Path) -> Scorecard:
    return Scorecard.load(run / "scorecard.json")


def findings(run: Path) -> Any:
    """As they are filed: there an undefined value equals itself."""
    return json.loads((run / "scorecard.json").read_text())["findings"]


def weights(run: Path) -> dict[str, Any]:
    return dict(load_file(run / "model" / "model.safetensors"))


def equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all((one[name] == other[name]).all() for name in one)


def first_loss(run: Path) -> float:
    """The forget term of the first step."""
    events = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return float(next(e["forget"] for e in events if e["event"] == "step" and e["step"] == 0))


# -- what a chain leaves ------------------------------------------------------------------------------


def test_earlier_people_are_still_measured(chain: Path) -> None:
    second, third = card(chain / "run-2"), card(chain / "run-3")
    assert second.run["data"]["forget_earlier"] == {"digest": digest(RECORDS["forget"]), "records": 96}
    assert third.run["data"]["forget_earlier"]["records"] == 96 + 24
    for metric in ("accuracy", "probability", "membership.loss.auroc"):
        assert second.value(metric, "forget_earlier", "npo") is not None
    assert second.value("accuracy", "forget_earlier", "target") == 1.0  # "before" is the target of the whole chain
    assert second.value("accuracy", "forget", "target") == 1.0


def test_what_is_asked_for_leaves_the_retain_set(chain: Path) -> None:
    kept = [card(chain / run).run["data"]["train_retain"]["records"] for run in ("run", "run-2", "run-3")]
    assert kept[0] == len(RECORDS["train_retain"])
    assert kept[1:] == [kept[0] - 24, kept[0] - 48]
    note = f"24 records of the retain set are to be forgotten now: they were taken out of it, and {kept[1]} stay."
    assert note in card(chain / "run-2").run["notes"]


def test_the_drift_is_what_the_runs_measured(chain: Path) -> None:
    cards = [card(chain / run) for run in ("run", "run-2", "run-3")]
    drift = cards[-1].curves["drift"]["npo"]
    assert (drift["request"], drift["records"]) == ([1, 2, 3], [96, 24, 24])
    assert drift["forget"] == [c.value("accuracy", "forget", "npo") for c in cards]
    assert drift["earlier"] == [None, *[c.value("accuracy", "forget_earlier", "npo") for c in cards[1:]]]
    assert drift["retain"] == [c.value("accuracy", "retain", "npo") for c in cards]
    assert drift["verdict"] == [c.verdicts["npo"].verdict for c in cards]
    assert "drift" not in cards[0].curves
    html = (chain / "run-3" / "report.html").read_text()
    assert "Drift over the requests" in html
    assert "Drift over the requests" not in (chain / "run" / "report.html").read_text()


def test_no_name_gets_into_what_a_run_publishes(chain: Path) -> None:
    for file in ("scorecard.json", "report.html", "log.jsonl", "chain.json", "model/README.md"):
        text = (chain / "run-3" / file).read_text(encoding="utf-8")
        assert not [name for name in PEOPLE if name in text], file


def test_relearning_is_left_out_for_one_data_subject(chain: Path) -> None:
    metric = "relearning.held_out_accuracy"
    assert card(chain / "run").value(metric, "forget", "npo") is not None
    assert card(chain / "run-2").value(metric, "forget", "npo") is None
    assert any(note.startswith("relearn: left out") for note in card(chain / "run-2").run["notes"])


def test_a_request_starts_from_the_result_of_the_one_before(chain: Path, source: Path, tmp_path: Path) -> None:
    """With a learning rate of next to 0 nothing moves: what comes out is what went in."""
    made = continuation(chain / "run", chain / "second.jsonl", tmp_path / "still", ["unlearn.train.lr=1e-30"])
    execute(made)
    assert equal(weights(tmp_path / "still"), weights(chain / "run"))
    execute(continuation(chain / "run", chain / "second.jsonl", tmp_path / "target",
                         ["unlearn.train.lr=1e-30", "request.start=target"]))  # fmt: skip
    assert equal(weights(tmp_path / "target"), dict(load_file(source / "model.safetensors")))
    assert not equal(weights(chain / "run"), weights(tmp_path / "target"))


def test_the_same_request_again_does_nothing(chain: Path) -> None:
    stamp = (chain / "run-2/model/model.safetensors").stat().st_mtime_ns
    link = (chain / "run-2/chain.json").read_bytes()
    execute(continuation(chain / "run", chain / "second.jsonl"))
    assert (chain / "run-2/model/model.safetensors").stat().st_mtime_ns == stamp
    assert (chain / "run-2/chain.json").read_bytes() == link


# -- the reference model ------------------------------------------------------------------------------


def sums(run: Path, records: list[Record]) -> torch.Tensor:
    """[n] S = -log p(answer | question) under a kept model."""
    scores = score_answers(model_ref(run).load(), records, [[r.answer] for r in records])
    sizes = [int(n) for n in scores.offsets[1:] - scores.offsets[:-1]]
    return torch.stack([-p.sum() for p in torch.tensor(scores.logprob, dtype=torch.float64).split(sizes)])


def test_npo_begins_at_its_reference(chain: Path, source: Path, tmp_path: Path) -> None:
    """The first batch holds all 24 records, so its NPO loss is their mean.

    Previous: S = S_ref, the loss is (2/beta) ln 2. Initial: S_ref is the target's, the loss is the mean of
    -(2/beta) log sigmoid(beta (S - S_ref)) with S of the result of request 1.
    """
    beta, records = 0.5, about(PEOPLE[0])
    assert first_loss(chain / "run-2") == pytest.approx(2 / beta * torch.tensor(2.0).log().item(), rel=1e-5)
    execute(continuation(chain / "run", chain / "second.jsonl", tmp_path / "run", ["unlearn.reference=initial"]))
    expected = npo(sums(chain / "run/model", records), sums(source, records), beta).mean().item()
    assert first_loss(tmp_path / "run") == pytest.approx(expected, rel=1e-4)
    assert abs(first_loss(tmp_path / "run") - first_loss(chain / "run-2")) > 1e-3
    assert not equal(weights(tmp_path / "run"), weights(chain / "run-2"))
    note = json.loads((tmp_path / "run/stages/unlearn-npo.json").read_text())
    assert note["result"]["logs"][0]["reference"] == "frozen-copy"


# -- resuming -----------------------------------------------------------------------------------------


def test_killed_in_the_second_request_and_started_again(chain: Path, tmp_path: Path) -> None:
    """SIGKILL at its third step of four; then the same command."""
    made = continuation(chain / "run", chain / "second.jsonl", tmp_path / "run")
    path = tmp_path / "recipe.yaml"
    path.write_text(made.to_yaml(), encoding="utf-8")
    words = [sys.executable, "-c", KILLER, str(path)]
    killed = subprocess.run(words, env={**os.environ, "KILL_AT": "3"}, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    assert not json.loads((tmp_path / "run/chain.json").read_text())["models"]
    with pytest.raises(InputError, match="is not finished"):
        continuation(tmp_path / "run", chain / "third.jsonl")
    execute(made)
    assert any("resumed from the checkpoint at step 2" in note for note in card(tmp_path / "run").run["notes"])
    assert equal(weights(tmp_path / "run"), weights(chain / "run-2"))
    assert findings(tmp_path / "run") == findings(chain / "run-2")
    ends = [json.loads((run / "chain.json").read_text()) for run in (tmp_path / "run", chain / "run-2")]
    assert ends[0] == ends[1]


def test_a_tampered_predecessor_is_refused_before_anything_is_written(chain: Path, tmp_path: Path) -> None:
    shutil.copytree(chain / "run", tmp_path / "run")
    made = continuation(tmp_path / "run", chain / "second.jsonl")
    model = tmp_path / "run/model/model.safetensors"
    raw = bytearray(model.read_bytes())
    raw[-1] ^= 1
    model.write_bytes(raw)
    with pytest.raises(InputError, match="the files are not those the run made"):
        execute(made)
    assert not (tmp_path / "run-2").exists()


# -- gold ---------------------------------------------------------------------------------------------


def test_target_and_gold_of_a_chain(bed: Bed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The target stays that of the first run; gold never sees a record of any request, and all others."""
    trained: dict[str, list[Record]] = {}
    real = Models.trained

    def spy(self: Models, records: list[Record], training: Any, seed: int, title: str) -> Any:
        trained[title] = records
        return real(self, records, training, seed, title)

    monkeypatch.setattr(Models, "trained", spy)
    base = keep_model(bed.base(), tmp_path / "base")
    quick: dict[str, Any] = {"target": {"train": {"steps": 2, "batch_size": 8}}, "gold": {"source": "retrain"}}
    execute(recipe(tmp_path / "run", base, **quick))
    target = trained["target model"]
    assert target == RECORDS["train_retain"] + RECORDS["train_forget"]
    execute(continuation(tmp_path / "run", write_rows(tmp_path / "f.jsonl", [{"cluster": PEOPLE[0]}])))
    assert trained["target model"] == target
    assert trained["gold model"] == [r for r in RECORDS["train_retain"] if r.cluster != PEOPLE[0]]


def test_a_fold_has_the_first_target_and_a_gold_model_of_its_own(tmp_path: Path, monkeypatch: Any) -> None:
    """Embedded models: the target is that of the first run's world, gold that of the world asked for now."""
    embedded = {"gold": {"source": "testbed:gold"}}
    settle(recipe(tmp_path / "run", "testbed", **embedded))
    made = continuation(tmp_path / "run", overrides=["benchmark.world_seed=1"])
    monkeypatch.setattr(Models, "delivered", lambda self: (self.spec.source, self.spec.world.seed))
    with opened(made, None, False) as context:
        assert stages.prepare(context) == {"target": ("testbed", 0), "gold": ("testbed:gold", 1)}
        assert "yardstick" not in " ".join(context.workload.notes)


def test_a_run_of_expunge_unlearn_can_be_continued(source: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("EXPUNGE_CACHE", str(tmp_path / "cache"))
    files = [write_rows(tmp_path / f"{n}.jsonl", RECORDS[n]) for n in ("forget", "retain")]
    train = {"steps": 2, "batch_size": 8, "lr": 1e-3}
    api.unlearn(str(source), *files, out=tmp_path / "mine", train=train)
    more = write_rows(tmp_path / "more.jsonl", [r for r in RECORDS["retain"] if r.cluster == PEOPLE[0]])
    execute(continuation(tmp_path / "mine", more, overrides=["audit.attacks=[]", "audit.draws=5"]))
    drift = card(tmp_path / "mine-2").curves["drift"]["npo"]
    assert drift["verdict"] == [None, "inconclusive"]  # the first was not audited
    assert drift["records"] == [96, 24]
    assert "not audited" in (tmp_path / "mine-2/report.html").read_text()


# -- sequences in one command -------------------------------------------------------------------------


class Seen:
    """Notes what each unlearning starts from and is given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.starts: list[str] = []
        self.results: list[str] = []
        self.forget: list[list[Record]] = []
        self.retain: list[list[Record]] = []
        real = wing.unlearn

        def spy(method: Any, job: UnlearnJob) -> Any:
            self.starts.append(job.subject.weights_hash())
            self.forget.append(job.forget)
            self.retain.append(job.retain)
            made = real(method, job)
            self.results.append(made.weights_hash())
            return made

        monkeypatch.setattr(wing, "unlearn", spy)


def sequence(folder: Path, source: Path, *, start: str = "previous", show: list[str] | None = None) -> Recipe:
    """The benchmark's four people, then one by name, then two; from the target only the first and the last."""
    files = [write_rows(folder / f"{i}.jsonl", [{"cluster": p} for p in PEOPLE[i : i + 1 + i]]) for i in (0, 1)]
    requests = [{}, *({"forget": str(file)} for file in (files if start == "previous" else files[1:]))]
    asked = {"requests": requests, "start": start, "show": show or ["probability@retain"]}
    return recipe(folder / "all", source, sequence=asked)


def test_requests_in_turn_each_see_their_own_records(
    bed: Bed, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = Seen(monkeypatch)
    made = sequence(tmp_path, source)
    cards = execute_all(made)
    people = [RECORDS["train_forget"], about(PEOPLE[0]), about(PEOPLE[1]) + about(PEOPLE[2])]
    assert seen.forget == people
    for i in range(3):
        gone = {r.question for rows in people[: i + 1] for r in rows}
        assert seen.retain[i] == [r for r in RECORDS["train_retain"] if r.question not in gone]
    assert seen.starts == [bed.target.weights_hash(), *seen.results[:2]]  # each from the result of the one before
    curve = read_curves(tmp_path / "all")["npo"]
    assert curve["records"] == [96, 24, 48]
    assert curve["more"]["probability@retain"] == [c.value("probability", "retain", "npo") for c in cards]
    assert (tmp_path / "all/report.html").is_file()

    again = execute_all(made)
    assert len(seen.starts) == 3  # nothing was done twice
    assert str([c.findings for c in again]) == str([c.findings for c in cards])
    with pytest.raises(InputError, match="Did you mean 'accuracy@forget'"):
        execute_all(sequence(tmp_path, source, show=["acuracy@forget"]))


def test_requests_from_the_target_do_not_know_of_each_other(
    bed: Bed, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = Seen(monkeypatch)
    execute(sequence(tmp_path, source, start="target"))
    assert seen.starts == [bed.target.weights_hash()] * 2
    assert [len(rows) for rows in seen.forget] == [96, 48]
    whole = len(RECORDS["train_retain"]) + 96
    assert [len(rows) for rows in seen.retain] == [whole - 96, whole - 48]
    curve = read_curves(tmp_path / "all")["npo"]
    assert (curve["by"], curve["earlier"]) == ("records", [None] * 2)
    assert "Over the size of the forget set" in (tmp_path / "all/report.html").read_text()


def test_a_sequence_that_asks_twice_for_the_same_is_refused(source: Path, tmp_path: Path) -> None:
    """Not by name (two files), but by content; on top of one another `resolve` refuses it anyway."""
    files = [str(write_rows(tmp_path / f"{i}.jsonl", [{"cluster": PEOPLE[0]}])) for i in (0, 1)]
    asked = {"requests": [{"forget": f} for f in files], "start": "target"}
    with pytest.raises(InputError, match=r"asks for the same records as sequence\.requests\.0"):
        execute_all(recipe(tmp_path / "all", source, sequence=asked))
    assert (tmp_path / "all/1/model").exists()
    assert not (tmp_path / "all/2/model").exists()


def test_a_missing_file_of_a_later_request_is_found_at_once(source: Path, tmp_path: Path) -> None:
    asked = {"requests": [{}, {"forget": str(tmp_path / "none.jsonl")}]}
    with pytest.raises(InputError, match=r"sequence.requests.1: .*none.jsonl: no such file"):
        execute_all(recipe(tmp_path / "all", source, sequence=asked))
    assert not (tmp_path / "all").exists()
