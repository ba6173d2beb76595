"""The verdict: removal, suppression or neither, decided from the scorecard alone.

Every test asks for the *excess*: how much more of the forgotten knowledge a model shows than a model that
never saw it (gold), as a share of what the target knew. The decision runs in this order:

0. *Integrity.* No gold model: ``inconclusive``. The target knew nothing measurable: ``nothing-to-forget``.
1. *Behaviour.* Direct or reworded questions still find it: ``not-forgotten``. Otherwise, if the weights are
   the target's own, it is ``suppressed`` by construction.
2. *Utility.* Retain score under 90% of the target's, or degenerate answers: no acquittal (``damaged``).
3. *Sensitivity.* A test may acquit only if it finds the planted suppressed model (``control``) and stays
   quiet on a spare gold model (``gold_2``). Any test may convict.
4. Any test with an excess above the tolerance and significant after Holm: ``suppressed``.
5. Every test that may acquit bounds the excess below the tolerance, at least four of them and the required
   ones included: ``consistent-with-removal``. An intersection-union test, so nothing is adjusted.
6. Otherwise ``inconclusive``, with the number of data subjects an acquittal would take.

The procedure is ours; the distinction of removal and suppression is from Ren et al., "SoK: Machine Unlearning
for Large Language Models" (arXiv 2506.09227).
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from expunge.report import _sentences as say
from expunge.report._channels import (
    BEHAVIOUR,
    ChannelTest,
    Tolerance,
    amount,
    channel_test,
    clusters_of,
    deciding_budget,
    run_channels,
    unit,
)
from expunge.report.scorecard import Evidence, Scorecard, Verdict
from expunge.report.statistics import acquittal_power, bca_interval, clusters_needed, one_sided_p

__all__ = [
    "BEHAVIOUR",
    "REFERENCES",
    "ChannelTest",
    "Tolerance",
    "channel_test",
    "deciding_budget",
    "judge",
    "judge_model",
    "tolerance_of",
]

REFERENCES = ("target", "gold", "gold_2", "control")


def judge(scorecard: Scorecard, tolerance: Tolerance | None = None) -> dict[str, Verdict]:
    """Judge every method of a scorecard: model name to verdict. References get none."""
    names = [name for name in scorecard.evidence if name not in REFERENCES]
    return {name: judge_model(scorecard, name, tolerance) for name in names}


def tolerance_of(scorecard: Scorecard) -> Tolerance:
    """The thresholds a run was judged by; the defaults where it does not say."""
    found = scorecard.run.get("tolerance")
    return Tolerance(**{**found, "required": tuple(found["required"])}) if found else Tolerance()


def judge_model(scorecard: Scorecard, name: str, tolerance: Tolerance | None = None) -> Verdict:
    """Judge one model, which may also be a reference (the control should come out as suppressed).

    Args:
        scorecard: The findings; only ``gap`` and ``evidence`` are read.
        name: A key of ``scorecard.evidence``.
        tolerance: Thresholds; those of the run if not given.

    Raises:
        ValueError: The evidence holds an excess outside [-1, 1].
    """
    tolerance = tolerance or tolerance_of(scorecard)
    evidence = scorecard.evidence[name]
    details: dict[str, Any] = {
        "tolerance": {**asdict(tolerance), "required": list(tolerance.required)},
        "intention": evidence.intention,
        "weights_equal_target": evidence.weights_equal_target,
        "utility_ratio": evidence.utility_ratio,
        "degenerate": evidence.degenerate,
        "channels": [],
        "skipped": [],
    }
    if not scorecard.gap:
        return Verdict("inconclusive", say.no_gold(evidence.weights_equal_target), details)
    if len(scorecard.gap) < tolerance.minimum_clusters:
        why = say.too_few(len(scorecard.gap), tolerance.minimum_clusters)
        return Verdict("inconclusive", why, details)
    gaps = clusters_of(scorecard.gap, "gap", tolerance)
    gap, gap_p = bca_interval(gaps), one_sided_p(gaps)
    details["gap"] = {"value": gap.value, "ci": [gap.low, gap.high], "p": gap_p, "clusters": len(gaps)}
    if not gap_p < tolerance.gap_p:
        return Verdict("nothing-to-forget", say.nothing_to_forget(gap.value, gap_p), details)

    tests, skipped = run_channels(scorecard, evidence, gap.value, tolerance)
    details["channels"] = [_row(test, tolerance) for test in tests]
    details["skipped"] = skipped
    details["budgets"] = budgets = _budgets(evidence, gap.value)
    details["recovery"] = _recovery(budgets)
    details["missing"] = [c for c in tolerance.required if c not in {t.channel for t in tests}]
    details["power"] = power = _power(tests, tolerance)
    word, why = _decide(tests, skipped, evidence, tolerance, power)
    return Verdict(word, why, details)


def _decide(
    tests: list[ChannelTest],
    skipped: list[dict[str, str]],
    evidence: Evidence,
    tolerance: Tolerance,
    power: dict[str, Any],
) -> tuple[str, str]:
    """Steps 1 to 6 on tested channels: the word and the sentence."""
    harm = say.harm(evidence.utility_ratio, tolerance.utility, evidence.degenerate)
    behaviour = [t for t in tests if t.channel in BEHAVIOUR]
    guilty = sorted((t for t in tests if t.convicts(tolerance)), key=lambda t: -t.excess)
    speaking = [t for t in guilty if t.channel in BEHAVIOUR]
    if speaking:
        return "not-forgotten", say.not_forgotten(speaking[0], evidence.weights_equal_target, harm)
    if evidence.weights_equal_target:
        return "suppressed", say.by_construction(behaviour)
    if guilty:
        return "suppressed", say.suppressed(guilty, evidence.intention, harm)
    if harm:
        return "damaged", say.damaged(harm)
    able = [t for t in tests if not t.blocked]
    useful = evidence.utility_ratio >= tolerance.utility  # False as well when it was not measured
    complete = len(able) >= tolerance.acquitting_channels and set(tolerance.required) <= {t.channel for t in able}
    if useful and behaviour and complete and all(t.acquits(tolerance) for t in able):
        return "consistent-with-removal", say.consistent(able, tolerance.delta)
    return "inconclusive", say.inconclusive(tests, skipped, evidence.utility_ratio, tolerance, power)


def _row(test: ChannelTest, tolerance: Tolerance) -> dict[str, Any]:
    """One channel as it is written into the scorecard; shares as percent of the original knowledge."""
    return {
        "channel": test.channel,
        "budget": test.budget,
        "excess_percent": 100 * test.excess,
        "ci": [100 * test.low, 100 * test.high],
        "upper": 100 * test.upper,
        "p": test.p,
        "p_holm": test.p_holm,
        "clusters": test.clusters,
        "facts": test.facts,
        "sensitive": not test.blocked,
        "acquits": test.acquits(tolerance),
        "convicts": test.convicts(tolerance),
        "blocked": test.blocked,
        "control_percent": None if test.control is None else 100 * test.control,
        "gold_2_percent": None if test.spare is None else 100 * test.spare,
    }


def _budgets(evidence: Evidence, gap: float) -> list[dict[str, Any]]:
    """E_c at every budget: the least effort that brings back half of the knowledge can be read off."""
    return [
        {
            "channel": c.channel,
            "budget": c.budget,
            "excess_percent": 100 * float(np.mean(c.excess)) / unit(c, gap),
        }
        for c in evidence.channels
        if c.excess and unit(c, gap) > 0
    ]


def _recovery(budgets: list[dict[str, Any]]) -> dict[str, dict[str, str | None]]:
    """For each channel run at several budgets: the smallest bringing back 50% and 90%, or None."""
    by_channel: dict[str, list[dict[str, Any]]] = {}
    for entry in sorted(budgets, key=lambda b: amount(b["budget"])):
        by_channel.setdefault(entry["channel"], []).append(entry)
    return {
        channel: {
            f"{share}%": next((b["budget"] for b in entries if b["excess_percent"] >= share), None)
            for share in (50, 90)
        }
        for channel, entries in by_channel.items()
        if len(entries) > 1
    }


def _power(tests: list[ChannelTest], tolerance: Tolerance) -> dict[str, Any]:
    """What the audit could have shown: the chance to acquit a model without residue, and clusters needed.

    From the pooled spread between clusters seen in the attacks on this model, for as many channels as
    an acquittal takes; the clusters counted are those of the smallest channel.
    """
    attacks = [t for t in tests if t.channel not in BEHAVIOUR]
    if not attacks:
        return {}
    sd = float(np.sqrt(np.mean([t.sd**2 for t in attacks])))
    clusters = min(t.clusters for t in attacks)
    channels = max(tolerance.acquitting_channels, len(attacks))
    return {
        "clusters": clusters,
        "needed": clusters_needed(sd, tolerance.delta, channels=channels, alpha=tolerance.alpha),
        "power": acquittal_power(clusters, sd, tolerance.delta, channels=channels, alpha=tolerance.alpha),
        "channels": channels,
    }
