"""``expunge bench RECIPE`` where the recipe compares detectors of training data."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from expunge.cli._common import RUN_FAILED, messages
from expunge.errors import InputError


def refuse(**given: bool) -> None:
    """Options that mean nothing here.

    Raises:
        InputError: One of them was given.
    """
    for name, used in given.items():
        if used:
            raise InputError(f"--{name.replace('_', '-')}: is for benches of methods; this recipe compares detectors.")


def detection_bench(
    raw: dict[str, Any],
    source: str,
    overrides: Iterable[str],
    detectors: str | None,
    out: Path | None,
    workers: int | None,
    *,
    dry_run: bool,
    quiet: bool,
) -> None:
    """Check the recipe and carry it out."""
    from expunge.bench.detection import load_detection

    bench = load_detection(raw, source, overrides, detectors=detectors, out=out)
    if dry_run:
        from expunge import _yaml

        typer.echo(_yaml.dump(bench.model_dump(mode="json")), nl=False)
        models = bench.targets + bench.references * (1 if bench.ref_dis == "shadow" else 2)
        typer.echo(
            f"{len(bench.cases)} cases, {models} models each, {len(bench.detectors)} detectors on {bench.targets} "
            f"targets and a stand-in; folder {bench.folder}",
            err=True,
        )
        return
    from expunge.bench.detection_board import overview, write
    from expunge.bench.detection_run import run_detection
    from expunge.bench.engines import physical_cores

    console, started = messages(quiet), time.monotonic()

    def tell(line: str) -> None:
        console.print(Text.assemble((f"[{time.monotonic() - started:4.0f} s] ", "dim"), line), highlight=False)

    results = run_detection(bench, workers=workers or physical_cores(), tell=tell)
    write(bench.folder, results)
    _print(overview(results), Console(width=None if Console().is_terminal else 150))
    failed = _failures(results)
    for sentence in failed:
        console.print(Text(sentence))
    console.print("table: ", end="")
    typer.echo(bench.folder / "results.html")
    if failed:
        raise typer.Exit(RUN_FAILED)


def _print(table: tuple[list[str], list[list[str]]], console: Console) -> None:
    heading, rows = table
    shown = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for head in heading:
        shown.add_column(head, overflow="fold")
    for row in rows:
        shown.add_row(*(Text(cell) for cell in row))
    console.print(shown)


def _failures(results: Mapping[str, Any]) -> list[str]:
    """One sentence for each detector that failed, and where."""
    found = {
        f"{case['name']}, {row['name']}: {'; '.join(row['notes'])}": None
        for case in results["cases"]
        for row in case["rows"]
        if row["status"] == "failed"
    }
    return list(found)
