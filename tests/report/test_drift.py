"""Several requests in turn, as data, table, picture and page."""

from __future__ import annotations

import io
import json
import re

import pytest
from rich.console import Console
from test_html import Page

from expunge.report._drift import Measured, drift, page, picture, print_drift, rows, section
from expunge.report.html import render
from expunge.report.scorecard import Evidence, Finding, Scorecard, Verdict


def card(**scores: tuple[float | None, float | None, float]) -> Scorecard:
    """(forget, forget_earlier, retain) accuracy of each model; NPO has a verdict."""
    made = Scorecard(verdicts={"npo": Verdict("suppressed", "So it is.")})
    for name, values in scores.items():
        for split, value in zip(("forget", "forget_earlier", "retain"), values, strict=True):
            if value is not None:
                made.findings.append(Finding("accuracy", split, name, value, value, value, 9, "match-gold"))
    return made


FIRST = card(target=(1.0, None, 0.98), gold=(0.1, None, 0.97), npo=(0.2, None, 0.9))
SECOND = card(target=(1.0, 1.0, 0.98), gold=(0.12, 0.1, 0.96), npo=(0.3, 0.5, 0.7))
RUNS = [Measured(1, 96, FIRST), Measured(2, 24, SECOND)]


def test_the_numbers_are_those_of_the_scorecards() -> None:
    (columns,) = drift(RUNS).values()
    assert (columns["request"], columns["records"], columns["metric"]) == ([1, 2], [96, 24], "accuracy")
    assert (columns["forget"], columns["earlier"], columns["retain"]) == ([0.2, 0.3], [None, 0.5], [0.9, 0.7])
    assert columns["gold"]["forget"] == [0.1, 0.12]
    assert columns["target"]["retain"] == [0.98, 0.98]
    assert columns["verdict"] == ["suppressed"] * 2
    assert columns["auroc"] == [None, None]
    assert json.loads(json.dumps(columns)) == columns


def test_only_methods_are_followed() -> None:
    """The control and the references are made anew in every run; nothing drifts there."""
    with_control = card(target=(1.0, None, 1.0), control=(0.0, None, 1.0), npo=(0.2, None, 0.9))
    with_control.evidence["control"] = Evidence([], False, 1.0, False)
    assert list(drift([Measured(1, 5, with_control)])) == ["npo"]
    assert drift([Measured(1, 5, None)]) == {}


def test_a_run_that_was_not_audited_leaves_a_gap() -> None:
    curves = drift([Measured(1, 96, None), RUNS[1]])
    assert curves["npo"]["forget"] == [None, 0.3]
    first, second = rows(curves["npo"], curves)
    assert first[-1] == ("not audited", "")
    assert [value for value, _ in second] == ["2", "24", "30%", "50%", "70%", "◑ suppressed"]
    assert [gold for _, gold in second] == ["", "", "gold 12%", "gold 10%", "gold 96%", ""]


def test_the_score_is_one_that_both_sides_have() -> None:
    """A benchmark without accuracy: what is measured on forget and on retain records is taken, best known first."""
    made = Scorecard(verdicts={"npo": Verdict("suppressed", "")})
    for metric, splits in (
        ("odd", ("forget", "retain")),
        ("probability", ("forget", "retain")),
        ("rouge_l", ("forget",)),
    ):
        made.findings += [Finding(metric, s, "npo", 0.4, 0.4, 0.4, 9, "higher") for s in splits]
    assert drift([Measured(1, 5, made)])["npo"]["metric"] == "probability"
    made.findings = [f for f in made.findings if f.metric != "probability"]
    assert drift([Measured(1, 5, made)])["npo"]["metric"] == "odd"
    made.findings = [f for f in made.findings if f.metric != "odd"]
    assert drift([Measured(1, 5, made)])["npo"]["metric"] == "rouge_l"


def points(svg: str, role: str) -> list[tuple[float, float]]:
    (line,) = re.findall(rf'<polyline points="([^"]+)" class="line {role}"', svg)
    return [tuple(float(v) for v in pair.split(",")) for pair in line.split()]  # type: ignore[misc]


def test_the_picture_starts_at_the_target() -> None:
    svg = picture("npo", drift(RUNS)["npo"])
    kept, new, earlier = (points(svg, role) for role in ("retain", "unlearned", "earlier"))
    assert (len(kept), len(new), len(earlier)) == (3, 2, 1)
    assert [x for x, _ in kept[1:]] == [x for x, _ in new]
    assert kept[0][1] < kept[1][1] < kept[2][1]  # SVG grows downwards: retain falls
    assert earlier[0][1] < new[1][1]
    assert picture("npo", drift(RUNS[:1])["npo"])  # the target and one request are a line
    assert picture("npo", drift([Measured(1, 5, card(npo=(0.2, None, 0.9)))])["npo"]) == ""


def test_over_the_size_points_go_from_small_to_large() -> None:
    svg = picture("npo", drift(RUNS, "records")["npo"])
    new = points(svg, "unlearned")
    assert new[0][0] < new[1][0]
    assert new[0][1] < new[1][1]  # 24 records: 30%, above 96 records: 20%
    assert "records to forget" in svg


def test_further_columns() -> None:
    for made, value in ((FIRST, 0.8), (SECOND, 0.6)):
        made.findings.append(Finding("model_utility", "all", "npo", value, value, value, 9, "higher"))
    curves = drift(RUNS, show=["model_utility@all", "accuracy@retain"])
    assert curves["npo"]["more"] == {"model_utility@all": [0.8, 0.6], "accuracy@retain": [0.9, 0.7]}
    assert [value for value, _ in rows(curves["npo"], curves)[0]][-3:-1] == ["0.80", "90%"]


def test_undefined_values_are_gaps() -> None:
    nan = card(npo=(float("nan"), None, 0.5))
    assert drift([Measured(1, 5, nan)])["npo"]["forget"] == [None]


def test_report_and_page_are_well_formed_and_say_it() -> None:
    SECOND.curves["drift"] = drift(RUNS)
    html = render(SECOND)
    shown = Page(html)
    assert shown.stack == []
    assert "Drift over the requests" in shown.text
    assert "earlier records must not come back" in " ".join(shown.text.split())
    assert section({}) == ""
    assert "Drift over" not in render(FIRST)
    alone = Page(page("<b>", drift(RUNS, "records"), [("Request 1", "1/report.html")]))
    assert alone.stack == []
    assert "Over the size of the forget set" in alone.text
    assert ("href", "1/report.html") in alone.attributes
    assert "<b>" in alone.text  # escaped, so it is text


def test_names_are_escaped() -> None:
    evil = "<script>alert(1)</script>"
    made = Scorecard(findings=[Finding("accuracy", s, evil, 0.5, 0.5, 0.5, 9, "higher") for s in ("forget", "retain")])
    assert evil not in section(drift([Measured(1, 5, made), Measured(2, 5, made)]))


@pytest.mark.parametrize("by", ["request", "records"])
def test_in_the_terminal(by: str) -> None:
    out = io.StringIO()
    print_drift(drift(RUNS, by), Console(file=out, width=140))  # type: ignore[arg-type]
    assert re.search(r"NPO\s+1\s+96\s+20% \(gold 10%\)\s+90% \(gold 97%\)\s+◑ suppressed", out.getvalue())
    assert re.search(r"2\s+24\s+30% \(gold 12%\)\s+50% \(gold 10%\)\s+70%", out.getvalue())
    out = io.StringIO()
    print_drift({}, Console(file=out))
    assert out.getvalue() == ""
