"""The report: one HTML file with everything in it, for readers who were never told what expunge is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from expunge.report import _cards as verdicts
from expunge.report import _view as view
from expunge.report import plots
from expunge.report._drift import section as drift_section
from expunge.report._words import display_name
from expunge.report.missing import missing_evidence
from expunge.report.scorecard import Scorecard

_NOTHING_KNOWN: dict[str, Any] = {
    "recipe": "",
    "versions": {},
    "seed": "",
    "hardware": {},
    "data": {},
    "started": "",
    "notes": [],
}


def write_report(scorecard: Scorecard, path: Path) -> None:
    """Render the scorecard and write it atomically. The file opens offline and loads nothing."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(render(scorecard), encoding="utf-8")
    os.replace(temporary, path)


def render(scorecard: Scorecard) -> str:
    """The report as a string. Same scorecard, same string."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = _percent
    return environment.get_template("template.html.j2").render(_context(scorecard))


def _context(scorecard: Scorecard) -> dict[str, Any]:
    columns = view.columns_of(scorecard)
    cards = verdicts.cards(scorecard)
    tolerance = cards[0]["delta"] if cards else 10.0
    return {
        "headline": view.headline(scorecard),
        "tally": view.tally(scorecard),
        "cards": cards,
        "columns": [(name, display_name(name)) for name in columns],
        "tables": view.tables(scorecard),
        "scatter": plots.utility_forgetting(scorecard),
        "figures": _figures(scorecard),
        "checks": verdicts.self_check(scorecard),
        "abilities": view.abilities(scorecard),
        "suite_tolerance": scorecard.curves.get("suite", {}).get("tolerance", 0.0),
        "pictures": scorecard.run.get("pictures", []),
        "drift": drift_section(scorecard.curves.get("drift", {})),
        "published": view.published(scorecard),
        "missing": missing_evidence(scorecard),
        "has_ways": bool(scorecard.gaps),
        "glossary": view.glossary(scorecard),
        "has_gold": "gold" in columns,
        "judged_against_gold": bool(scorecard.gap),
        "delta": tolerance,
        "run": {**_NOTHING_KNOWN, **scorecard.run},
        "seconds": {k: _duration(v) for k, v in scorecard.run.get("seconds", {}).items()},
    }


def _percent(value: float | None) -> str:
    """A number that is in percent already, with a real minus sign; a dash for None.

    >>> _percent(41.3), _percent(-2.7), _percent(-0.2), _percent(None)
    ('41%', '−3%', '0%', '–')
    """
    return "–" if value is None else f"{round(value)}%".replace("-", "−")


def _duration(seconds: float) -> str:
    """Seconds as they are read.

    >>> _duration(42.3), _duration(512), _duration(7300)
    ('42 s', '8 min 32 s', '2 h 1 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _figures(scorecard: Scorecard) -> list[dict[str, Any]]:
    """The small multiples with the words above them; figures without data are left out."""
    detectors = {c.get("detector", "loss") for c in scorecard.curves.get("roc", {}).values()}
    figures = [
        (
            "Does it come back when trained on other forgotten records?",
            "Accuracy on forgotten records kept out of the attacker's training. A flat line near gold means "
            "there was nothing left to wake up; a rising one means that it was only asleep. Bands are 95% "
            "intervals.",
            plots.relearning(scorecard),
        ),
        (
            "Does it come back when trained on something unrelated?",
            "The same measurement after training on something that has nothing to do with the forgotten data.",
            plots.relearning(scorecard, "benign_relearning"),
        ),
        (
            "How forgetting went",
            "Accuracy on forgotten and on retained records while the method ran. The dashed line is where "
            "gold stands on the forgotten records.",
            plots.trajectory(scorecard),
        ),
        (
            "How plausible are wrong answers to it?",
            "Distribution of the truth ratio over the forgotten records. The unlearned model should follow "
            "gold: to the left it still prefers the truth, to the right it avoids it suspiciously.",
            plots.truth_ratio(scorecard),
        ),
        (
            "Can an attacker tell that it was trained on them?",
            f"Membership inference by {', '.join(sorted(detectors))}: forgotten records found, for the share "
            "of never-seen records accused by mistake. On the dotted line the attacker is guessing.",
            plots.roc(scorecard),
        ),
    ]
    return [
        {"title": title, "caption": caption, "panels": [(display_name(m), svg) for m, svg in panels.items()]}
        for title, caption, panels in figures
        if panels
    ]
