"""``expunge compare RUN...``: several runs side by side."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from expunge.cli._common import Debug, failures_told

if TYPE_CHECKING:
    from expunge.report.scorecard import Finding, Scorecard

# What a table shows when nobody chose: does it forget, does it keep, can training be told, does it come back.
HEADLINES = {
    "accuracy@forget": "forget",
    "accuracy@retain": "retain",
    "forget_quality@forget": "forget\nquality",
    "model_utility@all": "model\nutility",
    "membership.loss.auroc@forget": "member\nAUROC",
    "relearning.held_out_accuracy@forget": "after\nrelearn",
}


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Run folders, or their scorecard.json.")],
    metrics: Annotated[
        list[str] | None,
        typer.Option("--metric", metavar="METRIC@SPLIT", help="A column. Repeatable.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON array of everything measured.")] = False,
    debug: Debug = False,
) -> None:
    """Compare finished runs: one row for each model."""
    with failures_told(debug):
        from expunge.report.scorecard import Scorecard

        cards = {
            label: Scorecard.load(run if run.is_file() else run / "scorecard.json")
            for label, run in _labels(runs).items()
        }
        if as_json:
            rows = [row for label, card in cards.items() for row in _rows(label, card)]
            typer.echo(json.dumps(rows, indent=1, allow_nan=False))
        else:
            Console().print(_table(cards, _columns(cards, metrics)))


def _labels(runs: list[Path]) -> dict[str, Path]:
    """Folder names where they tell the runs apart, else the paths as typed."""
    folders = [run.parent if run.is_file() else run for run in runs]
    names = [folder.resolve().name for folder in folders]
    distinct = len(set(names)) == len(names)
    return dict(zip(names if distinct else map(str, runs), runs, strict=True))


def _models(card: Scorecard) -> list[str]:
    return list(dict.fromkeys(f.subject for f in card.findings))


def _rows(label: str, card: Scorecard) -> list[dict[str, Any]]:
    rows = []
    for model in _models(card):
        verdict = card.verdicts.get(model)
        findings = [{k: _plain(v) for k, v in asdict(f).items()} for f in card.findings if f.subject == model]
        judged = {"verdict": verdict.verdict, "why": verdict.why} if verdict else {"verdict": None, "why": None}
        rows.append({"run": label, "model": model, **judged, "findings": findings})
    return rows


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _columns(cards: dict[str, Scorecard], asked: list[str] | None) -> list[str]:
    """The asked-for columns, else the headline ones that were measured, else the first six."""
    from expunge.errors import InputError, nearest

    measured = dict.fromkeys(f"{f.metric}@{f.split}" for card in cards.values() for f in card.findings)
    for name in asked or ():
        if name not in measured:
            raise InputError(f"--metric {name!r}: not measured in these runs.{nearest(name, measured)}")
    return asked or [name for name in HEADLINES if name in measured] or list(measured)[:6]


def _table(cards: dict[str, Scorecard], columns: list[str]) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0))
    for heading in ("run", "model", "verdict"):
        table.add_column(heading, no_wrap=True, overflow="fold")
    for name in columns:
        table.add_column(HEADLINES.get(name, name.replace("@", "\n@")), justify="right", overflow="fold")
    for label, card in cards.items():
        found = {(f.subject, f"{f.metric}@{f.split}"): f for f in card.findings}
        for model in _models(card):
            verdict = card.verdicts.get(model)
            cells = [label, model, verdict.verdict if verdict else ""]
            cells += [_cell(found.get((model, name))) for name in columns]
            table.add_row(*(Text(cell) for cell in cells))
    return table


def _cell(finding: Finding | None) -> str:
    from expunge.report._words import metric_label, number

    if finding is None:
        return ""
    kind = metric_label(finding.metric).kind
    return number(finding.value, "number" if kind == "share" else kind)
