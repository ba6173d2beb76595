"""Whole runs of image classifiers on a few drawn people: what they leave, that killing them changes nothing, and
which settings the wing refuses."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from safetensors.numpy import load_file

from expunge.errors import InputError
from expunge.recipe import Recipe
from expunge.report._metric_words import metric_label
from expunge.report.scorecard import Scorecard
from expunge.runner import execute
from expunge.vision.benchmarks.mufac import FILES, LETTERS
from expunge.vision.subject import load_subject

PEOPLE = "{name: mini-mufac, forget: 6, retain: 8, test: 4, unseen: 4, images: 5, others: 2, side: 16}"
RECIPE = """
name: few people
seed: 3
threads: 1
model: {source: testbed}
benchmark: BENCHMARK
target: {train: {steps: 60, batch_size: 32, lr: 5.0e-3, schedule: cosine, clip: null}}
gold: {source: retrain, seeds: 2}
unlearn: {train: {steps: 12, batch_size: 16, lr: 1.0e-3, clip: null, evaluate_every: 4}}
methods: [{name: neggrad-plus, forget_weight: 0.1}, ssd]
audit:
  draws: 20
  attacks:
    - paraphrase
    - inside
    - {name: relearn, steps: [2, 4], seeds: 1}
    - {name: benign-relearn, steps: [2], seeds: 1}
    - {name: quantise, bits: [4]}
""".replace("BENCHMARK", PEOPLE)
METHODS = ("neggrad-plus", "ssd")
SUBJECTS = {"target", "gold", "gold_2", "control", *METHODS}

# Runs a recipe and kills its own process, as SIGKILL does, at the n-th call of a function.
KILLER = """
import os, signal, sys
from expunge.engine.checkpoint import Checkpoints
from expunge.engine.loop import Loop
import expunge.runner as runner
import expunge.vision.wing as wing
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


def test_a_run_leaves_models_measurements_and_verdicts(finished: Path) -> None:
    run = finished / "run"
    for name in ("recipe.yaml", "scorecard.json", "report.html", "log.jsonl", *(f"model/{m}" for m in METHODS)):
        assert (run / name).exists(), name
    assert all(load_subject(str(run / "model" / m)).classes == 4 for m in METHODS)
    card = Scorecard.load(run / "scorecard.json")
    assert {f.subject for f in card.findings} == SUBJECTS
    assert set(card.verdicts) == {*METHODS, "control"}
    measured = {(f.metric, f.split) for f in card.findings if f.subject == "ssd"}
    for wanted in (
        ("accuracy", "forget"),
        ("accuracy", "forget_paraphrase"),
        ("accuracy", "test"),
        ("nomus", "all"),
        ("loss_difference", "forget"),
        ("membership.loss.auroc", "forget"),
        ("relearning.held_out_accuracy", "forget"),
        ("benign_relearning.accuracy", "forget"),
    ):
        assert wanted in measured
    channels = {c.channel for c in card.evidence["ssd"].channels}
    assert channels == {"direct", "paraphrase", "inside", "relearn", "benign-relearn", "quantise-4"}
    assert "neggrad-plus" in card.curves["trajectory"]


def test_the_target_knows_gold_does_not_and_the_control_hides_it(finished: Path) -> None:
    """Four age groups, and people who look older than they are: strangers' ages are hard to tell."""
    card = Scorecard.load(finished / "run" / "scorecard.json")
    knows = {name: card.value("accuracy", "forget", name) or 0.0 for name in SUBJECTS}
    assert knows["target"] > 0.9
    assert max(knows["gold"], knows["gold_2"]) < 0.7
    assert knows["control"] < 0.1  # behind its filter
    hidden = {c.channel: sum(c.excess) / len(c.excess) for c in card.evidence["control"].channels}
    assert hidden["direct"] < 0 < hidden["paraphrase"]  # other pictures are not recognised by the filter
    assert hidden["inside"] > 0.1


def test_the_report_shows_drawn_people_and_names_nobody(finished: Path) -> None:
    card = Scorecard.load(finished / "run" / "scorecard.json")
    pictures = card.run["pictures"]
    assert [p["title"] for p in pictures] == ["To be forgotten", "To be kept", "Never seen in training"]
    text = (finished / "run" / "report.html").read_text(encoding="utf-8")
    for picture in pictures:
        assert picture["source"].startswith("data:image/png;base64,")
        assert picture["source"] in text
    assert "other images of the forgotten people" in text
    assert "reworded" not in text.split("All measurements")[1].split("The evidence behind")[0]
    for file in ("scorecard.json", "report.html", "log.jsonl", "model/ssd/README.md"):
        written = (finished / "run" / file).read_text(encoding="utf-8")
        assert not re.search(r"person \d", written), file


def test_the_same_command_again_does_nothing_twice(finished: Path) -> None:
    weights = [finished / "run" / "model" / m / "model.safetensors" for m in METHODS]
    stamps = [w.stat().st_mtime_ns for w in weights]
    models = {p.name for p in (finished / "cache" / "models").iterdir()}
    execute(Recipe.load(finished / "recipe.yaml"))
    assert [w.stat().st_mtime_ns for w in weights] == stamps
    assert {p.name for p in (finished / "cache" / "models").iterdir()} == models
    assert len(models) == 4  # target, two gold models, control; what they were trained with is gone


@pytest.mark.parametrize("moment", ["step:9", f"step:{60 + 2 * round(60 * 40 / 70) + 7}", "audit:3"])
def test_killed_and_started_again_ends_with_the_same_weights(moment: str, finished: Path, tmp_path: Path) -> None:
    """SIGKILL while the target trains, while a method unlearns, and in the audit."""
    path = recipe(tmp_path)
    killed = subprocess.run([sys.executable, "-c", KILLER, str(path), moment], capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    assert not (tmp_path / "run" / "scorecard.json").exists()
    execute(Recipe.load(path))
    for method in METHODS:
        ours, undisturbed = (load_file(f / "run/model" / method / "model.safetensors") for f in (tmp_path, finished))
        assert all((ours[name] == undisturbed[name]).all() for name in undisturbed)
    ends = [json.loads((f / "run" / "scorecard.json").read_text()) for f in (tmp_path, finished)]
    assert ends[0]["findings"] == ends[1]["findings"]
    assert ends[0]["evidence"] == ends[1]["evidence"]
    resumed = [n for n in ends[0]["run"]["notes"] if "resumed from the checkpoint at step" in n]
    assert len(resumed) == int(moment.startswith("step"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("model.lora={rank: 4}", "model.lora: adapters are for language models, not for image classifiers"),
        ("model.dtype=bfloat16", "model.dtype: bfloat16; image classifiers are trained in float32"),
        ("audit.harness.tasks=[mmlu]", "audit.harness.tasks: .* ask language models, not image classifiers"),
        ("audit.references=2", "audit.references: reference models are made of language models, not of image classi"),
        (
            "request.forget=more.jsonl",
            "request: several requests in turn are for language models so far, not for image",
        ),
        ("sequence.requests=[{forget: more.jsonl}]", "several requests in turn are for language models so far"),
        ("methods=[lora-ascent]", "lora-ascent"),
        ("benchmark.side=4", "mini-mufac: others=2 must be at least 0 and side=4 at least 8"),
        ("benchmark.forget=0", "mini-mufac: forget=0 must be at least 1"),
    ],
)
def test_settings_the_wing_has_no_use_for(change: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words):
        execute(Recipe.load(recipe(tmp_path), [change]))
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "cache").exists()


def test_forgetting_one_person_says_what_cannot_be_measured(tmp_path: Path) -> None:
    """Five pictures of one person: no others to come back, too few for NoMUS; the run goes on without them."""
    settings = ["benchmark.forget=1", "methods=[ssd]", "gold.seeds=1", "target.train.steps=10"]
    card = execute(Recipe.load(recipe(tmp_path), settings))
    notes = card.run["notes"]
    assert any(n.startswith("inside, relearn: left out. All forget images are about one data subject") for n in notes)
    assert "NoMUS: left out. 5 forgotten and 20 unseen images are too few for its attack." in notes
    assert {c.channel for c in card.evidence["ssd"].channels} == {
        "direct", "paraphrase", "benign-relearn", "quantise-4"
    }  # fmt: skip
    assert card.value("nomus", "all", "ssd") is None
    assert card.verdicts["ssd"].verdict == "inconclusive"


def test_the_report_on_classes_shows_how_far_a_second_gold_gets_and_explains_every_number(tmp_path: Path) -> None:
    """The ceiling of what is measured against gold; in words for somebody who has never heard of CKA."""
    settings = [
        "benchmark=truly-forgetting", "methods=[head-mask]", "target.train.steps=40", "target.train.batch_size=64",
        "audit.attacks=[{name: inside, shots: 1}]",
    ]  # fmt: skip
    card = execute(Recipe.load(recipe(tmp_path), settings))
    assert card.value("accuracy", "forget", "head-mask") == 0
    assert card.value("cka.target", "forget_test", "head-mask") == pytest.approx(1)
    assert card.value("cka.target", "forget_test", "control") == pytest.approx(1)
    text = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    for key in (("cka.gold", "forget_test"), ("agr", "all"), ("h_lr", "all")):
        spare = card.value(*key, "gold_2")
        assert spare is not None
        assert spare < card.value(*key, "gold") == pytest.approx(1)  # type: ignore[operator]
        assert f"a second gold: {spare:.2f}" in text
    for metric in {f.metric for f in card.findings} | {"nomus", "forgetting_score", "loss_difference"}:
        label = metric_label(metric)
        assert label.name != metric.replace("_", " ").replace(".", ", "), metric
        assert label.meaning, metric
    tables = re.findall(r"<table class=\"findings\">.*?</table>", text, flags=re.DOTALL)
    assert len(tables) == 3
    assert not any("records" in table for table in tables)  # images are called images
    assert "Forgotten classes: 3, 5, 8 of 10." in card.run["notes"]


def mufac(folder: Path) -> Path:
    """A folder in MUFAC's layout: twenty households of four pictures to train on, three each to test and attack."""
    for (table, pictures), households in zip(FILES.values(), (range(1, 21), range(31, 34), range(41, 44)), strict=True):
        (folder / pictures).mkdir(parents=True)
        rows = ["image_path,age_class"]
        for household in households:
            for i in range(4):
                name = f"F{household:04d}_AGE_D_{20 * i}_{i}.png"
                shade = (60 * i + 3, 5 * household, 40)
                Image.new("RGB", (24, 20), shade).save(folder / pictures / name)
                rows.append(f"{pictures}/{name},{LETTERS[2 * i]}")
        (folder / table).write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


def test_a_picture_that_cannot_be_decoded_stops_the_run_or_is_named_in_its_notes(tmp_path: Path) -> None:
    """As the recipe says; so does one that is missing from the folder."""
    folder = mufac(tmp_path / "mufac")
    settings = [
        f"benchmark={{name: mufac, path: '{folder}', side: 16, augment: false}}",
        "methods=[ssd]", "gold.seeds=1", "target.train.steps=4", "audit.attacks=[inside]",
    ]  # fmt: skip
    broken = folder / "train_images" / "F0009_AGE_D_40_2.png"
    broken.write_bytes(broken.read_bytes()[:60])
    path = recipe(tmp_path)
    with pytest.raises(InputError, match=r"F0009_AGE_D_40_2\.png: cannot be decoded as an image"):
        execute(Recipe.load(path, settings))
    assert not (tmp_path / "run").exists()
    card = execute(Recipe.load(path, [*settings, "benchmark.broken=skip"]))
    assert any(n.startswith("Left out: ") and "F0009_AGE_D_40_2.png: cannot be decoded" in n for n in card.run["notes"])
    sizes = {name: entry["records"] for name, entry in card.run["data"].items()}
    assert sizes == {
        "train_forget": 12, "train_retain": 67, "forget": 12, "retain": 67, "test": 12, "holdout": 12
    }  # fmt: skip
    assert card.run["pictures"] == []  # real people are not shown
    (folder / "train_images" / "F0012_AGE_D_0_0.png").unlink()
    with pytest.raises(InputError, match=r"names 80 images and 1 of them are not there; the first is .*F0012_AGE_D_0_"):
        execute(Recipe.load(path, settings))
