"""Task vectors: arithmetic on states, and the edit on a model."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from expunge.engine.training import Training
from expunge.errors import InputError
from expunge.language.methods.task_vector import Reinforce, TaskVector, negate, task_vector
from expunge.language.subject import add_lora, merge_lora
from expunge.language.unlearn import UnlearnJob, unlearn
from tiny_bed import Bed

TRAINING = Training(steps=4, batch_size=8, lr=1e-3)


def states() -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
    """theta_0 with an integer buffer, theta_0 + d, and d."""
    generator = torch.Generator().manual_seed(0)
    start = {"w": torch.randn(4, 3, generator=generator), "steps": torch.tensor([7])}
    d = torch.randn(4, 3, generator=generator)
    return start, {"w": start["w"] + d, "steps": torch.tensor([9])}, d


def test_zero_returns_the_start_bit_for_bit() -> None:
    start, end, _ = states()
    start["w"][0, 0] = -0.0
    back = negate(start, task_vector(start, end), 0.0)
    assert back["w"].view(torch.int32).equal(start["w"].view(torch.int32))
    assert back["w"].data_ptr() != start["w"].data_ptr()


def test_one_step_against_the_vector() -> None:
    """theta_re = theta_0 + d, so scale 1 gives theta_0 - d, and walking back restores theta_0."""
    start, end, d = states()
    vector = task_vector(start, end)
    there = negate(start, vector, 1.0)
    torch.testing.assert_close(there["w"], start["w"] - d)
    torch.testing.assert_close(negate(there, vector, -1.0)["w"], start["w"])


def test_integer_buffers_are_left_alone() -> None:
    start, end, _ = states()
    assert set(task_vector(start, end)) == {"w"}
    assert negate(start, task_vector(start, end), 5.0)["steps"].tolist() == [7]


def test_other_names_shapes_or_no_change_are_refused() -> None:
    start, end, _ = states()
    with pytest.raises(InputError, match=r"differ in 1 tensors \(first: steps\)"):
        task_vector(start, {"w": end["w"]})
    with pytest.raises(InputError, match=r"differ in 1 tensors \(first: w\)"):
        task_vector(start, {**end, "w": end["w"][:2]})
    with pytest.raises(InputError, match="changed nothing"):
        task_vector(start, {name: t.clone() for name, t in start.items()})


def test_the_edit_is_the_arithmetic_on_a_reinforced_copy(bed: Bed) -> None:
    """theta_0 - 3 (theta_re - theta_0) with theta_re trained here by hand."""
    job = UnlearnJob(bed.fresh(), bed.forget, [], TRAINING)
    reinforced = job.train(Reinforce(), bed.fresh()).model.state_dict()
    edited = unlearn(TaskVector(scale=3.0), UnlearnJob(bed.fresh(), bed.forget, [], TRAINING)).model.state_dict()
    for name, start in bed.target.model.state_dict().items():
        torch.testing.assert_close(edited[name], start - 3.0 * (reinforced[name] - start))


def test_scale_zero_is_the_target(bed: Bed) -> None:
    edited = unlearn(TaskVector(scale=0.0), UnlearnJob(bed.fresh(), bed.forget, [], TRAINING))
    assert edited.weights_hash() == bed.target.weights_hash()


def test_adapters_are_negated_as_an_update_of_the_merged_weights(bed: Bed) -> None:
    """W_re = W + s B A with B = 0 at the start, so W_u = W - a s B A = W - a (W_re - W)."""
    training = Training(steps=4, batch_size=8, lr=1e-2)
    ends = []
    for scale in (-1.0, 2.0):  # -1 walks with the vector: the reinforced model itself
        subject = add_lora(bed.fresh(), 2, 4.0, "all-linear", 0.0, seed=0)
        method = TaskVector()
        object.__setattr__(method, "scale", scale)
        ends.append(merge_lora(unlearn(method, UnlearnJob(subject, bed.forget, [], training))).model.state_dict())
    for name, start in bed.target.model.state_dict().items():
        torch.testing.assert_close(ends[1][name], start - 2 * (ends[0][name] - start), rtol=1e-4, atol=1e-6)
    assert any(not torch.equal(ends[0][n], t) for n, t in bed.target.model.state_dict().items())


def test_trained_adapters_are_refused(bed: Bed) -> None:
    subject = add_lora(bed.fresh(), 2, 4.0, "all-linear", 0.0, seed=0)
    job = UnlearnJob(subject, bed.forget, [], Training(steps=2, batch_size=8, lr=1e-2))
    job.train(Reinforce(), subject)
    with pytest.raises(InputError, match="adapters are already trained"):
        unlearn(TaskVector(), job)


def test_a_negative_scale_is_refused() -> None:
    with pytest.raises(InputError, match="task-vector: scale=-1 must not be below 0"):
        TaskVector(scale=-1)
