"""The dose plot: what is drawn, from data alone."""

from __future__ import annotations

import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from expunge.errors import InputError
from expunge.language.insertion_plot import dose_page, dose_panels, dose_table
from expunge.language.insertion_response import Dose

DOSES = (0, 1, 4, 16)


def run(level: float, extracted: float = 0.0, epochs: float = 1.0) -> list[Dose]:
    """A dose-response that reaches `level` at the largest dose."""
    found = []
    for i, d in enumerate(DOSES):
        auc = {"loss": 0.5 + (level - 0.5) * i / 3, "min_k": 0.6} if d else {}
        found.append(Dose(d, d * epochs, 10, 2.0 - i / 4, auc, dict.fromkeys(auc, 0.02), extracted * i / 3))
    return found


CURVES = {"standard": [run(0.5), run(0.5)], "perturbed": [run(0.9, 0.5), run(1.0, 1.0)]}


def points(svg: str, role: str) -> list[tuple[float, float]]:
    """The points of a role's line in pixels."""
    found = re.search(rf'<polyline points="([^"]*)" class="line {role}"', svg)
    assert found is not None
    return [(float(x), float(y)) for x, y in (p.split(",") for p in found[1].split())]


def test_lines_are_means_over_seeds_and_gold_lies_on_one_half() -> None:
    detection, extraction = dose_panels(CURVES)
    chance, gold, perturbed = (points(detection, role) for role in ("chance", "gold", "unlearned"))
    assert {y for _, y in gold} == {y for _, y in chance}  # flat, at one half
    assert len(gold) == 3  # d = 0 is what the others are held against
    half, top, bottom = gold[0][1], 28.0, 206.0
    assert half == pytest.approx((top + bottom) / 2)
    assert perturbed[-1][1] == pytest.approx(bottom + 0.95 * (top - bottom), abs=0.1)
    written = points(extraction, "unlearned")
    assert len(written) == 4
    assert written[-1][1] == pytest.approx(bottom + 0.75 * (top - bottom), abs=0.1)
    assert {y for _, y in points(extraction, "gold")} == {bottom}
    assert "band unlearned" in detection
    assert "band chance" in detection
    assert "band gold" not in detection
    assert "2 seeds" in detection


def test_one_seed_has_no_band() -> None:
    detection, _ = dose_panels({"standard": [run(0.5)], "perturbed": [run(0.9)]})
    assert "band unlearned" not in detection


def test_the_page_is_self_contained() -> None:
    page = dose_page(CURVES, "A < B")
    assert "<title>A &lt; B</title>" in page
    assert "http" not in page.replace("http://www.w3.org", "")
    for svg in dose_panels(CURVES):
        ElementTree.fromstring(svg)


def test_the_table_holds_every_number() -> None:
    lines = dose_table(CURVES, ("loss", "min_k"))
    assert len(lines) == 2 + 8
    assert lines[-1] == "| perturbed | 16 | 16 | 1.25 / 1.25 | 0.90 / 1.00, 0.60 / 0.60 | 0.020 / 0.020 | 50% / 100% |"
    assert lines[2] == "| standard | 0 | 0 | 2.00 / 2.00 |  |  | 0% / 0% |"


def test_what_cannot_be_drawn() -> None:
    for curves in ({}, {str(i): [run(0.5)] for i in range(5)}):
        with pytest.raises(InputError, match="1 to 4 models"):
            dose_panels(curves)
    with pytest.raises(InputError, match="same numbers of copies"):
        dose_panels({"a": [run(0.5)], "b": [run(0.5)[:3]]})
    with pytest.raises(InputError, match="d = 0 and at least two"):
        dose_panels({"a": [run(0.5)[1:]]})
    assert dose_panels({"a": [[replace(x, d=x.d * 2) for x in run(0.5)]]})
