"""The share of the way from target to gold: closed forms, and where there is none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from expunge.report.gaps import normalised_gaps
from expunge.report.scorecard import Finding, Scorecard

BEFORE = Finding("accuracy", "forget", "target", 0.9, 0.85, 0.95, 100, "match-gold")
GOLD = replace(BEFORE, subject="gold", value=0.1, low=0.05, high=0.15)
AFTER = replace(BEFORE, subject="npo", value=0.3, low=0.2, high=0.4)


def test_the_closed_form_with_its_interval():
    """(.9 - .3) / (.9 - .1) = .75; the ends of [.2, .4] give .875 and .625."""
    (gap,) = normalised_gaps([BEFORE, GOLD, AFTER])
    assert (gap.subject, gap.metric, gap.split) == ("npo", "accuracy", "forget")
    assert (gap.value, gap.low, gap.high) == pytest.approx((0.75, 0.625, 0.875))


@pytest.mark.parametrize(("value", "share"), [(0.9, 0.0), (0.1, 1.0), (0.0, 1.125), (0.98, -0.1)])
def test_unchanged_is_0_gold_is_1_and_past_gold_is_more(value, share):
    (gap,) = normalised_gaps([BEFORE, GOLD, replace(AFTER, value=value)])
    assert gap.value == pytest.approx(share)


def test_the_scale_of_the_finding_does_not_matter():
    def scaled(f: Finding) -> Finding:
        return replace(f, value=3 - 7 * f.value, low=3 - 7 * f.high, high=3 - 7 * f.low)

    plain, other = normalised_gaps([BEFORE, GOLD, AFTER]), normalised_gaps(map(scaled, (BEFORE, GOLD, AFTER)))
    assert (other[0].value, other[0].low, other[0].high) == pytest.approx((plain[0].value, plain[0].low, plain[0].high))


@pytest.mark.parametrize(
    "findings",
    [
        [BEFORE, replace(GOLD, value=0.85, high=0.88), AFTER],  # target and gold cannot be told apart
        [replace(BEFORE, low=float("nan"), high=float("nan")), GOLD, AFTER],  # nobody knows whether they can
        [GOLD, AFTER],
        [BEFORE, AFTER],
        [BEFORE, GOLD, replace(AFTER, value=float("nan"))],
        [replace(f, direction="higher") for f in (BEFORE, GOLD, AFTER)],
        [replace(f, metric="forget_quality") for f in (BEFORE, GOLD, AFTER)],  # a p-value
    ],
)
def test_no_gap_where_there_is_none(findings):
    assert normalised_gaps(findings) == []


def test_gaps_survive_the_file(tmp_path: Path):
    card = Scorecard(findings=[BEFORE, GOLD, AFTER], gaps=normalised_gaps([BEFORE, GOLD, AFTER]))
    card.save(tmp_path / "scorecard.json")
    assert Scorecard.load(tmp_path / "scorecard.json").gaps == card.gaps
