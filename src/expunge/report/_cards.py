"""Verdicts as the report shows them: one card for each model, and the audit tried on models whose truth is known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from expunge.report._sentences import channel_name, p_value
from expunge.report._words import VERDICTS, display_name
from expunge.report.plots import residue_bar
from expunge.report.scorecard import Scorecard, Verdict
from expunge.report.verdict import REFERENCES, judge, judge_model


def verdicts_of(scorecard: Scorecard) -> dict[str, Verdict]:
    """The stored verdicts on the methods, or those the evidence gives; references are not judged here."""
    stored = {name: v for name, v in scorecard.verdicts.items() if name not in REFERENCES}
    return stored or judge(scorecard)


def cards(scorecard: Scorecard) -> list[dict[str, Any]]:
    """One card per judged method."""
    words = scorecard.run.get("words", {})
    return [card(name, verdict, words) for name, verdict in verdicts_of(scorecard).items()]


def card(name: str, verdict: Verdict, words: Mapping[str, str] | None = None) -> dict[str, Any]:
    """A verdict for display: word, glyph, sentence, key figures and the channel table.

    Args:
        name: The model.
        verdict: Its verdict.
        words: The run's own words, such as names of the channels.
    """
    details, words = verdict.details, words or {}

    def named(channel: str) -> str:
        return words.get(f"channel {channel}", channel_name(channel))

    glyph, gloss = VERDICTS.get(verdict.verdict, ("?", ""))
    delta = 100 * float(details.get("tolerance", {}).get("delta", 0.10))
    rows = [
        {
            **row,
            "name": named(row["channel"]),
            "bar": residue_bar(row, delta, f"residue-{name}-{i}"),
            "p_words": p_value(row["p_holm"]),
            "result": "convicts" if row["convicts"] else "clears" if row["acquits"] else "open",
        }
        for i, row in enumerate(details.get("channels", []))
    ]
    return {
        "name": name,
        "display": display_name(name),
        "word": verdict.verdict,
        "spoken": verdict.verdict.replace("-", " "),
        "glyph": glyph,
        "gloss": gloss,
        "why": verdict.why,
        "intention": details.get("intention", ""),
        "facts": _facts(details, rows),
        "rows": rows,
        "skipped": [{**s, "name": named(s["channel"])} for s in details.get("skipped", [])],
        "missing": [named(c) for c in details.get("missing", [])],
        "power": details.get("power", {}),
        "recovery": {named(c): r for c, r in details.get("recovery", {}).items()},
        "delta": delta,
    }


def _facts(details: dict[str, Any], rows: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Up to three figures that tell the story: known when asked, known under attack, utility kept."""
    facts = []
    asked = [r["excess_percent"] for r in rows if r["channel"] in ("direct", "paraphrase")]
    attacked = [r["excess_percent"] for r in rows if r["channel"] not in ("direct", "paraphrase")]
    if asked:
        facts.append((f"{max(0.0, *asked, 0.0):.0f}%", "known when asked"))
    if attacked:
        facts.append((f"{max(0.0, *attacked, 0.0):.0f}%", "back under attack"))
    utility = details.get("utility_ratio")
    if utility is not None and utility == utility:
        facts.append((f"{100 * utility:.0f}%", "of utility kept"))
    return facts


def self_check(scorecard: Scorecard) -> list[dict[str, Any]]:
    """The audit tried on models whose truth is known: it must convict the control and not the spare gold."""
    checks = []
    words = scorecard.run.get("words", {})
    control = words.get("control", "Control: a copy of the target trained only to refuse.")
    expectations = {
        "control": f"{control} It must be convicted.",
        "gold_2": "Spare gold: a second model that never saw the data. It must not be convicted.",
    }
    for name, about in expectations.items():
        if name in scorecard.evidence and scorecard.gap:
            verdict = judge_model(scorecard, name)
            convicted = verdict.verdict in ("suppressed", "not-forgotten")
            passed = verdict.verdict == "suppressed" if name == "control" else not convicted
            checks.append({"about": about, "passed": passed, "card": card(name, verdict, words)})
    return checks
