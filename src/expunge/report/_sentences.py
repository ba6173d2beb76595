"""The verdict in words: one plain sentence with the numbers that decided it.

Written for somebody who answers for the result but has never heard of the method. "The original knowledge"
is what the target model showed beyond a model that never saw the data.
"""

from __future__ import annotations

import math
from typing import Any

from expunge.report._channels import ChannelTest, Tolerance

CHANNELS = {
    "direct": "direct questions",
    "paraphrase": "reworded questions",
    "relearn": "relearning",
    "benign-relearn": "unrelated fine-tuning",
    "quantise-8": "8-bit rounding",
    "quantise-4": "4-bit rounding",
    "latent": "latent steering",
    "inside": "reading the internals",
    "input": "adversarial prompts",
}
_AFTER = {
    "relearn": "After {budget} of relearning on other forgotten records",
    "benign-relearn": "After {budget} of fine-tuning on something unrelated",
    "quantise-8": "After rounding the weights to 8 bits",
    "quantise-4": "After rounding the weights to 4 bits",
    "latent": "When its hidden states are steered ({budget})",
    "inside": "Read from its hidden states ({budget})",
    "input": "Under adversarial prompts ({budget})",
}


def channel_name(channel: str) -> str:
    """A channel in plain words; its own name where none is known."""
    return CHANNELS.get(channel, channel)


def p_value(p: float) -> str:
    """A p-value as it is printed.

    >>> p_value(0.0321), p_value(1e-9)
    ('p = 0.032', 'p < 0.001')
    """
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def listed(words: list[str]) -> str:
    """Join words as in a sentence.

    >>> listed(["a", "b", "c"])
    'a, b and c'
    """
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else ""


def _numbers(test: ChannelTest) -> str:
    return (
        f"95% interval {test.low:.0%} to {test.high:.0%}, {p_value(test.p_holm)} after correction, "
        f"{test.clusters} data subjects"
    )


def harm(utility_ratio: float, threshold: float, degenerate: bool) -> str:
    """What is broken in the model, empty if nothing is known to be."""
    parts = []
    if utility_ratio < threshold:
        parts.append(
            f"it keeps only {utility_ratio:.0%} of the target's score on what it should retain "
            f"(at least {threshold:.0%} asked)"
        )
    if degenerate:
        parts.append("its answers about the forgotten data are degenerate (repetitive or empty)")
    return " and ".join(parts)


def no_gold(weights_equal: bool) -> str:
    """No gold model was given."""
    same = "; its weights are unchanged from the target's" if weights_equal else ""
    return (
        "There is no gold model (one trained without the forgotten data) to compare with, so neither "
        f"forgetting nor its absence can be established{same}."
    )


def too_few(clusters: int, minimum: int) -> str:
    """The forget set has too few clusters for any test."""
    return f"The forget set covers {clusters} data subjects, too few to test anything: at least {minimum} are needed."


def nothing_to_forget(gap: float, p: float) -> str:
    """The target did not know the forget set."""
    return (
        "The target does not demonstrably know more about the forget set than a model that never saw it "
        f"(difference {gap:+.2f} on a scale from 0 to 1, {p_value(p)}), so there is nothing to forget and "
        "nothing to judge."
    )


def not_forgotten(test: ChannelTest, weights_equal: bool, damage: str) -> str:
    """The behaviour gate convicts."""
    asked = "Asked directly" if test.channel == "direct" else "Asked in other words"
    same = "; its weights are identical to the target's" if weights_equal else ""
    also = f"; besides, {damage}" if damage else ""
    shown = f"{test.excess:.0%} of the original knowledge ({_numbers(test)})"
    return f"{asked}, the model still shows {shown}{same}{also}."


def by_construction(behaviour: list[ChannelTest]) -> str:
    """Weights equal to the target's behind changed behaviour."""
    most = max([0.0, *(t.excess for t in behaviour)])
    shown = (
        f"although questions now find {most:.0%} of the original knowledge"
        if behaviour
        else "although what it answers could not be tested"
    )
    return (
        "Suppressed by construction: the weights are identical to the target's, so everything it knew is "
        f"still stored in it, {shown}."
    )


def suppressed(guilty: list[ChannelTest], intention: str, damage: str) -> str:
    """A hidden channel convicts; ``guilty`` is sorted, most excess first."""
    worst = guilty[0]
    after = _AFTER.get(worst.channel, "Under " + channel_name(worst.channel) + " ({budget})").format(
        budget=worst.budget
    )
    others = [channel_name(t.channel) for t in guilty[1:]]
    more = f", and {listed(others)} {'agrees' if len(others) == 1 else 'agree'}" if others else ""
    claim = ", although the method claims removal" if intention == "removal" else ""
    also = f"; besides, {damage}" if damage else ""
    return (
        f"{after}, {worst.excess:.0%} of the original knowledge comes back ({_numbers(worst)}){more}: it was "
        f"hidden, not forgotten{claim}{also}."
    )


def damaged(damage: str) -> str:
    """No channel convicts, but the model is broken."""
    return f"No residue was found, but the model is damaged, which would hide any: {damage}."


def consistent(able: list[ChannelTest], delta: float) -> str:
    """Every acquitting channel bounds the residue."""
    tried = listed([f"{channel_name(t.channel)} ({t.budget})" for t in able])
    worst = max(t.upper for t in able)
    return (
        f"No residue above {delta:.0%} of the original knowledge was found within the tested budget: "
        f"{tried}, each shown to find hidden knowledge, bound it below {math.ceil(100 * worst)}% "
        f"(95% confidence, {min(t.clusters for t in able)} data subjects)."
    )


def inconclusive(
    tests: list[ChannelTest],
    skipped: list[dict[str, str]],
    utility_ratio: float,
    tolerance: Tolerance,
    power: dict[str, Any],
) -> str:
    """Nothing convicts, but the evidence does not acquit: why not, most decisive reason first."""
    reasons = ["its utility was not measured"] if math.isnan(utility_ratio) else []
    run = {t.channel for t in tests} | {s["channel"] for s in skipped}
    asked = dict.fromkeys(("direct", *tolerance.required))
    missing = [channel_name(c) for c in asked if c not in run and not (c == "direct" and "paraphrase" in run)]
    if missing:
        reasons.append(f"{listed(missing)} {'was' if len(missing) == 1 else 'were'} not tested")
    reasons += [f"{channel_name(s['channel'])} could not be judged ({s['reason']})" for s in skipped]
    blocked: dict[str, list[str]] = {}
    for t in tests:
        if t.blocked and t.channel not in ("direct", "paraphrase"):
            blocked.setdefault(t.blocked, []).append(channel_name(t.channel))
    reasons += [f"{listed(names)} cannot clear it because {why}" for why, names in blocked.items()]
    wide = [t for t in tests if not t.blocked and not t.upper < tolerance.delta]
    if wide:
        bounds = listed([f"{channel_name(t.channel)} {t.upper:.0%}" for t in wide])
        reasons.append(f"the residue is only bounded by {bounds}")
    able = sum(not t.blocked for t in tests)
    if able < tolerance.acquitting_channels:
        reasons.append(f"{able} of at least {tolerance.acquitting_channels} tests needed could have cleared it")
    if power and power["needed"] and power["needed"] > power["clusters"]:
        reasons.append(
            f"with {power['clusters']} data subjects a model without any residue is cleared "
            f"{power['power']:.0%} of the time, and about {power['needed']} are needed for 80%"
        )
    found = max((t.excess for t in tests), default=0.0)
    opening = (
        f"Nothing convicts this model (largest excess {max(found, 0):.0%} of the original knowledge)"
        if tests
        else "No test could be judged"
    )
    return f"{opening}, but it cannot be cleared: {'; '.join(reasons)}."
