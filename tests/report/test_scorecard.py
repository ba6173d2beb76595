from __future__ import annotations

import json
import math
import subprocess
import sys

import pytest
from synthetic_audit import build

from expunge.errors import InputError
from expunge.report.scorecard import Finding, Scorecard


def test_round_trip(scorecard, tmp_path):
    scorecard.save(tmp_path / "s.json")
    assert Scorecard.load(tmp_path / "s.json") == scorecard
    assert [p.name for p in tmp_path.iterdir()] == ["s.json"]


def test_undefined_numbers_become_null_and_come_back(tmp_path):
    nan = float("nan")
    card = build(["npo"])
    card.findings = [Finding("accuracy", "forget", "npo", 0.5, nan, float("inf"), 3, "lower")]
    card.save(tmp_path / "s.json")
    stored = json.loads((tmp_path / "s.json").read_text())["findings"][0]
    assert (stored["low"], stored["high"]) == (None, None)
    loaded = Scorecard.load(tmp_path / "s.json")
    assert math.isnan(loaded.findings[0].low)
    assert loaded.value("accuracy", "forget", "npo") == 0.5
    assert loaded.value("accuracy", "forget", "rmu") is None


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no scorecard there"), ("{", "not a scorecard"), ("[]", "None"), ('{"schema": 99}', "schema 99")],
)
def test_what_is_not_a_scorecard(tmp_path, content, message):
    path = tmp_path / "s.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=message):
        Scorecard.load(path)


def test_importing_the_report_is_cheap():
    """The command line must start fast: scipy, jinja2 and torch are imported when they are used."""
    code = (
        "import sys, expunge.report.html, expunge.report.verdict, expunge.report.terminal;"
        "print([m for m in ('scipy', 'jinja2', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
