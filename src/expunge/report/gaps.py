"""Every finding as a share of the way from the target to gold: 0 nothing changed, 1 as if never seen.

The share is (before - after) / (before - gold). Above 1 the model went past gold: over-forgotten, which an attacker
can notice as well as remembering. It exists only where target and gold can be told apart; where they answer alike
there is no way to go, and dividing by the noise between them would print nonsense.
"""

from __future__ import annotations

from collections.abc import Iterable

from expunge.report._words import metric_label
from expunge.report.scorecard import Finding, Gap


def normalised_gaps(findings: Iterable[Finding]) -> list[Gap]:
    """The normalised gap of every finding whose target and gold values have disjoint 95% intervals.

    The interval is the finding's own, with target and gold held fixed. Two kinds have no gap: what is better the
    higher it is (gold is no ideal there), and p-values, which move with the number of records, not the distance.

    Args:
        findings: Findings of all models; ``target`` and ``gold`` themselves get no entry (0 and 1 by definition).

    Returns:
        Entries in the order of the findings.
    """
    findings = list(findings)
    known = {(f.metric, f.split, f.subject): f for f in findings}
    found = []
    for f in findings:
        before, gold = (known.get((f.metric, f.split, name)) for name in ("target", "gold"))
        if f.subject in ("target", "gold") or before is None or gold is None or not _apart(before, gold):
            continue
        if f.direction == "higher" or metric_label(f.metric).kind == "p" or f.value != f.value:
            continue
        ends = [_share(before, value, gold) for value in (f.low, f.high)]
        found.append(Gap(f.metric, f.split, f.subject, _share(before, f.value, gold), min(ends), max(ends)))
    return found


def _share(before: Finding, after: float, gold: Finding) -> float:
    return (before.value - after) / (before.value - gold.value)


def _apart(a: Finding, b: Finding) -> bool:
    """Whether two intervals are disjoint; an unknown end (NaN) tells nothing apart."""
    return a.high < b.low or b.high < a.low
