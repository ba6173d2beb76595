"""``expunge run RECIPE [key=value...]`` and ``expunge run --continue RUN --forget FILE [key=value...]``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from expunge.cli._common import (
    GATE_FAILED,
    Debug,
    DryRun,
    FailOn,
    Force,
    Out,
    Quiet,
    Seed,
    Threads,
    carry_out,
    conclude,
    failures_told,
    messages,
    parse_gates,
    settings,
)

if TYPE_CHECKING:
    from expunge.gates import Gate
    from expunge.recipe import Recipe


def run(
    recipe: Annotated[
        str | None,
        typer.Argument(
            metavar="[RECIPE]",
            help="A recipe file, or a packaged recipe's name. None with --continue.",
            show_default=False,
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE",
            help="Changes to it, e.g. target.train.lr=1e-4 methods=[npo,grad-diff].",
            show_default=False,
        ),
    ] = None,
    continues: Annotated[
        Path | None,
        typer.Option(
            "--continue",
            metavar="RUN",
            help="A further erasure request: start from the unlearned models of this finished run.",
            show_default=False,
        ),
    ] = None,
    forget: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="What is to be forgotten, instead of the benchmark's own: records, or rows "
            '{"cluster": NAME}, each for all that is kept about somebody.',
            show_default=False,
        ),
    ] = None,
    fail_on: FailOn = None,
    seed: Seed = None,
    out: Out = None,
    threads: Threads = None,
    force: Force = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Carry out a recipe: prepare, unlearn, audit, report. The same command resumes."""
    with failures_told(debug):
        gates = parse_gates(fail_on)
        checked = _checked(recipe, list(overrides or ()), continues, forget, settings(seed, None, threads), out)
        if checked.sequence is not None:
            _carry_out_all(checked, gates, force=force, dry_run=dry_run, quiet=quiet)
        elif checked.request is not None and not dry_run:
            _carry_out_request(checked, gates, force=force, quiet=quiet)
        else:
            carry_out(checked, gates=gates, force=force, dry_run=dry_run, quiet=quiet)


def _checked(
    recipe: str | None, overrides: list[str], run: Path | None, forget: str | None, common: list[str], out: Path | None
) -> Recipe:
    """The recipe that is meant."""
    from expunge.errors import InputError
    from expunge.recipe import Recipe
    from expunge.sequence import continuation

    if run is None:
        if recipe is None:
            raise InputError("Missing argument 'RECIPE': a recipe file, a packaged recipe's name, or --continue RUN.")
        asked = [] if forget is None else [f"request.forget={json.dumps(forget)}"]
        placed = [] if out is None else [f"out={json.dumps(str(out))}"]
        return Recipe.load(recipe, [*overrides, *asked, *common, *placed])
    if recipe is not None and "=" not in recipe:
        raise InputError(f"{recipe!r}: with --continue the recipe is that of the run; give changes as KEY=VALUE.")
    return continuation(run, forget, out, [*([recipe] if recipe else []), *overrides, *common])


def _carry_out_request(checked: Recipe, gates: Sequence[Gate], *, force: bool, quiet: bool) -> None:
    """Carry out one request on top of others; print what became of all of them."""
    from expunge.report._drift import print_drift
    from expunge.runner import execute

    card = execute(checked, console=messages(quiet), force=force)
    print_drift(card.curves.get("drift", {}), _wide(quiet))
    conclude(card, checked.out, gates, quiet)


def _wide(quiet: bool) -> Console:
    """Standard error, wide enough for a table where it is no terminal."""
    console = messages(quiet)
    return console if console.is_terminal else Console(stderr=True, quiet=quiet, width=140)


def _carry_out_all(checked: Recipe, gates: Sequence[Gate], *, force: bool, dry_run: bool, quiet: bool) -> None:
    """Carry out a sequence; print its table (stderr) and where its page is (stdout)."""
    if dry_run:
        _print_plan(checked)
        return
    from expunge.report._drift import print_drift
    from expunge.sequence_driver import execute_all, read_curves

    console = messages(quiet)
    cards = execute_all(checked, console=console, force=force)
    print_drift(read_curves(checked.out), _wide(quiet))
    console.print("report: ", end="")
    typer.echo(checked.out / "report.html")
    if gates:
        from expunge.gates import check

        failed = [f"request {i}: {text}" for i, card in enumerate(cards, 1) for text in check(gates, card.findings)]
        for sentence in failed:
            typer.echo(sentence, err=True)
        if failed:
            raise typer.Exit(GATE_FAILED)


def _print_plan(checked: Recipe) -> None:
    """The resolved recipe, and, as YAML comments, what each request would load and cost."""
    from expunge.planning import plan
    from expunge.sequence import steps

    typer.echo(checked.to_yaml(), nl=False)
    first = steps(checked)[0]
    for what, detail in plan(first):
        typer.echo(f"# request 1, {what}: {detail}")
    assert checked.sequence is not None
    typer.echo(f"# requests: {len(checked.sequence.requests)}, each about as much; prepared models are shared")
