"""``expunge bench RECIPE``: methods times seeds, each with searched settings, on one leaderboard."""

from __future__ import annotations

import json
import time
from collections import deque
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from expunge.cli._common import RUN_FAILED, Debug, Quiet, failures_told, messages

if TYPE_CHECKING:
    from expunge.bench.board import Board
    from expunge.bench.cells import Job, Outcome
    from expunge.bench.settings import Bench


class EngineName(StrEnum):
    """Where jobs run."""

    local = "local"
    ray = "ray"


def bench(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A bench recipe file, or a packaged one's name.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE", help="Changes to it, e.g. tuning.trials=4 benchmark.forget=8.", show_default=False
        ),
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES", help="'all', or names with commas between. [default: the recipe's]", show_default=False
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds.")] = 1,
    out: Annotated[Path | None, typer.Option(help="Bench folder.", show_default=False)] = None,
    trials: Annotated[
        int | None, typer.Option(min=0, help="Settings tried for each method; 0 for none.", show_default=False)
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Jobs at a time. [default: physical cores]", show_default=False),
    ] = None,
    engine: Annotated[EngineName, typer.Option(help="Local processes, or Ray.")] = EngineName.local,
    limit_minutes: Annotated[
        float | None,
        typer.Option(min=0.0, help="Begin nothing new after this time.", show_default=False),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be searched and run.")] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Compare methods: search settings for each, run them on all seeds, rank them beside gold.

    A recipe with ``detectors``, such as tddbench, compares detectors of training data; --methods names some of them.

    The same command resumes. Exit codes: 0 done, 2 wrong input, 3 something failed (the rest is done).
    """
    with failures_told(debug):
        from expunge.bench.detection import is_detection, read_raw
        from expunge.bench.reading import load_variants

        if is_detection(raw := read_raw(recipe)):
            from expunge.cli.bench_detection import detection_bench, refuse

            refuse(seeds=seeds != 1, trials=trials is not None, engine=engine is not EngineName.local,
                   limit_minutes=limit_minutes is not None)  # fmt: skip
            detection_bench(raw, recipe, overrides or (), methods, out, workers, dry_run=dry_run, quiet=quiet)
            return
        benches = load_variants(recipe, overrides or (), methods=methods, seeds=seeds, trials=trials, out=out)
        if dry_run:
            for checked in benches:
                _print_plan(checked)
            return
        failed = [_run(checked, engine.value, workers, limit_minutes, quiet) for checked in benches]
    if any(failed):
        raise typer.Exit(RUN_FAILED)


def _run(checked: Bench, engine: str, workers: int | None, minutes: float | None, quiet: bool) -> bool:
    """Carry the bench out and print the table; whether something failed."""
    from expunge.bench.engines import make_engine, physical_cores
    from expunge.bench.grid import run_bench

    console = messages(quiet)
    with Shown(console) as shown:
        board = run_bench(
            checked,
            lambda: make_engine(engine, workers or physical_cores()),
            minutes=minutes,
            tell=shown.tell,
            plan=shown.plan,
        )
    print_board(board, Console(width=None if Console().is_terminal else 150))
    for row in board.failed:
        console.print(Text(f"{row.name}: {row.note}"))
    if board.unfinished:
        console.print(f"{len(board.unfinished)} methods are not finished; the same command continues.")
    console.print("leaderboard: ", end="")
    typer.echo(checked.out / "leaderboard.html")
    return bool(board.failed)


class Shown:
    """Progress on stderr: a bar on a terminal, a line for each finished job elsewhere."""

    def __init__(self, console: Console) -> None:
        """Show it on a console."""
        self.console = console
        self.progress = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.completed}/{task.total}"),
            TimeElapsedColumn(), TextColumn("[dim]{task.fields[left]}"), console=console, transient=True,
            disable=not console.is_terminal or console.quiet,
        )  # fmt: skip
        self.running: list[str] = []
        self.ended: deque[float] = deque(maxlen=20)
        self.done = self.total = 0

    def __enter__(self) -> Shown:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def plan(self, done: int, total: int) -> None:
        """How much there is to do."""
        self.done, self.total = done, total
        self.ended.append(time.monotonic())
        self.task = self.progress.add_task("bench", total=total, completed=done, left="")
        if done:
            self.console.print(f"[dim]{done} of {total} jobs are finished already[/]", highlight=False)

    def tell(self, job: Job, outcome: Outcome | None) -> None:
        """A job began, or ended."""
        if outcome is None:
            self.running.append(job.title)
        else:
            self.running.remove(job.title)
            self.done += 1
            self.ended.append(time.monotonic())
            self.console.print(_line(job, outcome, self.done, self.total), highlight=False)
        self.progress.update(self.task, completed=self.done, left=f"{self._left()}  {', '.join(self.running)}")

    def _left(self) -> str:
        """Time left, from the pace of the last jobs."""
        if len(self.ended) < 4:
            return ""
        pace = (self.ended[-1] - self.ended[0]) / (len(self.ended) - 1)
        return f"about {max(1, round(pace * (self.total - self.done) / 60))} min left"


def _line(job: Job, outcome: Outcome, done: int, total: int) -> Text:
    count = (f"[{done}/{total}] ", "dim")
    if outcome.status == "done":
        told = ""
        if job.kind == "search" and outcome.result.get("objective") is not None:
            told = f", {len(outcome.result['trials'])} trials, best {outcome.result['objective']:.3f}"
        if job.kind == "cell":
            told = f", distance {outcome.result['distance']:.3f}, utility {outcome.result['utility']:.0%}"
        return Text.assemble(count, ("✓ ", "green"), job.title, (f" {outcome.seconds:.0f} s{told}", "dim"))
    sign = {"failed": ("✕ ", "red"), "partial": ("… ", "yellow")}.get(outcome.status, ("– ", "yellow"))
    return Text.assemble(count, sign, f"{job.title}: {outcome.error}")


def print_board(board: Board, console: Console) -> None:
    """The compact table."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for heading in ("", *board.headings(wide=False)):
        table.add_column(heading, no_wrap=heading not in ("verdicts",), overflow="fold")
    for row in board.references:
        table.add_row("", *(Text(cell, style="dim") for cell in board.cells(row, 2, wide=False)))
    for i, row in enumerate(board.rows):
        mark = {"ranked": str(i + 1), "below-floor": "low"}.get(row.status, row.status.replace("-", " "))
        cells = board.cells(row, 2, wide=False)
        cells[-1] = "; ".join(words for words in (cells[-1], row.note) if words)
        table.add_row(Text(mark), *(Text(cell) for cell in cells))
    console.print(table)


def _print_plan(checked: Bench) -> None:
    """What would be done, as JSON."""
    typer.echo(json.dumps(checked.to_dict(), indent=1, default=str))
    cells = len(checked.methods) * len(checked.seeds)
    typer.echo(
        f"{len(checked.methods)} methods, {len(checked.seeds)} seeds: {cells} cells, "
        f"{checked.tuning.trials} trials for each method, {len(checked.skipped)} methods not run; folder {checked.out}",
        err=True,
    )
