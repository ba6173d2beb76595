"""What was forgotten against what was kept: every model as a mark with whiskers, and a close-up near gold."""

from __future__ import annotations

from dataclasses import dataclass

from expunge.report._labels import Box, Spot, text_width
from expunge.report._svg import Axis, axes, marker, named, svg, text
from expunge.report._words import display_name, metric_label, number, split_label
from expunge.report.scorecard import Finding, Scorecard
from expunge.report.verdict import Tolerance

SIZE = (390.0, 340.0)
LEFT, RIGHT, TOP, BOTTOM = 42.0, 380.0, 28.0, 296.0
_PAIRS = (
    (("accuracy", "forget"), ("accuracy", "retain")),
    (("probability", "forget"), ("probability", "retain")),
)


@dataclass(frozen=True)
class _Point:
    """One model: its forget and retain findings."""

    name: str
    x: Finding
    y: Finding

    @property
    def role(self) -> str:
        """What it is, which decides its mark."""
        fixed = {"target": "target", "gold": "gold", "gold_2": "spare", "control": "control"}
        return fixed.get(self.name, "unlearned")


def _points(scorecard: Scorecard) -> list[_Point]:
    """Models with both findings of the first pair that the target (or any model) has."""
    for forget, retain in (*_of_the_run(scorecard), *_PAIRS):
        xs = {f.subject: f for f in scorecard.findings if (f.metric, f.split) == forget and f.value == f.value}
        ys = {f.subject: f for f in scorecard.findings if (f.metric, f.split) == retain and f.value == f.value}
        if len(set(xs) & set(ys)) > 1:
            return [_Point(name, xs[name], ys[name]) for name in xs if name in ys]
    return []


def _of_the_run(scorecard: Scorecard) -> list[tuple[tuple[str, str], tuple[str, str]]]:
    """The first of the run's own columns that is about what goes, and the first about what stays."""
    keys = [(metric, split) for _, metric, split in scorecard.run.get("columns", ())]
    goes = [key for key in keys if key[1].startswith("forget")]
    stays = [key for key in keys if not key[1].startswith("forget")]
    return [(goes[0], stays[0])] if goes and stays else []


def _zone(points: list[_Point], tolerance: Tolerance) -> Box | None:
    """The goal in data units (x low, y low, x high, y high): gold's value give or take delta of the gap, and
    at least the tolerated share of the target's retain score."""
    by = {p.name: p for p in points}
    if "target" not in by or "gold" not in by:
        return None
    gold, target = by["gold"], by["target"]
    reach = tolerance.delta * abs(target.x.value - gold.x.value)
    return (gold.x.value - reach, tolerance.utility * target.y.value, gold.x.value + reach, 1.0)


def utility_forgetting(scorecard: Scorecard, tolerance: Tolerance | None = None) -> list[str]:
    """Retain score against forget score of every model, the zone near gold shaded.

    Returns:
        Nothing without data; one picture; or two where three or more models crowd around gold, the second
        being the close-up.
    """
    points, tolerance = _points(scorecard), tolerance or Tolerance()
    if not points:
        return []
    words = scorecard.run.get("words")
    heads = [
        f"{split_label(f.split, words)}: {metric_label(f.metric).name.lower()}" for f in (points[0].x, points[0].y)
    ]
    zone = _zone(points, tolerance)
    overview = (0.0, min(0.0, *(p.y.value for p in points)), 1.02, 1.03)
    if zone is None:
        return [_draw(points, points, overview, None, None, "overview", heads)]
    centre, width = (zone[0] + zone[2]) / 2, max(zone[2] - zone[0], 0.1)
    near = [p for p in points if abs(p.x.value - centre) <= width and p.y.value >= zone[1] - 0.05]
    if len(near) < 3:
        return [_draw(points, points, overview, zone, None, "overview", heads)]
    reach = max(abs(p.x.value - centre) for p in near) + 0.025
    floor = min(zone[1], *(p.y.value for p in near)) - 0.015
    closeup = (max(centre - reach, -0.01), floor, centre + reach, max(p.y.value for p in near) + 0.02)
    far = [p for p in points if p not in near or p.name in ("target", "gold")]
    return [
        _draw(points, far, overview, zone, closeup, "overview", heads),
        _draw(near, near, closeup, zone, None, "closeup", heads),
    ]


def _draw(
    points: list[_Point],
    labelled: list[_Point],
    view: Box,
    zone: Box | None,
    frame: Box | None,
    uid: str,
    heads: list[str],
) -> str:
    x, y = (
        Axis(view[0], view[2], LEFT, RIGHT, percent=True),
        Axis(view[1], view[3], BOTTOM, TOP, percent=True),
    )
    body = []
    obstacles: list[Box] = []
    if zone:
        left, right, top, bottom = x(zone[0]), x(zone[2]), y(zone[3]), y(zone[1])
        shape = f'x="{left}" y="{top}" width="{right - left:.1f}" height="{bottom - top:.1f}"'
        body.append(f'<rect {shape} class="zone"/>')
        words = "goal: like gold"
        if right - left > text_width(words):
            body.append(text(right - 6, bottom - 7, words, "zone-name", "end"))
            obstacles.append((right - 6 - text_width(words), bottom - 18, right - 6, bottom - 4))
    body += axes(x, y, heads[0], heads[1])
    if frame:
        a, b, c, d = x(frame[0]), x(frame[2]), y(frame[3]), y(frame[1])
        shape = f'x="{a}" y="{c}" width="{b - a:.1f}" height="{d - c:.1f}"'
        body.append(f'<rect {shape} class="frame" rx="3"/>')
        body.append(text(b + 6, d + 12, "close-up", "zone-name"))
        obstacles.append((a, c, b, d))
        obstacles.append((b + 6, d, b + 6 + text_width("close-up"), d + 14))
    for p in points:
        body += _whiskers(p, x, y)
    body += [marker(x(p.x.value), y(p.y.value), p.role, 4.6) for p in points]
    body += _names(labelled, x, y, obstacles)
    told = "; ".join(
        f"{display_name(p.name)} {number(p.x.value, 'share')}, {number(p.y.value, 'share')}" for p in points
    )
    title = "Forgetting against utility" + (", close-up near gold" if uid == "closeup" else "")
    return svg(*SIZE, title, f"Scores on forgotten, retained records: {told}.", body, f"scatter-{uid}")


def _whiskers(p: _Point, x: Axis, y: Axis) -> list[str]:
    """95% intervals; the axis clips them at the edge of the picture."""
    at_x, at_y = x(p.x.value), y(p.y.value)
    out = []
    if p.x.low == p.x.low and p.x.high == p.x.high:
        out.append(f'<path d="M{x(p.x.low)} {at_y} H{x(p.x.high)}" class="whisker {p.role}"/>')
    if p.y.low == p.y.low and p.y.high == p.y.high:
        out.append(f'<path d="M{at_x} {y(p.y.low)} V{y(p.y.high)}" class="whisker {p.role}"/>')
    return out


def _names(points: list[_Point], x: Axis, y: Axis, obstacles: list[Box]) -> list[str]:
    spots = [Spot(x(p.x.value), y(p.y.value), display_name(p.name), p.role) for p in points]
    thin = [(x(p.x.low), y(p.y.value) - 0.7, x(p.x.high), y(p.y.value) + 0.7) for p in points]
    thin += [(x(p.x.value) - 0.7, y(p.y.high), x(p.x.value) + 0.7, y(p.y.low)) for p in points]
    return named(spots, (LEFT + 2, TOP - 4, RIGHT + 8, BOTTOM - 2), obstacles, thin)


def residue_bar(row: dict[str, object], delta_percent: float, uid: str) -> str:
    """One channel's residue in percent of the original knowledge, with interval and tolerance.

    Args:
        row: An entry of ``Verdict.details["channels"]``.
        delta_percent: The tolerance, drawn as a dashed line.
        uid: Unique on the page.
    """
    x = Axis(-20.0, 100.0, 4.0, 156.0)
    excess, (low, high) = float(str(row["excess_percent"])), _pair(row["ci"])
    kind = "convicts" if row["convicts"] else "quiet"
    body = [
        f'<path d="M{x(-20)} 11 H{x(100)}" class="grid"/>',
        f'<path d="M{x(0)} 5 V17" class="axis"/>',
        f'<path d="M{x(delta_percent)} 2 V20" class="delta"/>',
        f'<path d="M{x(low)} 11 H{x(high)}" class="span {kind}"/>',
        f'<circle cx="{x(excess)}" cy="11" r="4.2" class="dot {kind}"/>',
    ]
    told = f"{excess:.0f}% of the original knowledge, interval {low:.0f}% to {high:.0f}%"
    return svg(160, 22, told, f"Tolerance {delta_percent:.0f}%.", body, uid)


def _pair(ci: object) -> tuple[float, float]:
    assert isinstance(ci, list | tuple)
    return float(ci[0]), float(ci[1])
