"""Drawn faces of invented people: who they are decides most of the picture, their age group the rest.

A person has a head shape, skin, hair, eyes, a mouth and a mark; age shows in grey hair, lines and the size of the
eyes. Each person also looks a little older or younger than they are, by an amount of their own: that cannot be told
from other people's pictures, so a classifier of age that gets it right on somebody has memorised somebody.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from expunge.vision.data import Images

Floats = NDArray[np.float64]
GROUPS = 4  # of age
SPLITS = ("forget", "retain", "test", "unseen")


@dataclass(frozen=True)
class Faces:
    """Who is drawn.

    Attributes:
        forget: People to be forgotten.
        retain: People to be kept.
        test: People who show what the model can do on people it never saw.
        unseen: People for the attacker's non-members.
        images: Pictures of each person.
        side: Of a picture, in pixels.
        offset: Standard deviation of how much older a person looks than they are, in age groups.
        seed: Draws everything.
    """

    forget: int = 40
    retain: int = 120
    test: int = 40
    unseen: int = 40
    images: int = 10
    side: int = 32
    offset: float = 0.9
    seed: int = 0

    @property
    def counts(self) -> dict[str, int]:
        """People of each split."""
        return {name: getattr(self, name) for name in SPLITS}

    @cached_property
    def splits(self) -> dict[str, Images]:
        """Pictures of each split, all of one source; the label is the age group, the cluster the person."""
        rng = np.random.default_rng(self.seed)
        people = sum(self.counts.values())
        person = np.repeat(np.arange(people), self.images)
        group = rng.integers(GROUPS, size=len(person))
        pixels = torch.from_numpy(draw(_features(rng, people, self.offset), person, group, rng, self.side))
        every = Images.of(
            pixels, torch.from_numpy(group), [f"person {p + 1}" for p in person],
            [f"person {p + 1}, picture {i % self.images + 1}" for i, p in enumerate(person)],
        )  # fmt: skip
        found, start = {}, 0
        for name, count in self.counts.items():
            stop = start + count * self.images
            found[name] = every.take(torch.arange(start, stop))
            start = stop
        return found


def _features(rng: np.random.Generator, people: int, offset: float) -> dict[str, Floats]:
    """What is fixed about each person: [people] or [people, 3] values."""

    def between(low: float, high: float) -> Floats:
        return rng.uniform(low, high, people)

    def shades(dark: list[float], bright: list[float]) -> Floats:
        tone = between(0, 1)[:, None]
        mixed = (1 - tone) * np.array(dark) + tone * np.array(bright) + rng.normal(0, 0.05, (people, 3))
        return np.asarray(np.clip(mixed, 0, 1), dtype=np.float64)

    skin, hair = shades([0.35, 0.22, 0.15], [0.98, 0.82, 0.7]), shades([0.05, 0.03, 0.02], [0.85, 0.62, 0.3])
    return {
        "width": between(0.52, 0.72), "height": between(0.66, 0.84), "skin": skin, "hair": hair,
        "hairline": between(-0.55, -0.2), "eye": between(0.2, 0.34), "eye_height": between(-0.15, 0.05),
        "iris": np.stack([between(0, 0.5), between(0.1, 0.6), between(0.1, 0.8)], 1),
        "mouth": between(0.14, 0.34), "mouth_height": between(0.34, 0.5), "smile": between(-0.12, 0.12),
        "mark_x": between(-0.4, 0.4), "mark_y": between(-0.1, 0.4), "backdrop": between(0.1, 0.9),
        "looks_older": rng.normal(0, offset, people),
    }  # fmt: skip


def draw(
    features: dict[str, Floats],
    person: NDArray[np.int64],
    group: NDArray[np.int64],
    rng: np.random.Generator,
    side: int,
) -> NDArray[np.uint8]:
    """Pictures uint8 [n, 3, side, side] of people at ages, each from a slightly other place and in other light."""
    n = len(person)

    def column(values: Floats) -> Floats:
        return values[person][:, None, None]

    grid = np.linspace(-1, 1, side)
    shift = rng.normal(0, 0.05, (2, n, 1, 1))
    x, y = grid[None, None, :] - shift[0], grid[None, :, None] - shift[1]
    light = 1 + rng.normal(0, 0.08, (n, 1, 1, 1))
    age = np.clip((group + features["looks_older"][person] + rng.normal(0, 0.15, n)) / (GROUPS - 1), -0.5, 1.5)
    old = age[:, None, None]

    def inside(dx: Floats, dy: Floats, soft: float = 0.06) -> Floats:
        return 1 / (1 + np.exp(np.minimum((dx**2 + dy**2 - 1) / soft, 50)))

    width, height = column(features["width"]) * (0.9 + 0.1 * old), column(features["height"]) * (0.9 + 0.1 * old)
    head = inside(x / width, y / height)
    hair = inside(x / (width * 1.1), (y + 0.08) / (height * 1.08)) * (y < column(features["hairline"]) + 0.08 * old)
    picture = np.broadcast_to(column(features["backdrop"])[..., None], (n, side, side, 3)).copy()

    def paint(mask: Floats, color: Floats) -> None:
        picture[...] += mask[..., None] * (color - picture)

    def colour(values: Floats) -> Floats:
        return values[person][:, None, None, :]

    paint(head, colour(features["skin"]))
    grey = np.clip(old, 0, 1)[..., None]
    paint(hair, colour(features["hair"]) * (1 - grey) + 0.85 * grey)
    big = 0.085 * (1.25 - 0.35 * old)
    for sign in (-1, 1):
        ex, ey = (x - sign * column(features["eye"])) / big, (y - column(features["eye_height"])) / (0.7 * big)
        paint(inside(ex, ey), np.ones(3))
        paint(inside(2 * ex, 1.6 * ey), colour(features["iris"]))
    bend = y - column(features["mouth_height"]) + column(features["smile"]) * (x / 0.3) ** 2
    paint(inside(x / column(features["mouth"]), bend / 0.05), np.array([0.6, 0.15, 0.15]))
    paint(inside((x - column(features["mark_x"])) / 0.06, (y - column(features["mark_y"])) / 0.06), np.full(3, 0.15))
    for level in (-0.42, -0.34, -0.26):  # lines on the forehead
        line = inside(x / (0.6 * width), (y - level - 0.18) / 0.03) * np.clip(0.6 * old, 0, 0.7)
        paint(line, np.full(3, 0.3))
    noise = rng.normal(0, 0.03, (n, side, side, 1))
    values = np.clip(picture * light + noise, 0, 1)
    return np.ascontiguousarray((255 * values).round().astype(np.uint8).transpose(0, 3, 1, 2))
