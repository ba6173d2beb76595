"""Views: sums over the step's total, features before the head, the reference on the very same pixels."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from expunge.engine.loop import Loop, Stream
from expunge.engine.method import Step, Trained
from expunge.engine.training import Training
from expunge.errors import InputError
from expunge.vision.data import Images
from expunge.vision.forward import ImageExamples, ImagePass, head_of, per_image
from expunge.vision.networks import Shape
from expunge.vision.norms import frozen_norms
from expunge.vision.subject import small_cnn

SHAPE = Shape(3, 4, (6, 8), 10)


def some(n: int = 8, seed: int = 0) -> Images:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (n, 3, 8, 8), generator=generator, dtype=torch.uint8)
    return Images.of(pixels, torch.randint(4, (n,), generator=generator))


def test_losses_by_hand() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    assert torch.allclose(per_image(logits, torch.tensor([0, 0])), F.softplus(torch.tensor([-2.0, 1.0])))
    several = per_image(logits, torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    expected = torch.stack([F.softplus(-logits[0, 0]) + F.softplus(logits[0, 1]), F.softplus(logits[1]).sum()]) / 2
    assert torch.allclose(several, expected)


def test_the_features_are_what_the_head_reads() -> None:
    subject, images = small_cnn(SHAPE, 0), some()
    view = ImagePass(subject.model, images.pixels(torch.arange(8)), images.labels, 8)
    head = head_of(subject.model)
    assert torch.allclose(head(view.features), view.logits)
    assert view.features.shape == (8, 10)


def test_micro_batches_add_up_to_the_step() -> None:
    subject, images = small_cnn(SHAPE, 0), some()
    subject.model.eval()
    examples = ImageExamples(images)
    whole = examples.view(subject.model, torch.arange(8), (8, 8), None).loss
    parts = [examples.view(subject.model, rows, (8, 8), None).loss for rows in torch.arange(8).split(3)]
    assert torch.allclose(whole, torch.stack(parts).sum())


def test_a_model_without_a_linear_layer_has_no_head() -> None:
    with pytest.raises(InputError, match="no linear layer"):
        head_of(nn.Sequential(nn.Conv2d(1, 1, 1)))


@dataclass(frozen=True)
class Distance(Trained):
    """Squared distance of the logits from the reference's."""

    paper: ClassVar[str] = "ours"
    seen: ClassVar[list[float]] = []

    def retain_loss(self, step: Step) -> Tensor:
        view = step.retain
        distance = (view.logits - view.reference.logits).square().sum(1)
        self.seen.append(float(distance.detach().max()))
        return view.per_row(distance) + 0 * view.loss


def jitter(pixels: Tensor) -> Tensor:
    return (pixels + 0.3 * torch.rand(len(pixels), 1, 1, 1)).clamp(0, 1)


@pytest.mark.parametrize(("augment", "source"), [(None, "cache"), (jitter, "frozen-copy")])
def test_the_reference_sees_the_very_same_pixels(augment: object, source: str) -> None:
    """A frozen network without normalisation equals its reference on every step, augmented or not."""
    subject, images = small_cnn(Shape(3, 4, (6, 8), 10, norm=False), 0), some()
    training = Training(steps=3, batch_size=4, lr=1e-9, weight_decay=0.0, optimizer="sgd", warmup=0.0)
    order = torch.randint(8, (3, 4), generator=torch.Generator().manual_seed(0))
    Distance.seen.clear()
    stream = Stream(ImageExamples(images, augment=augment), order)  # type: ignore[arg-type]
    log = Loop(subject.model, Distance(), {"retain": stream}, training, seed=0).run()
    assert log.reference == source
    assert max(Distance.seen) < 1e-8


def test_augmentation_is_drawn_anew_in_training_and_left_out_of_evaluation() -> None:
    subject, images = small_cnn(SHAPE, 0), some()
    examples = ImageExamples(images, augment=jitter)
    rows = torch.arange(4)
    plain = examples.view(subject.model.eval(), rows, (4, 4), None).images
    assert torch.equal(plain, images.pixels(rows))
    first, second = (examples.view(subject.model.train(), rows, (4, 4), None).images for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(examples.view(copy.deepcopy(subject.model).eval(), rows, (4, 4), None).images, second)


def test_frozen_norms_keep_their_statistics_and_come_back() -> None:
    subject, images = small_cnn(SHAPE, 0), some()
    norm = next(m for m in subject.model.modules() if isinstance(m, nn.BatchNorm2d))
    before = norm.running_mean.clone()
    with frozen_norms(subject.model):
        subject.model.train()
        subject.model(images.pixels(torch.arange(8)))
    assert torch.equal(norm.running_mean, before)
    subject.model.train()
    subject.model(images.pixels(torch.arange(8)))
    assert not torch.equal(norm.running_mean, before)
