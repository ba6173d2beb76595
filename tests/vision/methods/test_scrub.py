"""SCRUB: the loss by hand, the order of the passes, the tie at the start, and rewinding."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from expunge.engine.checkpoint import Checkpoints
from expunge.engine.gradients import Turn
from expunge.engine.loop import Observers
from expunge.errors import InputError
from expunge.vision.forward import ImagePass
from expunge.vision.methods import scrub
from expunge.vision.methods.fine_tune import FineTune
from expunge.vision.methods.scrub import SCRUB, StudentTeacher, error
from expunge.vision.unlearn import UnlearnJob, unlearn
from tiny_faces import splits, trained
from tiny_vision import SGD, STEPS, Free, apart, changed, draw, job_of, several, state, step_of, without_norms

EPOCHS = replace(STEPS, steps=None, epochs=3, batch_size=12)
LOSS = StudentTeacher(2.0, 0.5, 0.9, False)


def test_the_losses_by_hand() -> None:
    """KL_T = T^2 KL(softmax(t / T) || softmax(s / T)), mean over the batch."""
    student, teacher, labels = draw(5, 4, seed=1), draw(5, 4, seed=2), torch.tensor([0, 1, 2, 3, 0])
    view = Free(student, labels, reference={"logits": teacher})
    kl = 4 * F.kl_div((student / 2).log_softmax(1), (teacher / 2).softmax(1), reduction="batchmean")
    torch.testing.assert_close(LOSS.forget_loss(step_of(forget=view)), -kl)
    expected = 0.9 * F.cross_entropy(student, labels) + 0.5 * kl
    torch.testing.assert_close(LOSS.retain_loss(step_of(retain=view)), expected)


def gradient_at_the_start(loss: StudentTeacher, model: nn.Module, labels: torch.Tensor) -> float:
    """Largest entry of the forget gradient where the student is the teacher."""
    pixels = splits()["forget"].pixels(torch.arange(36)).double()
    model = model.double().eval()
    model.zero_grad()
    view = ImagePass(model, pixels, labels, 36, Same(model(pixels).detach()))
    loss.forget_loss(step_of(forget=view)).backward()
    return max(float(p.grad.abs().max()) for p in model.parameters() if p.grad is not None)


class Same:
    def __init__(self, logits: torch.Tensor) -> None:
        self.logits = logits

    def signal(self, name: str) -> torch.Tensor:
        return self.logits


@pytest.mark.parametrize("several_labels", [False, True])
def test_the_first_step_away_from_the_teacher_has_no_gradient(several_labels: bool) -> None:
    """KL is at its minimum there; on the retained images the gradient is the task's."""
    loss = replace(LOSS, several=several_labels)
    assert gradient_at_the_start(loss, trained().model, splits()["forget"].labels) < 1e-12


def test_a_run_says_that_its_first_step_did_nothing() -> None:
    once = replace(EPOCHS, epochs=1, batch_size=36)
    job = job_of(replace(once, optimizer="sgd"))
    unlearn(SCRUB(max_epochs=1, freeze_norms=True), job)
    assert abs(job.logs[0].steps[0]["forget"]) < 1e-6
    assert any("did nothing" in note for note in job.logs[0].notes)
    job = job_of(once)  # batch statistics tell student from teacher
    unlearn(SCRUB(max_epochs=1), job)
    assert abs(job.logs[0].steps[0]["forget"]) > 1e-4
    assert job.logs[0].notes == []


def turns_run(method: SCRUB, **changes: object) -> str:
    job = job_of(replace(EPOCHS, **changes))  # type: ignore[arg-type]
    unlearn(method, job)
    return "".join("f" if "forget" in s else "r" for s in job.logs[0].steps)


def test_the_order_of_the_passes() -> None:
    """36 forgotten and 84 retained images; a run never ends on a pass over the forget set, but for MUFAC's."""
    f, r = "f" * 3, "r" * 7
    assert turns_run(SCRUB()) == (f + r) * 2 + r
    assert turns_run(SCRUB(max_epochs=1)) == f + r * 3
    assert turns_run(SCRUB(variant="mufac")) == (r + f) * 3
    assert turns_run(SCRUB(forget_batch=6, max_epochs=1), epochs=1) == "f" * 6 + r
    assert turns_run(SCRUB(), steps=5) == f + "rr"


def test_without_forget_passes_and_without_the_divergence_it_is_fine_tuning() -> None:
    for training in (EPOCHS, replace(SGD, steps=None, epochs=2, batch_size=12)):
        ends = [
            state(unlearn(method, job_of(training)).model)
            for method in (SCRUB(max_epochs=0, alpha=0.0, gamma=1.0), FineTune())
        ]
        assert not changed(*ends)


def test_mufacs_own_values() -> None:
    mufac = SCRUB(variant="mufac")
    assert [mufac._given(n) for n in ("temperature", "alpha", "gamma")] == [4.0, 1.0, 1.0]
    assert [SCRUB()._given(n) for n in ("temperature", "alpha", "gamma")] == [4.0, 0.001, 0.99]
    assert [SCRUB(variant="mufac", alpha=0.2, temperature=2.0)._given(n) for n in ("temperature", "alpha")] == [
        2.0,
        0.2,
    ]


def test_the_teacher_is_the_target_whatever_becomes_of_the_student() -> None:
    """The same run against a copy that is kept apart: bit for bit, so the teacher's answers never moved."""
    copied = trained()
    before = state(copied.model)
    job = job_of(SGD)
    whole = unlearn(SCRUB(), job)
    assert job.logs[0].reference == "cache"
    other = job_of(SGD)
    real = UnlearnJob.train

    def with_copy(self: UnlearnJob, *args: object, **kwargs: object) -> object:
        return real(self, *args, **{**kwargs, "reference": copied.model})  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(UnlearnJob, "train", with_copy)
        again = unlearn(SCRUB(), other)
    assert other.logs[0].reference == "frozen-copy"
    assert not changed(before, state(copied.model))
    assert apart(state(whole.model), state(again.model)) < 1e-5


def test_divided_steps_are_whole_ones() -> None:
    ends = []
    for micro in (None, 3):
        job = job_of(replace(SGD, steps=12, micro_batch=micro), subject=without_norms())
        ends.append(state(unlearn(SCRUB(alpha=0.5), job).model))
    assert apart(*ends) < 1e-5


def test_yes_or_no_labels() -> None:
    found = splits()
    job = UnlearnJob(without_norms(), several(found["forget"]), several(found["retain"]), STEPS)
    unlearn(SCRUB(alpha=0.5), job)
    assert len(job.logs[0].steps) == 5


# -- rewinding ----------------------------------------------------------------------------------------


def test_rewinding_returns_the_epoch_whose_forget_error_fits_the_held_out_one(tmp_path: Path) -> None:
    """The students after each epoch are those of runs without rewinding that end there."""
    training = replace(EPOCHS, epochs=4, schedule="constant", lr=4e-3)
    job = job_of(training, folder=tmp_path)
    chosen = unlearn(SCRUB(rewind=True, max_epochs=3), job)
    found = splits()
    ends = [unlearn(SCRUB(max_epochs=3), job_of(replace(training, epochs=e))) for e in range(1, 5)]
    wanted = error(ends[-1], found["unseen"])
    distances = [abs(error(end, found["forget"]) - wanted) for end in ends]
    best = max(e for e in range(4) if distances[e] == min(distances))
    assert not changed(state(chosen.model), state(ends[best].model))
    assert f"rewound to epoch {best + 1} of 4" in job.logs[0].notes[-1]
    assert sorted(p.name for p in (tmp_path / "epochs").iterdir()) == [f"{e}.safetensors" for e in range(1, 5)]


def test_a_rewound_run_that_was_killed_ends_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Epochs before the kill are not run again: their students lie in the folder."""
    monkeypatch.setattr(Checkpoints, "due", lambda self: self.folder is not None)
    training = replace(EPOCHS, epochs=3, lr=4e-3)

    def kill(step: int, total: int, terms: dict[str, float]) -> None:
        if step == 24:  # in the third of three epochs
            raise KeyboardInterrupt

    whole = unlearn(SCRUB(rewind=True), job_of(training))
    with pytest.raises(KeyboardInterrupt):
        unlearn(SCRUB(rewind=True), job_of(training, folder=tmp_path, observers=Observers(progress=kill)))
    job = job_of(training, folder=tmp_path)
    assert not changed(state(unlearn(SCRUB(rewind=True), job).model), state(whole.model))
    assert job.logs[0].resumed_at == 23


def test_rewinding_of_no_steps_is_the_target() -> None:
    none = job_of(replace(STEPS, steps=0))
    assert not changed(state(unlearn(SCRUB(rewind=True), none).model), state(trained().model))


def test_rewinding_needs_held_out_images() -> None:
    for held_out in (None, splits()["unseen"].take([])):
        with pytest.raises(InputError, match="scrub: rewind needs held-out images"):
            unlearn(SCRUB(rewind=True), job_of(held_out=held_out))


def test_ends_of_epochs() -> None:
    turns: list[Turn] = ["forget"] * 2 + ["retain"] * 3
    assert scrub._ends(turns * 2, lambda _: turns) == {5: 1, 10: 2}
    assert scrub._ends((turns * 2)[:7], lambda _: turns) == {5: 1, 7: 2}


def test_bad_values_are_refused() -> None:
    with pytest.raises(InputError, match="scrub: temperature=0 must be above 0"):
        SCRUB(temperature=0)
    with pytest.raises(InputError, match="scrub: alpha=-1 must be a number not below 0"):
        SCRUB(alpha=-1)
    with pytest.raises(InputError, match="scrub: variant='x' must be one of paper, mufac"):
        SCRUB(variant="x")  # type: ignore[arg-type]
