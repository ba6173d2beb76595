from __future__ import annotations

import io

from rich.console import Console
from synthetic_audit import METHODS, build

from expunge.report.scorecard import Scorecard
from expunge.report.terminal import print_summary


def printed(card, **options) -> str:
    out = io.StringIO()
    print_summary(card, Console(file=out, width=80, **options))
    return out.getvalue()


def test_fits_eighty_columns_and_needs_no_colour(scorecard):
    text = printed(scorecard, no_color=True)
    assert max(map(len, text.splitlines())) <= 80
    assert "\x1b" not in text
    assert "…" not in text
    for name, verdict in scorecard.verdicts.items():
        assert verdict.verdict in text
        assert name in text.lower()
        assert " ".join(verdict.why.split()[:5]) in " ".join(text.split())


def test_rows_hold_the_numbers_in_order(scorecard):
    rows = {line.split()[0]: line.split()[1:] for line in printed(scorecard).splitlines() if line.strip()}
    assert rows["target"] == ["98%", "91%", "96%", "97%", "1e-07", "0.94"]
    assert rows["gold"] == ["6%", "7%", "8%", "97%", "0.53"]
    assert rows["RMU"] == ["4%", "5%", "62%", "94%", "4e-08", "0.52"]
    assert len(rows) > len(METHODS)


def test_unmeasured_columns_are_left_out():
    card = build(["npo"])
    card.findings = [f for f in card.findings if f.metric == "accuracy"]
    head = printed(card).split("target")[0]
    assert "quality" not in head
    assert "reworded" in head
    assert printed(Scorecard()).strip() == ""
