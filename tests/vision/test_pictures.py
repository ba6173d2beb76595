"""Sheets of images: what is on them, in which order, and that they are pictures a browser shows."""

from __future__ import annotations

import base64
import io

import numpy as np
import torch
from PIL import Image

from expunge.vision.data import Images
from expunge.vision.pictures import sheet


def opened(source: str) -> np.ndarray:
    kind, _, content = source.partition(",")
    assert kind == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))).convert("RGB"))


def shaded(shades: list[int], people: list[str], side: int = 32, channels: int = 3) -> Images:
    pixels = torch.tensor(shades, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, channels, side, side)
    return Images.of(pixels.contiguous(), torch.tensor(shades) // 100, people)


def test_one_subject_a_column_with_its_first_two_images() -> None:
    drawn = opened(sheet(shaded([10, 20, 30, 40, 50, 60], ["a", "b", "a", "b", "a", "c"])))
    assert drawn.shape == (2 * 34, 2 * 34, 3)  # c has one picture only and is passed over
    assert (drawn[0] == 255).all()  # a white frame
    assert (drawn[:, 33:35] == 255).all()
    middles = [[int(drawn[34 * row + 16, 34 * column + 16, 0]) for column in range(2)] for row in range(2)]
    assert middles == [[10, 20], [30, 40]]


def test_subjects_with_a_single_image_are_shown_where_nobody_has_two() -> None:
    drawn = opened(sheet(shaded([10, 20, 30], ["a", "b", "c"])))
    assert drawn.shape == (34, 3 * 34, 3)
    assert [int(drawn[16, 34 * c + 16, 0]) for c in range(3)] == [10, 20, 30]


def test_images_of_nobody_are_shown_by_class() -> None:
    drawn = opened(sheet(shaded([10, 110, 20, 120], ["", "", "", ""])))
    assert [int(drawn[16, 34 * c + 16, 0]) for c in range(2)] == [10, 110]
    assert [int(drawn[50, 34 * c + 16, 0]) for c in range(2)] == [20, 120]


def test_at_most_twelve_and_small_ones_are_enlarged() -> None:
    people = [f"p{i // 2}" for i in range(40)]
    drawn = opened(sheet(shaded(list(range(40)), people, side=8, channels=1)))
    assert drawn.shape == (4 * 2 * 10, 4 * 12 * 10, 3)  # 8 pixels and a frame, four times
    assert (drawn[20, 20] == drawn[20, 20, 0]).all()  # grey stays grey
