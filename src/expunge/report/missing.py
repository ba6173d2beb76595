"""What an audit could not look at, and what that costs the verdict: a pure function of the scorecard."""

from __future__ import annotations

from typing import NamedTuple

from expunge.report._channels import Tolerance
from expunge.report._sentences import channel_name, listed
from expunge.report.scorecard import Scorecard
from expunge.report.verdict import tolerance_of


class Missing(NamedTuple):
    """Evidence that is not there."""

    what: str
    cost: str


def missing_evidence(scorecard: Scorecard, tolerance: Tolerance | None = None) -> list[Missing]:
    """Which models, records and tests this audit went without.

    Args:
        scorecard: A finished audit.
        tolerance: The thresholds it is judged by; those of the run if not given.

    Returns:
        One entry for each, the costliest first; empty for a complete audit.
    """
    tolerance = tolerance or tolerance_of(scorecard)
    if not scorecard.findings and not scorecard.evidence:  # nothing was audited
        return []
    return [*_models(scorecard), *_records(scorecard, tolerance), *_tests(scorecard, tolerance)]


def _models(card: Scorecard) -> list[Missing]:
    measured = {f.subject for f in card.findings} | set(card.evidence)
    found = []
    if "gold" not in measured:
        found.append(
            Missing(
                "No gold model (retrained without the forgotten data)",
                "nothing shows what a model that never saw the data would answer, so no verdict goes beyond "
                "inconclusive and no number is a distance to gold",
            )
        )
    if "target" not in measured:
        found.append(
            Missing(
                "No target model (the model before unlearning)",
                "what it knew before is not known, so neither what it forgot nor what it lost beside that can be "
                "told, and no verdict goes beyond inconclusive",
            )
        )
    if {"target", "gold"} <= measured and "control" not in card.evidence:
        found.append(
            Missing(
                "No control (a target that only hides what it knows)",
                "no test was shown to find hidden knowledge, so tests may convict but not clear",
            )
        )
    if {"target", "gold"} <= measured and "gold_2" not in measured:
        found.append(
            Missing(
                "No spare gold model (a second one, of another seed)",
                "how far apart two models are that never saw the data is not known; a difference of that size may be "
                "taken for a residue",
            )
        )
    return found


def _records(card: Scorecard, tolerance: Tolerance) -> list[Missing]:
    found = []
    if not any(f.metric.startswith("membership.") for f in card.findings):
        found.append(
            Missing(
                "No holdout records (like the forgotten ones, never trained on)",
                "whether training on the forgotten records can be detected was not tested",
            )
        )
    if card.evidence and all(e.utility_ratio != e.utility_ratio for e in card.evidence.values()):
        found.append(
            Missing(
                "No retained records beside a target",
                "what the model lost besides the forgotten data was not measured, so it cannot be cleared",
            )
        )
    subjects = max((len(c.sizes) for e in card.evidence.values() for c in e.channels), default=0)
    if 0 < subjects < tolerance.minimum_clusters:
        found.append(
            Missing(
                f"Forgotten records of {subjects} data subjects only",
                f"a test needs {tolerance.minimum_clusters}; records need a field that says whom they are about",
            )
        )
    return found


def _tests(card: Scorecard, tolerance: Tolerance) -> list[Missing]:
    run = {c.channel for e in card.evidence.values() for c in e.channels}
    if not run:
        return []
    absent = [channel_name(c) for c in tolerance.required if c not in run]
    if not absent:
        return []
    were = "was" if len(absent) == 1 else "were"
    return [Missing(f"{listed(absent).capitalize()} {were} not tried", "required to clear a model, not to convict it")]
