"""``expunge run RECIPE [key=value...]``."""

from __future__ import annotations

from typing import Annotated

import typer

from expunge.cli._common import (
    Debug,
    DryRun,
    FailOn,
    Force,
    Out,
    Quiet,
    Seed,
    Threads,
    carry_out,
    failures_told,
    parse_gates,
    settings,
)


def run(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe file, or a packaged recipe's name.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE",
            help="Changes to it, e.g. target.train.lr=1e-4 methods=[npo,grad-diff].",
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
        from expunge.recipe import Recipe

        gates = parse_gates(fail_on)
        checked = Recipe.load(recipe, [*(overrides or ()), *settings(seed, out, threads)])
        carry_out(checked, gates=gates, force=force, dry_run=dry_run, quiet=quiet)
