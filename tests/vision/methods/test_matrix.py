"""The matrix: every vision method of the catalog under the same contracts. A new file inherits them all."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from expunge import catalog
from expunge.engine.checkpoint import Checkpoints
from expunge.engine.loop import Observers
from expunge.engine.method import Edit, Method, Trained
from expunge.engine.training import Training
from expunge.errors import InputError
from expunge.vision.data import concatenate
from expunge.vision.subject import Subject, load_subject
from expunge.vision.unlearn import UnlearnJob, unlearn
from tiny_faces import splits, trained, untrained
from tiny_vision import STEPS, apart, changed, forget_loss, job_of, state, without_norms

LISTED = [entry.name for entry in catalog.entries("method", "vision")]
WHOLE_CLASSES = {"head-mask"}  # cannot forget people at all; has a file of its own
NAMES = [name for name in LISTED if name not in WHOLE_CLASSES]
SMALL: dict[str, dict[str, Any]] = {  # settings for people instead of classes, and for a handful of images
    "unsir": {"instance": True, "noise_steps": 1, "impair_epochs": 1},
    "sisa": {"shards": 2, "slices": 2, "epochs": 1},
    "influence": {"samples": 20, "alpha": 5.0},
    "fisher": {"alpha": 1e-5},
    "ssd": {"alpha": 2.0},
}
ANOTHER_KIND = {"sisa"}  # returns a network of another kind
RETAIN_ONLY = {"fine-tune", "cf-k", "l1-sparse"}  # promise only that they never see D_f
FORGET_ONLY = {"ga", "boundary-shrink", "boundary-expand", "pseudo-label"}
STATISTICS_REST = {"fisher", "influence", "ssd"}
NOT_DIVIDED = {"contrastive-unlearning", "spkd"}
STRONGER = replace(STEPS, steps=20, lr=5e-3)


def make(name: str, **changes: Any) -> Method:
    method: Method = catalog.find("method", name, "vision").load()(**{**SMALL.get(name, {}), **changes})
    return method


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def run(name: str, training: Training = STEPS, **changes: Any) -> Subject:
    return unlearn(make(name), job_of(training, **changes))


@cache
def done(name: str) -> Subject:
    """The method after five steps; not to be changed."""
    return run(name)


def test_the_catalog_lists_every_method_file() -> None:
    folder = Path(catalog.__file__).parent / "vision" / "methods"
    files = {p.stem.replace("_", "-") for p in folder.glob("*.py") if not p.name.startswith("_")}
    assert set(LISTED) == files
    assert set(LISTED) >= WHOLE_CLASSES
    assert catalog.catalog().problems == ()


def test_every_setting_says_where_its_default_comes_from(name: str) -> None:
    entry = catalog.find("method", name, "vision")
    assert [f.name for f in entry.fields if "Source: " not in f.doc] == []
    assert entry.intention == "removal"


def test_moves_only_what_it_declares(name: str) -> None:
    """Parameters move, running statistics only where the method says so; flags are put back, no gradient is left."""
    job = job_of()
    before, method = state(job.subject.model), make(name)
    flags = {n: p.requires_grad for n, p in job.subject.model.named_parameters()}
    pixels = [splits()[s].pixels(torch.arange(3)) for s in ("forget", "retain")]
    subject = unlearn(method, job)
    assert all(p.grad is None for p in subject.model.parameters())
    again = [splits()[s].pixels(torch.arange(3)) for s in ("forget", "retain")]
    assert all(map(torch.equal, pixels, again))
    if name in ANOTHER_KIND:
        assert not changed(before, state(job.subject.model))
        return
    assert flags == {n: p.requires_grad for n, p in subject.model.named_parameters()}
    moved = changed(before, state(subject.model))
    parameters = {n for n, _ in subject.model.named_parameters()}
    assert moved & parameters
    assert bool(moved - parameters) == (name not in STATISTICS_REST)
    if "freeze_norms" in {f.name for f in fields(method)}:  # type: ignore[arg-type]
        still = unlearn(make(name, freeze_norms=True), job_of())
        assert changed(before, state(still.model)) <= parameters


def test_lowers_the_forget_signal(name: str) -> None:
    """The task loss on the forgotten images rises, by more than where they are only left out."""
    subject = run(name, STRONGER)
    rise = forget_loss(subject) - forget_loss(trained())
    if name in RETAIN_ONLY:
        method = make(name)
        assert not (isinstance(method, Trained) and method.has_forget)
        unseen = job_of(STRONGER, forget=splits()["forget"].take([0]))
        assert not changed(state(unlearn(method, unseen).model), state(subject.model))
        return
    assert rise > 0.1


def test_deterministic_under_a_seed(name: str) -> None:
    first, again, other = (state(s.model) for s in (done(name), run(name), run(name, seed=4)))
    assert not changed(first, again)
    assert changed(first, other)


def test_saved_and_loaded_it_answers_the_same(name: str, tmp_path: Path) -> None:
    subject = done(name)
    subject.save(tmp_path / "model", "# card\n")
    loaded = load_subject(str(tmp_path / "model"))
    assert not changed(state(subject.model), state(loaded.model))
    assert torch.equal(subject.outputs(splits()["test"])[0], loaded.outputs(splits()["test"])[0])
    assert subject.outputs(splits()["test"])[0].shape[1] == trained().classes


def test_an_empty_forget_set_and_an_overlap_are_refused(name: str) -> None:
    found = splits()
    with pytest.raises(InputError, match="forget set is empty"):
        run(name, forget=found["forget"].take([]))
    both = concatenate([found["retain"], found["forget"].take([4])])
    with pytest.raises(InputError, match="person 1, picture 5 is in the forget set and in the retain set"):
        run(name, retain=both)


def test_without_retained_images_it_says_so_or_does_without(name: str) -> None:
    none = splits()["retain"].take([])
    if name in FORGET_ONLY:
        assert changed(state(trained().model), state(run(name, retain=none).model))
        return
    with pytest.raises(InputError, match="needs retain images and there are none"):
        run(name, retain=none)


def test_divided_steps_are_whole_ones(name: str) -> None:
    """Steps of 8 as 3 + 3 + 2, on a network where an image's output does not depend on the others."""
    sgd = replace(STEPS, optimizer="sgd", lr=0.05)
    ends = []
    for micro in (None, 3):
        training = replace(sgd, micro_batch=micro)
        changes = {"subject": without_norms(), "base": without_norms, "base_training": training}
        if micro and name in NOT_DIVIDED:
            with pytest.raises(InputError, match="compares the images of a batch"):
                run(name, training, **changes)
            return
        ends.append(state(run(name, training, **changes).model))
    assert apart(*ends) < 1e-5


def test_an_interrupted_run_ends_bit_for_bit_like_one_that_was_not(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Checkpoints, "due", lambda self: self.folder is not None)

    class KilledError(Exception):
        pass

    def kill(step: int, total: int, terms: dict[str, float]) -> None:
        if step == 4:
            raise KilledError

    with suppress(KilledError):
        run(name, folder=tmp_path, observers=Observers(progress=kill))
        assert isinstance(make(name), Edit)  # one that takes no step cannot be interrupted in one
    job = job_of(folder=tmp_path)
    resumed = unlearn(make(name), job)
    assert not changed(state(resumed.model), state(done(name).model))
    checkpointed = [log for log in job.logs if len(log.steps) >= 4]
    assert name in ANOTHER_KIND or not checkpointed or any(log.resumed_at for log in job.logs)


def test_no_step_is_the_target() -> None:
    """With nothing to do, trained methods return theta_0 bit for bit (those that start anew aside)."""
    none = replace(STEPS, steps=0)
    for name in NAMES:
        if name in {"retrain", "eu-k", "unsir", *ANOTHER_KIND, *STATISTICS_REST}:
            continue
        job = UnlearnJob(trained(), splits()["forget"], splits()["retain"], none, base=untrained)
        assert not changed(state(unlearn(make(name), job).model), state(trained().model)), name
