"""Whole runs of recommenders on a small drawn world: what they leave, that killing them changes nothing, and which
settings the wing refuses; and a run on a file of one's own."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.numpy import load_file

from expunge.errors import InputError
from expunge.recipe import Recipe
from expunge.recommend.benchmarks.recommend import Recommend
from expunge.recommend.ranking import places
from expunge.recommend.subject import load_subject
from expunge.report.missing import missing_evidence
from expunge.report.scorecard import Scorecard
from expunge.report.terminal import print_summary
from expunge.report.verdict import Tolerance, judge_model
from expunge.runner import execute
from recommend.tiny import world

TARGET = 100  # steps that the target trains
RECIPE = f"""
name: few users
seed: 3
threads: 1
model: {{source: testbed}}
benchmark: {{name: recommend, request: users, share: 0.1, d: 16, k: 10}}
target:
  train: {{steps: {TARGET}, batch_size: 512, lr: 2.0e-2, schedule: constant, warmup: 0.0, weight_decay: 0.0}}
gold: {{source: retrain, seeds: 2}}
unlearn:
  train: {{steps: 12, batch_size: 64, lr: 5.0e-3, schedule: constant, warmup: 0.0, evaluate_every: 4}}
methods: [drop-edges, row-reset, mmrecun]
audit:
  draws: 20
  attacks:
    - {{name: relearn, steps: [2, 4], seeds: 1}}
    - {{name: benign-relearn, steps: [2], seeds: 1}}
    - {{name: quantise, bits: [4]}}
"""
METHODS = ("drop-edges", "row-reset", "mmrecun")
SUBJECTS = {"target", "gold", "gold_2", "control", *METHODS}

# Runs a recipe and kills its own process, as SIGKILL does, at the n-th call of a function.
KILLER = """
import os, signal, sys
from expunge.engine.checkpoint import Checkpoints
from expunge.engine.loop import Loop
import expunge.runner as runner
import expunge.recommend.wing as wing
Checkpoints.due = lambda self: self.folder is not None
moment, number = sys.argv[2].split(":")
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
else:
    wing.audit_model = deadly(wing.audit_model)
from expunge.recipe import Recipe
runner.execute(Recipe.load(sys.argv[1]))
"""


def recipe(folder: Path, text: str = RECIPE) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text + f"out: {folder / 'run'}\ncache: {folder / 'cache'}\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run nobody disturbed."""
    folder = tmp_path_factory.mktemp("finished")
    execute(Recipe.load(recipe(folder)))
    return folder


def card_of(folder: Path) -> Scorecard:
    return Scorecard.load(folder / "run" / "scorecard.json")


def value(card: Scorecard, metric: str, split: str, name: str) -> float:
    found = card.value(metric, split, name)
    assert found is not None, (metric, split, name)
    return found


def test_a_run_leaves_models_measurements_and_verdicts(finished: Path) -> None:
    run = finished / "run"
    for name in ("recipe.yaml", "scorecard.json", "report.html", "log.jsonl", *(f"model/{m}" for m in METHODS)):
        assert (run / name).exists(), name
    work = Recommend(request="users", share=0.1, d=16, k=10).load(3)
    for method in METHODS:
        served = load_subject(str(run / "model" / method)).served
        assert torch.equal(served.keys().sort().values, work.retain.keys().sort().values)
    card = card_of(finished)
    assert {f.subject for f in card.findings} == SUBJECTS
    assert set(card.verdicts) == {*METHODS, "control"}
    measured = {(f.metric, f.split) for f in card.findings if f.subject == "row-reset"}
    for wanted in (
        ("recall_at_10", "forget"),
        ("recall_at_10", "test"),
        ("membership.non_interactions.auroc", "forget"),
        ("membership.holdout.auroc", "forget"),
        ("mi_bf", "forget"),
        ("mi_ng", "forget"),
        ("ks.gold", "forget"),
        ("overlap.gold", "retain"),
        ("relearning.held_out_accuracy", "forget"),
        ("benign_relearning.accuracy", "forget"),
    ):
        assert wanted in measured, wanted
    channels = {c.channel for c in card.evidence["row-reset"].channels}
    assert channels == {"direct", "relearn", "benign-relearn", "quantise-4"}
    assert "mmrecun" in card.curves["trajectory"]
    for name, verdict in card.verdicts.items():
        tolerance = Tolerance(delta=0.2, required=("relearn", "benign-relearn"))
        assert judge_model(card, name, tolerance).verdict == verdict.verdict


def test_the_target_knows_gold_does_not_and_the_control_hides_it(finished: Path) -> None:
    card = card_of(finished)
    recall = {name: value(card, "recall_at_10", "forget", name) for name in SUBJECTS}
    auc = {name: value(card, "membership.non_interactions.auroc", "forget", name) for name in SUBJECTS}
    assert recall["target"] > 0.3
    assert max(recall["gold"], recall["gold_2"]) < 0.15
    assert auc["target"] > 0.9
    assert all(0.35 < auc[name] < 0.65 for name in ("gold", "gold_2", "row-reset"))
    assert recall["control"] == recall["target"]  # its weights still rank them first
    weights = {name: load_file(_weights(finished, name))["table"] for name in ("target", "control")}
    assert (weights["control"] == weights["target"]).all()
    hidden = {c.channel: sum(c.excess) / len(c.excess) for c in card.evidence["control"].channels}
    assert hidden["direct"] < 0.05 < 0.2 < min(hidden["quantise-4"], hidden["relearn"], hidden["benign-relearn"])
    assert card.verdicts["control"].verdict not in ("consistent-with-removal", "nothing-to-forget")


def _weights(folder: Path, name: str) -> Path:
    """The kept model behind a subject, found by the title of its card."""
    title = {"target": "# target model", "control": "# positive control"}[name]
    cards = (folder / "cache" / "models").glob("*/README.md")
    return next(c for c in cards if c.read_text(encoding="utf-8").startswith(title)).parent / "model.safetensors"


def test_every_distance_to_gold_of_a_second_gold_is_reported_and_fresh_rows_stay_within_it(finished: Path) -> None:
    card = card_of(finished)
    for metric, split, nought in (("ks.gold", "forget", 0.0), ("overlap.gold", "retain", 1.0),
                                  ("parameter_distance.gold", "all", 0.0)):  # fmt: skip
        spare = value(card, metric, split, "gold_2")
        assert value(card, metric, split, "gold") == nought
        assert abs(spare - nought) > 0
    recall = {n: value(card, "recall_at_10", "forget", n) for n in ("gold", "gold_2", "row-reset", "drop-edges")}
    spread = max(abs(recall["gold_2"] - recall["gold"]), 0.02)
    assert abs(recall["row-reset"] - recall["gold"]) <= 3 * spread < recall["drop-edges"] - recall["gold"]


def test_the_summary_and_the_report_speak_of_interactions_and_name_nobody(finished: Path) -> None:
    card = card_of(finished)
    shown = io.StringIO()
    print_summary(card, Console(file=shown, width=100))
    lines = shown.getvalue().splitlines()
    for word in ("recall@10", "relearning", "AUROC", "MI-BF", "KS to"):
        assert any(word in line for line in lines[:3]), word
    assert "accuracy" not in "".join(lines[:3])
    names = {line.split()[0] for line in lines[2 : lines.index("")]}
    assert names == {"target", "gold", *METHODS}
    verdicts = [line.split()[2] for line in lines if line.split(":")[0] in METHODS]
    assert verdicts == [card.verdicts[name].verdict for name in METHODS]
    text = (finished / "run" / "report.html").read_text(encoding="utf-8")
    assert "forgotten interactions" in text
    assert "behind a list" in text
    assert "records" not in text.split("All measurements")[1].split("Does it come back")[0]
    forgotten = set(Recommend(request="users", share=0.1, d=16, k=10).load(3).forget.clusters)
    for file in ("scorecard.json", "report.html", "log.jsonl", "model/row-reset/README.md"):
        written = (finished / "run" / file).read_text(encoding="utf-8")
        assert not [name for name in forgotten if name in written], file


def test_the_same_command_again_does_nothing_twice(finished: Path) -> None:
    weights = [finished / "run" / "model" / m / "model.safetensors" for m in METHODS]
    stamps = [w.stat().st_mtime_ns for w in weights]
    models = {p.name for p in (finished / "cache" / "models").iterdir()}
    execute(Recipe.load(finished / "recipe.yaml"))
    assert [w.stat().st_mtime_ns for w in weights] == stamps
    assert {p.name for p in (finished / "cache" / "models").iterdir()} == models
    assert len(models) == 4  # target, two gold models, control; what they were trained with is gone


def gold_steps() -> int:
    work = Recommend(request="users", share=0.1).load(3)
    return round(TARGET * len(work.retain) / (len(work.retain) + len(work.forget)))


@pytest.mark.parametrize("moment", ["step:9", f"step:{TARGET + 2 * gold_steps() + 7}", "audit:3"])
def test_killed_and_started_again_ends_with_the_same_weights(moment: str, finished: Path, tmp_path: Path) -> None:
    """SIGKILL while the target trains, while a method unlearns, and in the audit."""
    path = recipe(tmp_path)
    killed = subprocess.run([sys.executable, "-c", KILLER, str(path), moment], capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    assert not (tmp_path / "run" / "scorecard.json").exists()
    execute(Recipe.load(path))
    for method in METHODS:
        for file in ("model.safetensors", "served.safetensors"):
            ours, undisturbed = (load_file(f / "run/model" / method / file) for f in (tmp_path, finished))
            assert ours.keys() == undisturbed.keys()
            assert all((ours[name] == undisturbed[name]).all() for name in undisturbed)
    ends = [json.loads((f / "run" / "scorecard.json").read_text()) for f in (tmp_path, finished)]
    assert ends[0]["findings"] == ends[1]["findings"]
    assert ends[0]["evidence"] == ends[1]["evidence"]
    resumed = [n for n in ends[0]["run"]["notes"] if "resumed from the checkpoint at step" in n]
    assert len(resumed) == int(moment.startswith("step"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("model.lora={rank: 4}", "model.lora: adapters are for language models, not for recommenders"),
        ("model.dtype=bfloat16", "model.dtype: bfloat16; recommenders are trained in float32"),
        ("audit.harness.tasks=[mmlu]", "audit.harness.tasks: .* ask language models, not recommenders"),
        ("audit.references=2", "audit.references: reference models are made of language models, not of recommenders"),
        ("request.forget=more.jsonl", "request: several requests in turn are for language models so far, not for rec"),
        ("sequence.requests=[{forget: more.jsonl}]", "several requests in turn are for language models so far"),
        ("methods=[lora-ascent]", "lora-ascent"),
        ("benchmark.who=[200]", "there is no user '200' among the 200. They are numbered 0 to 199"),
        ("benchmark.who=[7, 7]", "'7' is named twice"),
        ("benchmark.k=151", "k=151 recommendations of 150 items"),
        ("benchmark.data=missing.csv", "missing.csv: no such file"),
    ],
)
def test_settings_the_wing_has_no_use_for(change: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words) as caught:
        execute(Recipe.load(recipe(tmp_path), [change]))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "cache").exists()


def own_file(folder: Path, extra: str = "") -> Path:
    """The tiny world as somebody's own CSV file, with names."""
    rows = [f"visitor-{u},book-{i}" for u, i in world().all.pairs.tolist()]
    path = folder / "lent.csv"
    path.write_text("user_id,item_id\n" + "\n".join(rows) + "\n" + extra, encoding="utf-8")
    return path


def own_recipe(folder: Path) -> Path:
    text = RECIPE.replace(
        "request: users, share: 0.1, d: 16, k: 10",
        f"data: '{own_file(folder)}', request: users, who: [visitor-7], d: 8, k: 5, model: bpr-mf",
    )
    return recipe(folder, text.replace("methods: [drop-edges, row-reset, mmrecun]", "methods: [row-reset]"))


def test_a_file_of_ones_own_and_one_user_of_it_by_name(tmp_path: Path) -> None:
    card = execute(Recipe.load(own_recipe(tmp_path)))
    served = load_subject(str(tmp_path / "run" / "model")).served
    user = served.user_names.index("visitor-7")
    assert int(served.degrees[0][user]) == 0
    assert int((served.degrees[0] == 0).sum()) == 1
    assert (served.users, served.items) == (60, 40)  # ids stay
    notes = card.run["notes"]
    assert any("60 users, 40 items" in n for n in notes)
    assert any(n.startswith("relearn: left out. All forget interactions are about one data subject") for n in notes)
    assert card.verdicts["row-reset"].verdict == "inconclusive"  # one user: nobody else who could come back
    assert missing_evidence(card)
    assert "visitor-7" not in (tmp_path / "run" / "report.html").read_text(encoding="utf-8").split("recipe")[0]


def test_single_interactions_of_ones_own_file_by_name(tmp_path: Path) -> None:
    path = own_recipe(tmp_path)
    train = Recommend(str(tmp_path / "lent.csv")).network(0).served
    pairs = [train.pairs[row].tolist() for row in (3, 100)]
    names = [f"{train.user_names[u]}, {train.item_names[i]}" for u, i in pairs]
    changes = ["benchmark.request=edges", f"benchmark.who={json.dumps(names)}", "methods=[mmrecun]", "gold.seeds=1"]
    card = execute(Recipe.load(path, changes))
    served = load_subject(str(tmp_path / "run" / "model")).served
    assert not bool(served.contains(torch.tensor(pairs)).any())
    assert len(served) == len(train) - 2
    assert card.run["data"]["train_forget"]["records"] == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("benchmark.who=[visitor-70]", r"there is no user 'visitor-70' among the 60. Did you mean 'visitor-7'\?"),
        ("benchmark.who=[visitor-7, visitor-7]", "'visitor-7' is named twice"),
        ("benchmark.request=items", "there is no item 'visitor-7' among the 40"),
        ("benchmark.request=edges", "'visitor-7' is no interaction; write it as user,item"),
        ("benchmark.request=adversarial", "who names what was really taken, and request=adversarial plants its own"),
        ("benchmark.who=visitor-7", "who='visitor-7' must be a list"),
        ("benchmark.model=vbpr", "no features there"),
    ],
)
def test_requests_to_ones_own_file_that_cannot_be_carried_out(change: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words) as caught:
        execute(Recipe.load(own_recipe(tmp_path), [change]))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_an_interaction_listed_twice_stops_the_run_with_its_names(tmp_path: Path) -> None:
    path = own_recipe(tmp_path)
    first = (tmp_path / "lent.csv").read_text(encoding="utf-8").splitlines()[1]
    own_file(tmp_path, f"{first}\n")
    user, item = first.split(",")
    with pytest.raises(InputError, match=rf"lent\.csv: 1 interaction given more than once .*\({user}, {item}\)"):
        execute(Recipe.load(path))
    assert not (tmp_path / "run").exists()


def test_a_withdrawn_item_is_offered_to_nobody(tmp_path: Path) -> None:
    """Neither by what was trained without it nor by what has unlearned it; the weights still answer."""
    changes = ["benchmark.request=items", "methods=[drop-edges]", "gold.seeds=1", "target.train.steps=40"]
    execute(Recipe.load(recipe(tmp_path), changes))
    work = Recommend(request="items", share=0.1, d=16, k=10).load(3)
    gone = work.forget.pairs[:, 1].unique()
    unlearned = load_subject(str(tmp_path / "run" / "model"))
    kept = [load_subject(str(p)) for p in (tmp_path / "cache" / "models").iterdir()]
    offered = [s for s in kept if s.catalogue is not None]
    assert len(kept) == 3  # target, gold, control
    assert len(offered) == 1  # gold
    for subject in (unlearned, *offered):
        assert subject.catalogue is not None
        assert (~subject.catalogue).nonzero()[:, 0].tolist() == gone.tolist()
        assert bool((places(subject, work.forget, work.retain) == 150).all())
    assert not bool((places(unlearned, work.forget, work.retain, served=False) == 150).all())
