"""NegGrad+: both losses by hand, and its limits: fine-tuning without the one, ascent without the other."""

from __future__ import annotations

import torch

from expunge.engine.sampling import uniform
from expunge.vision.forward import per_image
from expunge.vision.methods.fine_tune import FineTune
from expunge.vision.methods.ga import GA
from expunge.vision.methods.neggrad_plus import NegGradPlus
from tiny_faces import splits
from tiny_vision import SGD, STEPS, Free, apart, changed, draw, job_of, state, step_of, without_norms


def test_the_losses_by_hand() -> None:
    forget, retain = (Free(draw(6, 4, seed=s), torch.arange(6) % 4) for s in (0, 1))
    method = NegGradPlus(retain_weight=0.7, forget_weight=0.3)
    step = step_of(forget=forget, retain=retain)
    assert torch.allclose(method.retain_loss(step), 0.7 * per_image(retain.logits, retain.labels).mean())
    assert torch.allclose(method.forget_loss(step), -0.3 * per_image(forget.logits, forget.labels).mean())


def test_without_forgetting_it_is_fine_tuning_step_for_step() -> None:
    """On a network whose output for an image does not depend on the batch, with momentum and weight decay."""
    ends = []
    for method in (NegGradPlus(retain_weight=1.0, forget_weight=0.0), FineTune()):
        for training in (STEPS, SGD):
            job = job_of(training, subject=without_norms())
            orders = {name: uniform(len(splits()[name]), 5, 8, 0, name) for name in method.streams}
            streams = {name: job.stream(splits()[name], order) for name, order in orders.items()}
            ends.append(state(job.train(method, job.subject, training, streams=streams).model))
    assert not changed(ends[0], ends[2])
    assert not changed(ends[1], ends[3])
    assert changed(ends[0], ends[1])


def test_without_retaining_it_is_ascent() -> None:
    ends = []
    for method in (NegGradPlus(retain_weight=0.0, forget_weight=1.0), GA()):
        job = job_of(subject=without_norms())
        ends.append(state(job.train(method, job.subject).model))
    assert apart(*ends) < 1e-6
