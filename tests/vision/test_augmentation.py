"""Augmentation: each map alone, by hand; images of one batch are changed independently; seeds repeat."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from expunge.vision.augmentation import GREY, Augmentation

STILL = {"flip": 0.0, "shear": 0.0, "scale": (1.0, 1.0), "jitter": 0.0}


def some(n: int = 6, side: int = 9) -> Tensor:
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(0))


def make(**changes: object) -> Augmentation:
    return Augmentation(**{**STILL, **changes})  # type: ignore[arg-type]


def test_without_any_change_nothing_changes() -> None:
    assert torch.allclose(make()(some()), some(), atol=1e-6)


def test_a_flip_is_left_to_right_and_happens_by_its_probability() -> None:
    assert torch.allclose(make(flip=1.0)(some()), some().flip(3), atol=1e-6)
    torch.manual_seed(0)
    many = some(1).expand(400, -1, -1, -1)
    flipped = (make(flip=0.5)(many) - many).abs().amax((1, 2, 3)) > 1e-3
    assert abs(float(flipped.double().mean()) - 0.5) < 4 * math.sqrt(0.25 / 400)


def dot(x: int, y: int, side: int = 21) -> Tensor:
    picture = torch.zeros(1, 1, side, side)
    picture[0, 0, y, x] = 1
    return picture


def centre(picture: Tensor) -> tuple[float, float]:
    """Where the light is, in pixels from the middle."""
    side = picture.shape[-1]
    places = torch.arange(side) - (side - 1) / 2
    mass = picture[0, 0] / picture.sum()
    return float((mass.sum(0) * places).sum()), float((mass.sum(1) * places).sum())


def test_a_scale_moves_things_away_from_the_middle_by_its_factor() -> None:
    larger = make(scale=(1.5, 1.5))(dot(14, 6))  # 4 to the right of the middle, 4 above it
    assert centre(larger) == pytest.approx((6.0, -6.0), abs=0.3)
    smaller = make(scale=(0.5, 0.5))(dot(14, 6))
    assert centre(smaller) == pytest.approx((2.0, -2.0), abs=0.3)


def test_a_shear_moves_rows_along_themselves_and_no_row_up_or_down() -> None:
    """By at most the tangent of the angle times the distance from the middle row."""
    torch.manual_seed(1)
    drawn = [centre(make(shear=30.0)(dot(10, 2))) for _ in range(40)]  # 8 above the middle
    limit = 8 * math.tan(math.radians(30))
    assert all(abs(y + 8) < 0.2 for _, y in drawn)
    assert max(abs(x) for x, _ in drawn) < limit + 0.2
    assert max(x for x, _ in drawn) > limit / 3
    assert min(x for x, _ in drawn) < -limit / 3


def test_colours_stay_in_range_and_black_stays_black() -> None:
    torch.manual_seed(2)
    changed = Augmentation(flip=0.0, shear=0.0, scale=(1.0, 1.0), jitter=0.9)(some())
    assert changed.min() >= 0
    assert changed.max() <= 1
    assert not torch.allclose(changed, some(), atol=1e-2)
    assert torch.equal(make(jitter=0.2)(torch.zeros(3, 3, 5, 5)), torch.zeros(3, 3, 5, 5))


def test_a_grey_picture_of_one_shade_only_gets_brighter_or_darker() -> None:
    """Contrast is about the mean and saturation about grey: neither moves a flat grey picture."""
    torch.manual_seed(3)
    assert sum(GREY) == pytest.approx(1.0)
    changed = make(jitter=0.2)(torch.full((200, 3, 4, 4), 0.5))
    assert float(changed.std((1, 2, 3)).max()) < 1e-6
    shade = changed.mean((1, 2, 3))
    assert 0.4 - 1e-6 < float(shade.min()) < 0.42
    assert 0.58 < float(shade.max()) < 0.6 + 1e-6


def test_images_are_changed_each_on_its_own_and_a_seed_repeats() -> None:
    same = some(1).expand(8, -1, -1, -1)
    torch.manual_seed(4)
    first = Augmentation()(same)
    torch.manual_seed(4)
    assert torch.equal(Augmentation()(same), first)
    assert not torch.equal(Augmentation()(same), first)
    assert len({tuple(image.flatten().tolist()) for image in first}) == 8
    assert first.shape == same.shape


def test_other_numbers_of_channels_work_too() -> None:
    torch.manual_seed(5)
    assert Augmentation()(torch.rand(3, 1, 6, 6)).shape == (3, 1, 6, 6)
