"""Hand-made SVG: axes, lines with labels beside them, and labels that keep out of each other's way.

Colours are left to the page: elements carry a class for their role (``target``, ``gold``, ``unlearned``,
``control``...), which also sets dash and marker, so that nothing is told by colour alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

from expunge.report._labels import FONT, Box, Spot, place_labels, text_width

Scale = Literal["linear", "log", "steps"]
_CORNERS: dict[str, list[tuple[float, float]]] = {
    "target": [(-1, -1), (1, -1), (1, 1), (-1, 1)],
    "gold": [(0, -1.4), (1.4, 0), (0, 1.4), (-1.4, 0)],
    "spare": [(0, -1.4), (1.4, 0), (0, 1.4), (-1.4, 0)],
    "control": [(0, -1.3), (1.2, 0.9), (-1.2, 0.9)],
}


@dataclass(frozen=True)
class Axis:
    """Maps data to pixels.

    Attributes:
        low: Smallest value shown.
        high: Largest value shown.
        start: Pixel of ``low``.
        end: Pixel of ``high``.
        scale: ``linear``, ``log`` or ``steps`` (log of 1 + value: 0, 1, 2, 4, 8 spread about evenly).
        ticks: Values to label; chosen automatically if empty.
        percent: Whether tick labels are percentages.
    """

    low: float
    high: float
    start: float
    end: float
    scale: Scale = "linear"
    ticks: tuple[float, ...] = ()
    percent: bool = False

    def __call__(self, value: float) -> float:
        """Pixel of a value; values outside the range land on its edge."""
        bend = {"linear": float, "log": math.log10, "steps": math.log1p}[self.scale]
        clipped = min(max(value, self.low), self.high)
        share = (bend(clipped) - bend(self.low)) / (bend(self.high) - bend(self.low))
        return round(self.start + share * (self.end - self.start), 1)

    def tick_values(self) -> tuple[float, ...]:
        """Values to label."""
        if self.ticks:
            return tuple(t for t in self.ticks if self.low <= t <= self.high)
        if self.scale == "log":
            decades = range(math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9) + 1)
            return tuple(10.0**d for d in decades)[:: 1 + len(decades) // 6]
        return nice_ticks(self.low, self.high)

    def format(self, value: float) -> str:
        """A tick label."""
        return f"{100 * value:g}%" if self.percent else f"{value:g}"


def nice_ticks(low: float, high: float, count: int = 5) -> tuple[float, ...]:
    """Round numbers inside [low, high], about ``count`` of them.

    >>> nice_ticks(0, 1)
    (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    """
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if raw <= m * power * 1.05)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return tuple(round(i * step, 10) for i in range(first, last + 1))


@dataclass(frozen=True)
class Series:
    """One line of a panel: its points, its words and its role (which styles it); an optional band."""

    role: str
    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    markers: bool = False


def svg(width: float, height: float, title: str, description: str, body: Sequence[str], uid: str) -> str:
    """Wrap drawn elements into an accessible ``<svg>``; ``uid`` must be unique on the page."""
    uid = escape(uid)
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-labelledby="{uid}-t {uid}-d" class="chart">'
        f'<title id="{uid}-t">{escape(title)}</title><desc id="{uid}-d">{escape(description)}</desc>'
        f"{''.join(body)}</svg>"
    )


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    """A piece of text; ``kind`` are its classes."""
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{escape(words)}</text>'


def axes(x: Axis, y: Axis, x_label: str, y_label: str) -> list[str]:
    """Horizontal grid lines, tick labels that do not touch, and both axis names (y above, x below)."""
    out = []
    for value in y.tick_values():
        at = y(value)
        out.append(f'<line x1="{x.start}" x2="{x.end}" y1="{at}" y2="{at}" class="grid"/>')
        out.append(text(x.start - 6, at + 3.8, y.format(value), "tick", "end"))
    free = -math.inf
    for value in x.tick_values():
        at, words = x(value), x.format(value)
        half = text_width(words) / 2
        out.append(f'<line x1="{at}" x2="{at}" y1="{y.start}" y2="{y.start + 4}" class="axis"/>')
        if at - half > free + 3:
            out.append(text(at, y.start + 16, words, "tick", "middle"))
            free = at + half
    out.append(f'<line x1="{x.start}" x2="{x.end}" y1="{y.start}" y2="{y.start}" class="axis"/>')
    out.append(text(x.start, y.end - 10, y_label, "name"))
    out.append(text((x.start + x.end) / 2, y.start + 32, x_label, "name", "middle"))
    return out


def path(series: Series, x: Axis, y: Axis) -> list[str]:
    """A series as a band (if it has one), a line and, if asked for, markers."""
    out = []
    points = [(x(a), y(b)) for a, b in zip(series.x, series.y, strict=True)]
    if series.low:
        upper = [(x(a), y(b)) for a, b in zip(series.x, series.high, strict=True)]
        lower = [(x(a), y(b)) for a, b in zip(series.x, series.low, strict=True)]
        ring = " ".join(f"{a},{b}" for a, b in [*upper, *lower[::-1]])
        out.append(f'<polygon points="{ring}" class="band {series.role}"/>')
    line = " ".join(f"{a},{b}" for a, b in points)
    out.append(f'<polyline points="{line}" class="line {series.role}"/>')
    if series.markers:
        out += [marker(a, b, series.role, 2.6) for a, b in points]
    return out


def marker(x: float, y: float, role: str, r: float = 5.0) -> str:
    """A mark whose shape belongs to its role: square, diamond, triangle or circle."""
    if role in _CORNERS:
        ring = " ".join(f"{x + r * a:.1f},{y + r * b:.1f}" for a, b in _CORNERS[role])
        return f'<polygon points="{ring}" class="mark {role}"/>'
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r:g}" class="mark {role}"/>'


def apart(positions: Sequence[float], distance: float, low: float, high: float) -> list[float]:
    """Move positions to be ``distance`` apart and inside [low, high], keeping their order.

    >>> apart([10, 11, 50], 12, 0, 60)
    [10, 22, 50]
    """
    order = sorted(range(len(positions)), key=lambda i: positions[i])
    placed: list[float] = []
    for i in order:
        placed.append(max(positions[i], low, placed[-1] + distance if placed else low))
    ceiling = high
    for j in reversed(range(len(placed))):
        placed[j] = min(placed[j], ceiling)
        ceiling = placed[j] - distance
    out = [0.0] * len(positions)
    for i, at in zip(order, placed, strict=True):
        out[i] = at
    return out


def end_labels(series: Sequence[Series], x: Axis, y: Axis) -> list[str]:
    """Each line's name at its right end, pushed apart where lines end close together."""
    heights = apart([y(s.y[-1]) for s in series], FONT + 2, y.end + 4, y.start - 2)
    out = []
    for s, at in zip(series, heights, strict=True):
        end_x, end_y = x(s.x[-1]), y(s.y[-1])
        if abs(at - end_y) > 3 or end_x < x.end - 1:
            out.append(f'<path d="M{end_x + 3} {end_y} L{x.end + 6} {at:.1f}" class="leader {s.role}"/>')
        out.append(text(x.end + 8, at + 3.8, s.label, f"label {s.role}"))
    return out


def curve_labels(series: Sequence[Series], x: Axis, y: Axis, at: Mapping[str, float]) -> list[str]:
    """Each line's name beside a point of it: the first one reaching height ``at[role]``, off all lines."""
    lines = [[(x(a), y(b)) for a, b in zip(s.x, s.y, strict=True)] for s in series]
    spots = []
    for s, line in zip(series, lines, strict=True):
        i = next((i for i, height in enumerate(s.y) if height >= at[s.role]), len(line) - 1)
        spots.append(Spot(*line[i], s.label, s.role))
    # Every third point keeps labels off the lines just as well, at a third of the cost.
    along = [(px - 4, py - 4, px + 4, py + 4) for line in lines for px, py in line[::3]]
    return named(spots, (x.start + 3, y.end, x.end + 8, y.start - 3), along)


def named(spots: Sequence[Spot], bounds: Box, obstacles: Sequence[Box], thin: Sequence[Box] = ()) -> list[str]:
    """The labels of spots where there is room, with a leader line where that is not right beside."""
    out = []
    for spot, box in zip(spots, place_labels(spots, bounds, obstacles, thin), strict=True):
        near_x, near_y = min(max(spot.x, box[0]), box[2]), min(max(spot.y, box[1]), box[3])
        if abs(near_x - spot.x) + abs(near_y - spot.y) > 12:
            out.append(f'<path d="M{spot.x} {spot.y} L{near_x:.1f} {near_y:.1f}" class="leader {spot.role}"/>')
        out.append(text(box[0] + 3, (box[1] + box[3]) / 2 + 3.8, spot.label, f"label {spot.role}"))
    return out


def panel(
    series: Sequence[Series],
    x: Axis,
    y: Axis,
    *,
    label_at: Mapping[str, float] | None = None,
    title: str,
    description: str,
    x_label: str,
    y_label: str,
    size: tuple[float, float],
    uid: str,
) -> str:
    """A line chart: the series in drawing order, labelled at their right ends.

    Lines that all end in one point are labelled along the way instead, at the heights ``label_at``.
    """
    body = axes(x, y, x_label, y_label)
    for s in series:
        body += path(s, x, y)
    body += curve_labels(series, x, y, label_at) if label_at else end_labels(series, x, y)
    return svg(*size, title, description, body, uid)
