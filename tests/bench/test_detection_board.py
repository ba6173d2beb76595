"""The tables of a detection bench: means, ranks, best cases and remarks, by hand."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import pytest

from expunge.bench.detection_board import detail, headline, lines, markdown, overview, page


def row(name: str, target: int, auroc: float | None, **changes: Any) -> dict[str, Any]:
    measured = {
        "auroc": {"value": auroc, "low": 0.4, "high": 0.9}, "tpr_at_fpr": {"0.01": {"value": 0.1, "low": 0, "high": 1}},
        "published": {"best": {"accuracy": 0.7}}, "calibrated": {"accuracy": 0.6}, "members": 5, "nonmembers": 5,
        "cost": {"seconds": 2.0, "peak_mib": 3.0, "queries": 20, "other_queries": 0, "gradients": 0, "trainings": 4,
                 "training_seconds": 1.5},
    }  # fmt: skip
    base = {"name": name, "target": target, "paradigm": "metric", "status": "measured", "notes": [], "comparable": True}
    return {
        **base,
        **(measured if auroc is not None else {"status": "not-applicable", "notes": ["no <text>"]}),
        **changes,
    }


def results() -> dict[str, Any]:
    first = [row("A", 0, 0.6), row("B", 0, 0.9), row("C", 0, 0.8), row("A", 1, 0.8), row("B", 1, 0.5), row("C", 1, 0.6)]
    second = [row("A", 0, 0.9), row("B", 0, None), row("C", 0, 0.99, comparable=False, notes=["3 of 10 | only"])]
    second += [row("A", 1, 0.7), row("B", 1, None), row("C", 1, 0.99, comparable=False, notes=["3 of 10 | only"])]
    about = {"kind": "image", "records": 40, "classes": 2, "repeated": 1, "noise": 0.1, "note": "drawn", "model": "cnn",
             "accuracy": {"members": 1.0, "nonmembers": 0.5}, "data": "x"}  # fmt: skip
    return {
        "name": "t", "targets": 2, "references": 4, "ref_dis": "target_ref", "detectors": ["A", "B", "C"],
        "cases": [{"name": "one", "rows": first, **about}, {"name": "two", "rows": second, **about}],
        "missing": {"three": "No scikit-learn."},
    }  # fmt: skip


def test_ranks_by_hand() -> None:
    """One: A, B, C have .7 each and share place 2. Two: A alone is ranked (B does not apply, C saw a part)."""
    a, *rest = lines(results())
    assert (a.name, a.rank, a.mean) == ("A", 1.5, pytest.approx(0.75))
    assert a.best is not None
    assert (a.best[0], a.best[1].mean, a.best[1].std) == ("two", 0.8, pytest.approx(0.141421, abs=1e-5))
    assert {line.name: line.rank for line in rest} == {"B": 2.0, "C": 2.0}
    assert rest[0].name == "C"  # equal ranks: by mean AUROC
    assert rest[0].best is not None
    assert rest[0].best[0] == "two"


def test_cells() -> None:
    heading, rows = overview(results())
    assert heading == ["rank", "detector", "paradigm", "mean AUROC", "best case", "one", "two"]
    assert rows[0] == ["1.5", "A", "metric", "0.750", "0.800 (two)", "0.700 ± 0.141", "0.800 ± 0.141"]
    assert rows[1][-1] == "0.990 ± 0.000 *"
    assert rows[2][-1] == "not applicable"
    heading, rows = detail(results(), "two")
    assert "TPR @ 0.1% FPR" not in heading
    first = dict(zip(heading, rows[0], strict=True))
    assert first["queries / record"] == "2.0"
    assert first["trainings"] == "4"
    assert dict(zip(heading, rows[2], strict=True))["note"] == "not applicable; no <text>"


def test_a_failed_target_is_told() -> None:
    broken = results()
    broken["cases"][0]["rows"][1] |= {"status": "failed", "notes": ["No such layer."]}
    _, rows = overview(broken)
    assert next(r for r in rows if r[1] == "B")[-2] == "failed"


def test_markdown() -> None:
    text = markdown(results())
    assert text.startswith("# Bench t\n\nA finds training data best: mean AUROC 0.750 over its cases.")
    assert "3 of 10 \\| only" in text
    assert "three was not run. No scikit-learn." in text
    assert "10% of the labels were drawn anew" in text
    counts = {line.count(" | ") for line in text.splitlines() if line.startswith("| ") and "1.5" in line[:6]}
    assert counts == {6}


class Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.cells = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag != "meta":
            self.open.append(tag)
        self.cells += tag in ("td", "th")
        self.loads += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_loads_nothing() -> None:
    reader, text = Reader(), page(results())
    reader.feed(text)
    assert (reader.open, reader.loads) == ([], [])
    assert reader.cells == 7 * 4 + 13 * 4 + 13 * 4
    assert "no &lt;text&gt;" in text
    assert 'style="--a:36"' in text  # AUROC .8


def test_nothing_measured() -> None:
    empty = results()
    for case in empty["cases"]:
        case["rows"] = [row(name, 0, None) for name in ("A", "B", "C")]
    assert headline(empty) == "No detector was measured."
    assert "not applicable" in markdown(empty)
