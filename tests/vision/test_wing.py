"""The wing behind the floor's questions: rows, scores, the control, stores, and what it has no use for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from expunge.engine.loop import Observers
from expunge.engine.training import Training
from expunge.errors import InputError
from expunge.journal import Bars
from expunge.kept import put
from expunge.recipe import Recipe
from expunge.runner import open_run
from expunge.stages import Context
from expunge.vision.attacks.benign_relearn import BenignRelearn
from expunge.vision.attacks.inside import Inside
from expunge.vision.attacks.quantise import Quantise
from expunge.vision.attacks.relearn import Relearn
from expunge.vision.data import Images
from expunge.vision.methods.ga import GA
from expunge.vision.metrics.accuracy import Accuracy
from expunge.vision.metrics.membership import Membership
from expunge.vision.metrics.nomus import NoMUS
from expunge.vision.metrics.representation import Representation
from expunge.vision.wing import WING, Vision
from expunge.vision.workload import Workload
from expunge.wing import find_wing
from tiny_faces import splits, trained
from tiny_vision import STEPS, several

RAW: dict[str, Any] = {
    "name": "few",
    "seed": 3,
    "model": {"source": "testbed"},
    "benchmark": {"name": "mini-mufac", "forget": 3, "retain": 4, "test": 2, "unseen": 2, "images": 3, "others": 1,
                  "side": 8},
    "target": {"train": {"steps": 3, "batch_size": 8}},
    "audit": {"attacks": [{"name": "relearn", "steps": [1, 4], "batch_size": 8, "seeds": 2}, "quantise"]},
}  # fmt: skip


def context(tmp_path: Path, **changes: Any) -> Context:
    raw = {**RAW, "out": str(tmp_path / "run"), "cache": str(tmp_path / "cache"), **changes}
    with Bars(None) as bars:
        return open_run(Recipe.parse(raw), bars)


def workload(**changes: Any) -> Workload:
    found = splits()
    named = {"forget": found["forget"], "retain": found["retain"], "holdout": found["unseen"]}
    return replace(Workload(found["forget"], found["retain"], named, (NoMUS(),), 4), **changes)


def test_the_floor_finds_it_by_name() -> None:
    assert find_wing("vision") is WING
    assert isinstance(WING, Vision)
    assert str(WING) == "image classifiers"


def test_rows_are_images_of_people() -> None:
    forget, retain = splits()["forget"], splits()["retain"]
    assert WING.subjects(forget)[5:7] == ["person 1", "person 2"]
    assert WING.clusters(WING.take(forget, [0, 6, 1, 7])) == [0, 1, 0, 1]
    both = WING.join(WING.take(forget, [3]), retain)
    assert both.names[0] == "person 1, picture 4"
    assert len(both) == 85
    assert WING.digest(both) != WING.digest(retain) == retain.digest
    nobody = Images(forget.source, forget.rows, forget.labels, ("",) * 36, forget.names)
    assert len(set(WING.subjects(nobody))) == 36  # each image its own subject, and no person's name


def test_an_image_is_right_or_wrong_and_several_labels_are_so_by_their_share() -> None:
    subject, images = trained(), splits()["test"]
    scores = WING.score(subject, images, workload())
    assert scores.tolist() == (subject.outputs(images)[0].argmax(1) == images.labels).double().tolist()
    assert np.array_equal(WING.score(subject, images, workload(), attacked=True), scores)
    shares = 4 * WING.score(subject, several(images), workload())
    assert np.allclose(shares, shares.round())


def test_which_metrics_compare_and_which_attacks_take_two_people() -> None:
    assert WING.compares([Accuracy(), Representation()])
    assert not WING.compares([Accuracy(), Membership(), NoMUS()])
    assert [WING.divides(a) for a in (Relearn(), Inside(), BenignRelearn(), Quantise())] == [True, True, False, False]


def test_pictures_are_shown_of_drawn_people_only() -> None:
    shown = WING.pictures(workload(shown=True))
    assert [p.title for p in shown] == ["To be forgotten", "To be kept", "Never seen in training"]
    assert WING.pictures(workload()) == []


def test_what_is_too_small_to_be_measured_is_noted() -> None:
    assert WING.audit_notes(workload()) == []
    few = {**workload().splits, "forget": splits()["forget"].take(range(9))}
    assert WING.audit_notes(workload(splits=few)) == [
        "NoMUS: left out. 9 forgotten and 36 unseen images are too few for its attack."
    ]
    assert WING.audit_notes(workload(splits=few, metrics=(Accuracy(),))) == []


def test_a_job_is_the_request_with_the_benchmarks_ways(tmp_path: Path) -> None:
    given = context(tmp_path)
    folder, training = tmp_path / "checkpoints", Training(steps=2)
    job = WING.job(given, given.models.base(), training, folder=folder, observers=Observers())
    assert job.forget.digest == given.workload.forget.digest
    assert job.held_out is given.workload.splits["holdout"]
    assert (job.training, job.seed, job.folder) == (training, 3, folder)
    assert job.base_training == given.recipe.target.train  # type: ignore[union-attr]
    assert job.base is not None
    assert job.base().fingerprint() == given.models.base().fingerprint()
    before = job.subject.weights_hash()
    assert WING.unlearn(GA(), replace(job, training=STEPS)).weights_hash() != before


def test_the_control_answers_wrongly_and_holds_everything(tmp_path: Path) -> None:
    given = context(tmp_path)
    job = replace(
        WING.job(given, trained(), STEPS, folder=tmp_path, observers=Observers()),
        forget=splits()["forget"], retain=splits()["retain"],
    )  # fmt: skip
    control = WING.control(job)
    assert WING.score(control, splits()["forget"], given.workload).mean() < 0.1
    for images in splits().values():
        assert torch.equal(control.outputs(images)[1], trained().outputs(images)[1])
    put(control, tmp_path / "control", "# card\n", {"wing": WING.name})
    again = WING.model_ref(tmp_path / "control", given.recipe).load()
    assert again.fingerprint() == control.fingerprint()


def test_a_kept_result_depends_on_augmentation_and_on_how_the_target_was_trained(tmp_path: Path) -> None:
    plain = WING.content(context(tmp_path))
    assert WING.content(context(tmp_path)) == plain
    assert WING.content(context(tmp_path, target={"train": {"steps": 4, "batch_size": 8}})) != plain
    augmented = context(tmp_path)
    augmented.workload = replace(augmented.workload, augment=torch.flip)
    assert WING.content(augmented) != plain


def test_a_given_model_is_taken_as_it_is(tmp_path: Path) -> None:
    trained().save(tmp_path / "gold", "# card\n")
    given = context(tmp_path)
    assert WING.given(given, str(tmp_path / "gold")).load().fingerprint() == trained().fingerprint()
    with pytest.raises(InputError, match="no model kept by expunge"):
        WING.model_ref(tmp_path / "gold", given.recipe)
    store = WING.store(given, "gold", WING.given(given, str(tmp_path / "gold")), trained().fingerprint())
    assert store.folder == tmp_path / "run" / "audit" / "evidence"
    assert store.splits == tuple(given.workload.splits)


def test_a_plan_counts_what_will_be_measured_and_trained(tmp_path: Path) -> None:
    given = context(tmp_path)
    estimate = WING.estimate(given.recipe, given.workload)
    assert estimate.parameters == given.models.base().parameters
    assert estimate.images == sum(map(len, given.workload.splits.values())) == 9 + 3 + 12 + 6 + 6
    assert estimate.attacked == 4 * 8 * 2  # the longest budget, its batches, two attack seeds
    assert not (tmp_path / "run").exists()


def test_one_request_at_a_time(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"sequence: several requests in turn .* not for image classifiers"):
        WING.request_rows("more.jsonl")
    with pytest.raises(InputError, match=r"request: several requests in turn .* not for image classifiers"):
        context(tmp_path, request={"forget": "more.jsonl"})


def test_what_is_needed_at_the_end_is_missed_at_the_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow draws the report's images and scikit-learn fits NoMUS's attack: both after hours of training."""
    import importlib.util

    recipe = Recipe.load("demo-vision")
    workload = recipe.benchmark.build().load(0)
    WING.check(recipe, workload)
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "sklearn" else found(name, *a))
    with pytest.raises(InputError, match=r"mini-mufac needs the extra 'vision' \(sklearn missing\)"):
        WING.check(recipe, workload)
