"""Where labels go in a crowded picture: beside their mark, covering nothing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

Box = tuple[float, float, float, float]  # left, top, right, bottom
FONT = 11.0


def text_width(text: str) -> float:
    """Estimated width in px of a bold label; generous, so that what fits here fits in any font."""
    return 0.69 * FONT * len(text)


class Spot(NamedTuple):
    """A labelled point of a scatter: pixel position, words and role."""

    x: float
    y: float
    label: str
    role: str


def overlap(a: Box, b: Box) -> float:
    """Area shared by two boxes."""
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def place_labels(
    spots: Sequence[Spot], bounds: Box, obstacles: Sequence[Box] = (), thin: Sequence[Box] = ()
) -> list[Box]:
    """Find a box for each spot's label that covers no mark, no obstacle and no other label.

    Tries twelve directions at growing distance, lonely spots first, and takes what covers least; nearness and
    crossing a thin line (a whisker) count for less than covering something.
    """
    marks = [*((s.x - 7, s.y - 7, s.x + 7, s.y + 7) for s in spots), *obstacles]
    crowd = [sum(math.dist(s[:2], t[:2]) < 60 for t in spots) for s in spots]
    placed: dict[int, Box] = {}
    for i in sorted(range(len(spots)), key=lambda i: crowd[i]):
        candidates = _around(spots[i])
        costs = [
            20 * _outside(box, bounds)
            + 20 * sum(overlap(box, other) for other in [*marks, *placed.values()])
            + sum(overlap(box, line) for line in thin)
            + 150 * _crossings(spots[i], box, placed.values())
            + 3 * distance
            for box, distance in candidates
        ]
        placed[i] = candidates[min(range(len(costs)), key=costs.__getitem__)][0]
    return [placed[i] for i in range(len(spots))]


def _crossings(spot: Spot, box: Box, placed: Iterable[Box]) -> int:
    """How many labels the straight line from a spot to its own label runs through."""
    to_x, to_y = min(max(spot.x, box[0]), box[2]), min(max(spot.y, box[1]), box[3])
    on_line = [(spot.x + t * (to_x - spot.x), spot.y + t * (to_y - spot.y)) for t in (0.2, 0.4, 0.6, 0.8)]
    return sum(any(b[0] < x < b[2] and b[1] < y < b[3] for x, y in on_line) for b in placed)


def _around(spot: Spot) -> list[tuple[Box, float]]:
    """Candidate boxes for a label, with their distance from the spot; right and left are tried first."""
    width, out = text_width(spot.label) + 5, []  # some air to the next label
    for radius in (9, 13, 18, 30, 44, 60, 78, 98, 120):
        for k in (0, 6, 3, 9, 1, 5, 11, 7, 2, 4, 8, 10):
            right, up = math.cos(k * math.pi / 6), math.sin(k * math.pi / 6)
            left, middle = spot.x + radius * right - width / 2 * (1 - right), spot.y - radius * up
            out.append(((left, middle - FONT * 0.62, left + width, middle + FONT * 0.62), float(radius)))
    return out


def _outside(box: Box, bounds: Box) -> float:
    """Area of a box that lies outside the bounds, at most counted twice at corners."""
    across = max(0.0, bounds[0] - box[0]) + max(0.0, box[2] - bounds[2])
    down = max(0.0, bounds[1] - box[1]) + max(0.0, box[3] - bounds[3])
    return across * (box[3] - box[1]) + down * (box[2] - box[0])
