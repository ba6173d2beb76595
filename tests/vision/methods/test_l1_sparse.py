"""The penalty: its gradient, its decay, and that a step has it once."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from expunge.engine.training import Training
from expunge.errors import InputError
from expunge.vision.methods.fine_tune import FineTune
from expunge.vision.methods.l1_sparse import L1Sparse, penalty_weight
from expunge.vision.unlearn import unlearn
from tiny_vision import SGD, STEPS, apart, changed, job_of, state, without_norms

PLAIN = Training(
    steps=1, batch_size=8, lr=0.1, optimizer="sgd", schedule="constant", warmup=0.0, weight_decay=0.0, clip=None
)  # fmt: skip


def test_one_step_of_sgd_moves_every_weight_by_a_towards_zero_beside_fine_tuning() -> None:
    """theta' = theta - lr (g + a sign(theta)), for weights and biases alike."""
    start = without_norms()
    plain, sparse = (unlearn(m, job_of(PLAIN, subject=without_norms())) for m in (FineTune(), L1Sparse(alpha=0.01)))
    for name, p in start.model.named_parameters():
        gap = dict(plain.model.named_parameters())[name] - dict(sparse.model.named_parameters())[name]
        torch.testing.assert_close(gap, 0.1 * 0.01 * p.sign(), atol=1e-7, rtol=1e-4)


@pytest.mark.parametrize("training", [STEPS, SGD])
def test_alpha_zero_is_fine_tuning_step_for_step(training: Training) -> None:
    assert not changed(
        state(unlearn(L1Sparse(alpha=0.0), job_of(training)).model), state(unlearn(FineTune(), job_of(training)).model)
    )


def test_a_divided_step_has_the_penalty_once() -> None:
    ends = []
    for micro in (None, 3):
        job = job_of(replace(PLAIN, steps=3, micro_batch=micro), subject=without_norms())
        ends.append(state(unlearn(L1Sparse(alpha=0.05), job).model))
    assert apart(*ends) < 1e-6


def test_the_weight_falls_linearly_and_is_gone_in_the_last_epochs() -> None:
    """Of 5 epochs of 2 steps the last 2 are plain: 1, 2/3, 1/3, 0, 0."""
    found = [penalty_weight(0.3, step, 2, 3) for step in range(10)]
    assert found == pytest.approx([0.3, 0.3, 0.2, 0.2, 0.1, 0.1, 0, 0, 0, 0])


def test_weights_shrink_and_none_is_cut_to_zero() -> None:
    training = replace(SGD, steps=None, epochs=2)
    size = {}
    for name, method in (("plain", FineTune()), ("sparse", L1Sparse(alpha=5e-3))):
        subject = unlearn(method, job_of(training))
        size[name] = sum(p.abs().sum().item() for p in subject.model.parameters())
        dead = sum(int((p == 0).sum()) for n, p in subject.model.named_parameters() if p.ndim > 1)
        assert dead == 0
    assert size["sparse"] < 0.97 * size["plain"]


def test_bad_values_are_refused() -> None:
    with pytest.raises(InputError, match="l1-sparse: alpha=-1 must be a number not below 0"):
        L1Sparse(alpha=-1)
    with pytest.raises(InputError, match="plain_epochs=3 of 3 epochs leaves none with a penalty"):
        unlearn(L1Sparse(plain_epochs=3), job_of(replace(STEPS, steps=None, epochs=3)))
