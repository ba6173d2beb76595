"""The saliency mask: how many, which, and that nothing else moves."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from expunge.engine.checkpoint import Checkpoints
from expunge.engine.loop import Observers
from expunge.engine.training import Training
from expunge.errors import InputError
from expunge.vision.forward import per_image
from expunge.vision.methods.random_labels import RandomLabels
from expunge.vision.methods.salun import SalUn, forget_gradient, top
from expunge.vision.unlearn import unlearn
from tiny_faces import splits, trained
from tiny_vision import SGD, STEPS, apart, changed, job_of, state, without_norms

BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


def mask_of(ratio: float) -> dict[str, torch.Tensor]:
    return top(forget_gradient(trained().model, splits()["forget"]), ratio)


def test_the_gradient_is_that_of_the_whole_set_whatever_the_batch() -> None:
    """Summed before the absolute value: equal to one backward pass over all images, in evaluation mode."""
    subject, images = trained(), splits()["forget"]
    before = state(subject.model)
    logits = subject.model.eval()(images.pixels(torch.arange(len(images))))
    (-per_image(logits, images.labels).mean()).backward()
    for batch in (len(images), 7):
        found = forget_gradient(subject.model, images, batch)
        for name, p in subject.model.named_parameters():
            torch.testing.assert_close(found[name], p.grad, atol=1e-6, rtol=1e-4)
    assert not changed(before, state(subject.model))
    signless = sum(float(g.abs().sum()) for g in forget_gradient(subject.model, images.take([0])).values())
    assert signless > 0


@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.29, 0.5, 1.0])
def test_exactly_floor_of_the_share_may_move(ratio: float) -> None:
    total = trained().parameters
    assert sum(int(m.sum()) for m in mask_of(ratio).values()) == int(ratio * total + 1e-6)


def test_they_are_the_largest_over_all_tensors_together() -> None:
    values = {"a": torch.tensor([[1.0, -9.0], [0.5, 3.0]]), "b": torch.tensor([-4.0, 0.1])}
    found = top(values, 0.5)
    assert found["a"].tolist() == [[False, True], [False, True]]
    assert found["b"].tolist() == [True, False]
    ties = top({"a": torch.zeros(10)}, 0.29 * 100 / 100)
    assert int(ties["a"].sum()) == 2


@pytest.mark.parametrize("training", [SGD, replace(STEPS, weight_decay=0.1)])
@pytest.mark.parametrize("variant", ["sequential", "joint"])
def test_masked_weights_are_those_of_the_target_bit_for_bit(training: Training, variant: Any) -> None:
    """With momentum and weight decay, which move what is merely given no gradient."""
    start, end = state(trained().model), state(unlearn(SalUn(ratio=0.3, variant=variant), job_of(training)).model)
    moved = 0
    for name, mask in mask_of(0.3).items():
        assert torch.equal(end[name][~mask], start[name][~mask]), name
        moved += int((end[name] != start[name]).sum())
    assert moved > 0.5 * 0.3 * trained().parameters


@pytest.mark.parametrize("variant", ["sequential", "joint", "forget-only"])
def test_all_of_the_weights_is_random_labels(variant: Any) -> None:
    ends = [
        state(unlearn(method, job_of(SGD)).model)
        for method in (SalUn(ratio=1.0, variant=variant), RandomLabels(variant=variant))
    ]
    assert not changed(*ends)


def test_none_of_them_is_the_target_statistics_included() -> None:
    assert not changed(state(trained().model), state(unlearn(SalUn(ratio=0.0), job_of(SGD)).model))


def test_divided_steps_are_whole_ones() -> None:
    ends = []
    for micro in (None, 3):
        job = job_of(replace(SGD, steps=7, micro_batch=micro), subject=without_norms())
        ends.append(state(unlearn(SalUn(), job).model))
    assert apart(*ends) < 1e-5


def test_killed_and_resumed_it_ends_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Checkpoints, "due", lambda self: self.folder is not None)

    def kill(step: int, total: int, terms: dict[str, float]) -> None:
        if step == 4:
            raise KeyboardInterrupt

    whole = unlearn(SalUn(), job_of(SGD))
    with pytest.raises(KeyboardInterrupt):
        unlearn(SalUn(), job_of(SGD, folder=tmp_path, observers=Observers(progress=kill)))
    job = job_of(SGD, folder=tmp_path)
    assert not changed(state(unlearn(SalUn(), job).model), state(whole.model))
    assert job.logs[0].resumed_at == 3


def test_frozen_parameters_stay_frozen() -> None:
    job = job_of(SGD)
    head = copy.deepcopy(job.subject.model.head)  # type: ignore[arg-type]
    job.subject.model.head.requires_grad_(False)  # type: ignore[union-attr, operator]
    subject = unlearn(SalUn(), job)
    assert torch.equal(subject.model.head.weight, head.weight)  # type: ignore[union-attr, arg-type]
    assert changed(state(trained().model), state(subject.model)) - {"head.weight", "head.bias"}


def test_bad_values_are_refused() -> None:
    for ratio in (-0.1, 1.5, float("nan")):
        with pytest.raises(InputError, match=f"salun: ratio={ratio} must lie between 0 and 1"):
            SalUn(ratio=ratio)
    with pytest.raises(InputError, match="salun: variant='x'"):
        SalUn(variant="x")  # type: ignore[arg-type]
