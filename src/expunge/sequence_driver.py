"""A recipe with a `sequence`: its requests carried out in turn, and one table and picture over all of them.

Each request is an ordinary run in a folder of its own, so the whole resumes like a run does. Which records each one
was asked to forget is read back from what the run filed, and compared: no step may repeat an earlier one.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from rich.console import Console

from expunge.errors import InputError, nearest
from expunge.journal import lock_folder
from expunge.recipe import Recipe
from expunge.report import _drift as report
from expunge.report.scorecard import Scorecard
from expunge.sequence import read_link, steps
from expunge.sequence_data import resolve
from expunge.wing import find_wing

TABLE = "sequence.json"


def execute_all(recipe: Recipe, *, console: Console | None = None, force: bool = False) -> list[Scorecard]:
    """Carry out every request of a sequence, or what is left of it.

    Args:
        recipe: A recipe with a `sequence`.
        console: Where progress is shown; None shows nothing.
        force: Redo everything but the prepared models.

    Returns:
        The scorecards of the runs, in turn; the table lies in ``sequence.json``, the page in ``report.html``.

    Raises:
        InputError: Wrong data, names or settings, or two requests for the same records.
        RunError: A run failed; what was finished is kept and the same command resumes.
    """
    from expunge.runner import execute

    runs, folder = steps(recipe), Path(recipe.out)
    _require_data(recipe, runs)
    folder.mkdir(parents=True, exist_ok=True)
    cards: list[Scorecard] = []
    with lock_folder(folder):
        (folder / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
        for number, run in enumerate(runs, 1):
            if console:
                console.print(f"[bold]request {number} of {len(runs)}[/]", highlight=False)
            _refuse_repetition(run, runs[: number - 1])
            cards.append(execute(run, console=console, force=force))
            _require_measured(cards[-1], recipe)
            write(recipe, runs[:number], cards)
    return cards


def _require_data(recipe: Recipe, runs: list[Recipe]) -> None:
    """Read every request's data once, so that a missing fold is not found out after hours of training.

    Raises:
        InputError: Wrong settings, missing or malformed data.
    """
    wing = find_wing(recipe.benchmark.wing)
    if len(runs) > 1 and not wing.continues:
        raise InputError(f"sequence: several requests in turn are for language models so far, not for {wing}.")
    for number, run in enumerate(runs):
        try:
            run.benchmark.build().load(run.seed)
            if run.request is not None and run.request.forget is not None:
                wing.request_rows(run.request.forget)
        except InputError as error:
            raise InputError(f"sequence.requests.{number}: {error}") from None


def _refuse_repetition(run: Recipe, before: list[Recipe]) -> None:
    """No two requests may ask for the same records.

    Raises:
        InputError: This one asks for those of an earlier one.
    """
    forget = resolve(run).link.forget
    for number, other in enumerate(before):
        link = read_link(Path(other.out))
        if link is not None and link.forget == forget:
            raise InputError(
                f"sequence.requests.{len(before)} asks for the same records as sequence.requests.{number}."
            )


def _require_measured(card: Scorecard, recipe: Recipe) -> None:
    """Refuse a further column that nothing measures.

    Raises:
        InputError: Names it.
    """
    assert recipe.sequence is not None
    measured = {f"{f.metric}@{f.split}" for f in card.findings}
    for key in recipe.sequence.show:
        if key not in measured:
            raise InputError(f"sequence.show: {key!r} is not measured.{nearest(key, measured)}")


def curves_of(recipe: Recipe, runs: list[Recipe], cards: list[Scorecard]) -> dict[str, Any]:
    """The table's data: one entry per request."""
    assert recipe.sequence is not None
    by: report.By = "request" if recipe.sequence.start == "previous" else "records"
    measured = [
        report.Measured(number, link.records if (link := read_link(Path(run.out))) else 0, card)
        for number, (run, card) in enumerate(zip(runs, cards, strict=True), 1)
    ]
    return report.drift(measured, by, recipe.sequence.show)


def write(recipe: Recipe, runs: list[Recipe], cards: list[Scorecard]) -> None:
    """The table as data and as a page."""
    folder, curves = Path(recipe.out), curves_of(recipe, runs, cards)
    links = [(f"Request {i}", f"{i}/report.html") for i in range(1, len(runs) + 1)]
    _replace(folder / TABLE, json.dumps({"name": recipe.name, "methods": curves}, indent=1) + "\n")
    _replace(folder / "report.html", report.page(recipe.name, curves, links))


def _replace(path: Path, text: str) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def read_curves(folder: Path) -> dict[str, Any]:
    """The table of a sequence as it lies in its folder."""
    curves: dict[str, Any] = json.loads((folder / TABLE).read_text(encoding="utf-8"))["methods"]
    return curves
