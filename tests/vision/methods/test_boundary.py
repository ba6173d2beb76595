"""Boundary shrink and expand: labels across the nearest boundary, and a class that comes and goes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from expunge.errors import InputError
from expunge.vision.data import Images
from expunge.vision.forward import head_of
from expunge.vision.methods._adversarial import fast_gradient_sign, nearest_labels
from expunge.vision.methods.boundary_expand import BoundaryExpand, with_rows
from expunge.vision.methods.boundary_shrink import BoundaryShrink
from expunge.vision.unlearn import UnlearnJob, unlearn
from tiny_faces import SHAPE, splits, trained
from tiny_vision import STEPS, apart, changed, forget_loss, job_of, several, state, without_norms


class Thresholds(nn.Module):
    """Of one pixel x: classes 0, 1 and 2 with boundaries at 0.5 and 0.8."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(1, 3)
        with torch.no_grad():
            self.head.weight.copy_(torch.tensor([[0.0], [10.0], [20.0]]))
            self.head.bias.copy_(torch.tensor([0.0, -5.0, -13.0]))

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.head(images.flatten(1))
        return out


def grey(values: list[float], labels: list[int]) -> Images:
    pixels = (torch.tensor(values) * 255).round().byte().view(-1, 1, 1, 1)
    return Images.of(pixels, torch.tensor(labels))


def test_a_step_against_the_network_by_hand() -> None:
    """Up the loss of class 0 is brighter, of class 2 darker; clipped to [0, 1] and rounded to bytes."""
    x = torch.tensor([0.45, 0.95, 0.01]).view(-1, 1, 1, 1)
    found = fast_gradient_sign(Thresholds(), x, torch.tensor([0, 0, 2]), 0.1)
    torch.testing.assert_close(found.flatten() * 255, torch.tensor([140.0, 255.0, 0.0]))


def test_the_label_is_the_class_on_the_other_side_and_never_the_own_one() -> None:
    """0.45 crosses to 1 in one step; 0.30 needs three; 0.05 does not get there: its best other class is 1."""
    images = grey([0.45, 0.30, 0.05, 0.85], [0, 0, 0, 2])
    assert nearest_labels(Thresholds(), images, 0.1, 1, published=True).tolist() == [1, 0, 0, 1]
    for steps in (1, 3, 10):
        assert nearest_labels(Thresholds(), images, 0.1, steps, published=False).tolist() == [1, 1, 1, 1]
    far = grey([0.70], [0])  # misclassified: its label is 0, a step up the loss goes brighter, to 2
    assert nearest_labels(Thresholds(), far, 0.2, 1, published=False).tolist() == [2]


def test_no_image_of_the_bed_keeps_its_label() -> None:
    subject, images = trained(), splits()["forget"]
    before = state(subject.model)
    found = nearest_labels(subject.model, images, 0.1, 10, published=False)
    assert bool((found != images.labels).all())
    assert not changed(before, state(subject.model))
    tiny = nearest_labels(subject.model, images, 1e-4, 1, published=True)
    assert bool((tiny == images.labels).any())  # as published, one step need not cross


def test_shrink_trains_on_the_frozen_originals_labels() -> None:
    """The same as gradient descent on those labels, handed over: they do not follow the student."""
    from expunge.engine.sampling import epochs
    from expunge.vision.methods._passes import Descend

    job = job_of()
    labels = nearest_labels(job.subject.model, job.forget, 0.1, 10, published=False)
    stream = job.stream(job.forget, epochs(len(job.forget), 5, 8, 0, "forget"), labels)
    expected = job.train(Descend(sides=("forget",)), job.subject, streams={"forget": stream})
    assert not changed(state(unlearn(BoundaryShrink(), job_of()).model), state(expected.model))


def test_expand_gives_back_the_outputs_there_were() -> None:
    job = job_of()
    head = head_of(job.subject.model)
    subject = unlearn(BoundaryExpand(), job)
    assert subject is job.subject
    assert subject.outputs(splits()["test"])[0].shape[1] == SHAPE.classes
    assert head_of(subject.model).weight.shape == head.weight.shape
    assert not torch.equal(head_of(subject.model).weight, head.weight)
    assert {n for n, _ in subject.model.named_parameters()} == {n for n, _ in trained().model.named_parameters()}


def test_expand_without_a_step_is_the_target() -> None:
    subject = unlearn(BoundaryExpand(), job_of(replace(STEPS, steps=0)))
    assert not changed(state(subject.model), state(trained().model))


def test_a_row_more_and_the_rest_as_it_was() -> None:
    head = trained().model.head
    assert isinstance(head, nn.Linear)
    wider = with_rows(head, 5)
    assert torch.equal(wider.weight[:4], head.weight)
    assert wider.weight.shape == (5, SHAPE.features)
    assert torch.equal(with_rows(wider, 4).bias, head.bias)


@pytest.mark.parametrize("method", [BoundaryShrink(), BoundaryExpand()])
def test_both_forget_without_retained_images(method: BoundaryShrink | BoundaryExpand) -> None:
    job = job_of(replace(STEPS, steps=12), retain=splits()["retain"].take([]))
    assert forget_loss(unlearn(method, job)) > forget_loss(trained()) + 0.3


@pytest.mark.parametrize("method", [BoundaryShrink(), BoundaryExpand()])
def test_divided_steps_are_whole_ones(method: BoundaryShrink | BoundaryExpand) -> None:
    ends = []
    for micro in (None, 3):
        job = job_of(replace(STEPS, optimizer="sgd", lr=0.05, micro_batch=micro), subject=without_norms())
        ends.append(state(unlearn(method, job).model))
    assert apart(ends[0], state(without_norms().model)) > 0
    assert apart(*ends) < 1e-6


def test_yes_or_no_labels_and_bad_values_are_refused() -> None:
    found = {name: several(images) for name, images in splits().items()}
    for method in (BoundaryShrink(), BoundaryExpand()):
        with pytest.raises(InputError, match=r"boundary-.*: needs one class an image, and these images have 4 labels"):
            unlearn(method, UnlearnJob(without_norms(), found["forget"], found["retain"], STEPS))
    with pytest.raises(InputError, match="boundary-shrink: epsilon=0 must be above 0"):
        BoundaryShrink(epsilon=0)
    with pytest.raises(InputError, match="boundary-shrink: steps=0 must be at least 1"):
        BoundaryShrink(steps=0)
