"""What was not there is said, with what it costs; a complete audit says nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
from synthetic_audit import build, channel, spread

from expunge.report._channels import Tolerance
from expunge.report.missing import missing_evidence
from expunge.report.scorecard import Scorecard


def words(card: Scorecard, tolerance: Tolerance | None = None) -> str:
    return "\n".join(f"{m.what}: {m.cost}" for m in missing_evidence(card, tolerance))


def without(card: Scorecard, model: str) -> Scorecard:
    card.findings = [f for f in card.findings if f.subject != model]
    card.evidence.pop(model, None)
    return card


@pytest.fixture
def complete() -> Scorecard:
    """An audit with every model, the holdout, and the one required test the synthetic one lacks."""
    card = build(["npo"])
    for evidence in card.evidence.values():
        evidence.channels.append(channel("latent", "1 direction", spread(0.0, seed=1)))
    return card


def test_a_complete_audit_goes_without_nothing(complete):
    assert missing_evidence(complete) == []


@pytest.mark.parametrize(
    ("model", "said", "cost"),
    [
        ("gold", "No gold model", "no verdict goes beyond inconclusive"),
        ("target", "No target model", "no verdict goes beyond inconclusive"),
        ("control", "No control", "may convict but not clear"),
        ("gold_2", "No spare gold", "not known"),
    ],
)
def test_each_missing_model_is_named_with_its_cost(complete, model, said, cost):
    text = words(without(complete, model))
    assert said in text
    assert cost in text


def test_missing_records_and_tests_are_named(complete):
    complete.findings = [f for f in complete.findings if not f.metric.startswith("membership.")]
    complete.evidence = {
        name: replace(e, utility_ratio=float("nan"), channels=[c for c in e.channels if c.channel != "relearn"])
        for name, e in complete.evidence.items()
    }
    text = words(complete)
    assert "No holdout records" in text
    assert "No retained records" in text
    assert "Relearning was not tried" in text


def test_too_few_data_subjects_are_counted(complete):
    few = words(complete, Tolerance(minimum_clusters=50))
    assert "Forgotten records of 20 data subjects only" in few
    assert "a test needs 50" in few
