from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest
from synthetic_audit import METHODS, build

from expunge.report import plots
from expunge.report._labels import Spot, overlap, place_labels
from expunge.report._svg import Axis, apart, nice_ticks
from expunge.report.scorecard import Scorecard


def _figures(card):
    return {
        "trajectory": plots.trajectory(card),
        "truth_ratio": plots.truth_ratio(card),
        "roc": plots.roc(card),
        "relearning": plots.relearning(card),
        "benign": plots.relearning(card, "benign_relearning"),
    }


@pytest.fixture(scope="module")
def figures(scorecard):
    return _figures(scorecard)


def _line(svg: str, role: str) -> list[tuple[float, float]]:
    points = re.search(rf'<polyline points="([^"]*)" class="line {role}"', svg)
    assert points, f"no {role} line"
    return [(float(a), float(b)) for a, b in (p.split(",") for p in points[1].split())]


def test_one_accessible_panel_for_each_method(figures, scorecard):
    svgs = [svg for panels in figures.values() for svg in panels.values()]
    svgs += plots.utility_forgetting(scorecard)
    for panels in figures.values():
        assert list(panels) == list(METHODS)
    ids = []
    for svg in svgs:
        root = ElementTree.fromstring(svg)
        assert root.attrib["role"] == "img"
        title, described = root[0], root[1]
        assert root.attrib["aria-labelledby"].split() == [title.attrib["id"], described.attrib["id"]]
        assert title.text
        assert "%" in described.text or "Median" in described.text
        ids.append(title.attrib["id"])
    assert len(set(ids)) == len(ids)


def test_lines_are_where_the_numbers_are(scorecard):
    """y axis: 0% at 194 px, 100% at 26 px; x from 38 to 268 px, log(1 + step) for relearning."""
    curve = scorecard.curves["relearning"]["npo"]
    drawn = _line(plots.relearning(scorecard)["npo"], "unlearned")
    x = 38 + 230 * np.log1p(curve["step"]) / np.log1p(32)
    y = 194 - 168 * np.array(curve["held_out"])
    np.testing.assert_allclose(drawn, np.stack([x, y], axis=1), atol=0.06)


def test_gold_is_the_dashed_reference_of_the_trajectory(scorecard):
    """Gold's forget accuracy is 6%: a level line at 194 - 168 * 0.06 = 183.9 px."""
    assert _line(plots.trajectory(scorecard)["rmu"], "gold") == [(38.0, 183.9), (268.0, 183.9)]
    without = plots.trajectory(build(["rmu"], gold=False))["rmu"]
    assert "line gold" not in without


def test_truth_ratio_is_the_empirical_distribution():
    """Values 1, 10, 100 on a log axis: half of the height is reached at 10."""
    card = Scorecard(curves={"truth_ratio": {"npo": [1.0, 10.0, 100.0] * 50, "gold": [10.0] * 9}})
    line = _line(plots.truth_ratio(card)["npo"], "unlearned")
    at_half = [x for x, y in line if abs(y - 110) < 2]
    axis = Axis(1.0, 100.0, 38.0, 326.0, "log")
    assert at_half == pytest.approx([axis(10.0)] * len(at_half), abs=1)
    assert at_half


def test_roc_axis_is_logarithmic(scorecard):
    """Perfect guessing: chance at 1% false positives is 1% true positives, a third of the way along."""
    line = _line(plots.roc(scorecard)["npo"], "chance")
    x, y = min(line, key=lambda p: abs(p[0] - (38 + 288 / 3)))
    assert (x, y) == pytest.approx((134, 194 - 1.68), abs=0.2)


def test_scatter_marks_everybody_and_shades_the_goal(scorecard):
    overview, closeup = plots.utility_forgetting(scorecard)
    assert overview.count('class="mark ') == len(METHODS) + 4
    for svg in (overview, closeup):
        assert 'class="zone"' in svg
        assert 'class="mark gold"' in svg
    assert "task-vector" in ElementTree.fromstring(overview)[1].text
    assert "task-vector" not in closeup


def test_scatter_without_gold_or_data():
    (picture,) = plots.utility_forgetting(build(["npo", "rmu"], gold=False))
    assert 'class="zone"' not in picture
    assert plots.utility_forgetting(Scorecard()) == []


def test_missing_curves_draw_nothing():
    assert not any(_figures(Scorecard()).values())
    zero_steps = {"trajectory": {"guard": {"step": [0], "forget": [0.1], "retain": [0.9]}}}
    assert plots.trajectory(Scorecard(curves=zero_steps)) == {}


def test_labels_of_the_scatter_never_overlap(scorecard):
    rng = np.random.default_rng(0)
    spots = [Spot(float(x), float(y), "some-method", "unlearned") for x, y in rng.uniform(60, 300, (12, 2))]
    boxes = place_labels(spots, (0, 0, 400, 400))
    pairs = [(a, b) for i, a in enumerate(boxes) for b in boxes[i + 1 :]]
    assert max(overlap(a, b) for a, b in pairs) == 0
    marks = [(s.x - 5, s.y - 5, s.x + 5, s.y + 5) for s in spots]
    assert max(overlap(a, m) for a in boxes for m in marks) == 0


def test_apart_keeps_order_distance_and_bounds():
    placed = apart([5.0, 5.0, 6.0, 99.0], 10, 0, 100)
    assert placed == sorted(placed)
    assert np.diff(placed).min() >= 10
    assert placed[0] >= 0
    assert placed[-1] <= 100


def test_ticks():
    assert nice_ticks(0.87, 0.99) == (0.9, 0.95)  # 0.12 / 5 rounds up to steps of 0.05
    assert nice_ticks(0, 60) == (0, 20, 40, 60)
    assert Axis(1e-3, 1.0, 0, 90, "log", percent=True).tick_values() == pytest.approx((1e-3, 1e-2, 1e-1, 1))
    assert [Axis(0, 8, 0, 100, "steps")(s) for s in (0, 8, 99)] == [0, 100, 100]


def test_residue_bar_flags_convictions(scorecard):
    rows = scorecard.verdicts["npo"].details["channels"]
    bars = {r["channel"]: plots.residue_bar(r, 10.0, "x") for r in rows}
    assert "dot convicts" in bars["relearn"]
    assert "dot quiet" in bars["direct"]
