"""UNSIR: noise that errs as it should, what the two stages train on, and the variant for single images."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from expunge.errors import InputError
from expunge.vision.data import Images
from expunge.vision.forward import ImagePass, per_image
from expunge.vision.methods._noise import with_made
from expunge.vision.methods.fine_tune import FineTune
from expunge.vision.methods.unsir import UNSIR, ImpairInstances
from expunge.vision.unlearn import UnlearnJob, unlearn
from tiny_faces import splits, trained
from tiny_vision import STEPS, apart, changed, job_of, several, state, step_of, without_norms

SMALL = UNSIR(noise=6, copies=2, per_class=10, noise_steps=10)
FULL = replace(STEPS, steps=None)


def by_class(gone: int = 2) -> tuple[Images, Images]:
    """The tiny pictures divided by a class."""
    found = splits()["retain"]
    here = found.labels == gone
    return found.take(here.nonzero()[:, 0]), found.take((~here).nonzero()[:, 0])


def class_job(**changes: Any) -> UnlearnJob:
    forget, retain = by_class()
    return job_of(FULL, forget=forget, retain=retain, **changes)


class Line(nn.Module):
    """Logits (w z, 0) of the sum of a picture's pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(1, 2, bias=False)
        nn.init.constant_(self.head.weight, 0.0)
        with torch.no_grad():
            self.head.weight[0, 0] = 1.0

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.head(images.flatten(1).sum(1, keepdim=True))
        return out


def test_one_step_of_adam_on_the_noise_goes_up_the_error_by_its_rate() -> None:
    """-CE(f(z), 0) falls in z with slope -(1 - p): Adam's first step is lr against the sign of the slope."""
    start = torch.tensor([0.5, -1.0]).view(2, 1, 1, 1)
    found = replace(SMALL, noise_steps=1, noise_lr=0.1, penalty=0.0).worst(Line(), start, 0)
    torch.testing.assert_close(found, start - 0.1)
    found = replace(SMALL, noise_steps=1, noise_lr=0.1, penalty=100.0).worst(Line(), start, 0)
    torch.testing.assert_close(found, start - 0.1 * start.sign())  # the norm wins


def test_where_error_and_norm_balance_the_noise_rests() -> None:
    """The mean over images of -CE + penalty z^2 is stationary where 2 penalty z = -(1 - sigmoid(z))."""
    found = replace(SMALL, noise_steps=200, noise_lr=0.05, penalty=0.25).worst(Line(), torch.ones(2, 1, 1, 1), 0)
    z = found.flatten()
    torch.testing.assert_close(0.5 * z, -(1 - z.sigmoid()), atol=2e-3, rtol=0)


def test_noise_of_a_class_is_what_the_network_least_takes_for_it_and_leaves_no_trace() -> None:
    subject = trained()
    subject.model.train()
    before = state(subject.model)
    start = torch.randn(16, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    found = replace(UNSIR(), penalty=0.0).worst(subject.model, start, 2)
    assert subject.model.training
    assert not changed(before, state(subject.model))
    assert all(p.grad is None for p in subject.model.parameters())
    labels = torch.full((16,), 2)
    subject.model.eval()
    with torch.no_grad():
        worse = per_image(subject.model(found), labels) > per_image(subject.model(start), labels) + 1
    assert bool(worse.all())


def test_made_images_come_first_and_are_not_rounded_to_bytes() -> None:
    made, taken = torch.randn(2, 3, 16, 16), splits()["test"].take([0, 1])
    mixed = with_made(made, torch.tensor([3, 1]), 2, taken)
    assert mixed.labels.tolist() == [3, 1, 3, 1, *taken.labels.tolist()]
    assert len(mixed) == 6
    pixels = mixed.pixels(torch.tensor([5, 2, 1]))
    torch.testing.assert_close(pixels[1:], made[[0, 1]])
    torch.testing.assert_close(pixels[0], taken.pixels(torch.tensor([1]))[0])
    assert len({mixed.source.digest(i) for i in range(6)}) == 4  # two noise images twice, two pictures


def test_what_the_two_stages_train_on() -> None:
    """Impair: copies of the noise and at most so many images of each other class; repair: those images."""
    job = class_job()
    unlearn(SMALL, job)
    kept = min(10, int((job.retain.labels == 0).sum())) + sum(
        min(10, int((job.retain.labels == c).sum())) for c in (1, 3)
    )
    assert [len(log.steps) for log in job.logs] == [-(-(12 + kept) // 8), -(-kept // 8)]


def test_neither_stage_leaves_the_model_as_it_is() -> None:
    for method in (replace(SMALL, impair_epochs=0, repair_epochs=0),
                   UNSIR(instance=True, impair_epochs=0, repair_epochs=0)):  # fmt: skip
        assert not changed(state(trained().model), state(unlearn(method, class_job()).model))


def test_without_impairing_it_is_fine_tuning_at_the_repairs_rate() -> None:
    method = UNSIR(instance=True, impair_epochs=0, repair_lr=4e-3)
    job = job_of(FULL)
    streams = {"retain": job.passes(job.retain, 1, 8, "repair")}
    length = len(streams["retain"].order)
    expected = job.train(FineTune(), job.subject, replace(FULL, lr=4e-3, steps=length), streams=streams)
    assert not changed(state(unlearn(method, job_of(FULL)).model), state(expected.model))


# -- single images ------------------------------------------------------------------------------------


def test_noise_for_images_moves_away_from_them_and_stays_a_picture() -> None:
    model, images = without_norms().model, splits()["forget"].take(range(6))
    view = ImagePass(model, images.pixels(torch.arange(6)), images.labels, 6)
    place = torch.arange(6)
    start, found = (ImpairInstances(n, 0.05, 3).strange(0, view, place) for n in (0, 30))
    assert float(found.min()) >= 0
    assert float(found.max()) <= 1
    with torch.no_grad():
        far = [(model(z) - view.logits).square().mean(1) for z in (start, found)]
    assert bool((far[1] > far[0]).all())


def test_the_loss_of_a_pair_by_hand() -> None:
    """CE(f(z), y_r) + CE(f(x_r), y_r): the forgotten images enter through the noise alone."""
    model, found = without_norms().model, splits()
    forget, retain = found["forget"].take(range(4)), found["retain"].take(range(4))
    loss = ImpairInstances(3, 0.01, 5)
    numbered = torch.cat([torch.arange(4)[:, None], retain.labels[:, None]], 1)
    views = {
        "forget": ImagePass(model, forget.pixels(torch.arange(4)), forget.labels, 4),
        "paired": ImagePass(model, retain.pixels(torch.arange(4)), numbered, 4),
    }
    z = loss.strange(2, views["forget"], torch.arange(4))
    x = retain.pixels(torch.arange(4))
    expected = F.cross_entropy(model(z), retain.labels) + F.cross_entropy(model(x), retain.labels)
    torch.testing.assert_close(loss.forget_loss(step_of(2, **views)), expected)


def test_divided_steps_are_whole_ones() -> None:
    ends = []
    for micro in (None, 3):
        job = job_of(replace(FULL, optimizer="sgd", micro_batch=micro), subject=without_norms())
        ends.append(state(unlearn(UNSIR(instance=True, noise_steps=2, impair_epochs=1), job).model))
    assert apart(*ends) < 1e-5


def test_instances_with_yes_or_no_labels() -> None:
    found = {name: several(images) for name, images in splits().items()}
    job = UnlearnJob(without_norms(), found["forget"], found["retain"], FULL)
    unlearn(UNSIR(instance=True), job)
    assert [len(log.steps) for log in job.logs] == [2 * -(-len(found["forget"]) // 8), -(-len(found["retain"]) // 8)]
    with pytest.raises(InputError, match="unsir: needs one class an image"):
        unlearn(SMALL, job)


def test_people_are_not_a_class() -> None:
    with pytest.raises(InputError, match="unsir: class 0 is among the forgotten and among the retained images"):
        unlearn(UNSIR(), job_of(FULL))


def test_bad_values_are_refused() -> None:
    with pytest.raises(InputError, match="unsir: noise=0 must be above 0"):
        UNSIR(noise=0)
    with pytest.raises(InputError, match="unsir: impair_lr=-1 must be above 0"):
        UNSIR(impair_lr=-1)
    with pytest.raises(InputError, match=r"unsir: penalty=-0\.1 must be a number not below 0"):
        UNSIR(penalty=-0.1)
