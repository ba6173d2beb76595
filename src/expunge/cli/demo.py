"""``expunge demo``: the whole chain on the embedded test bed."""

from __future__ import annotations

from expunge.cli._common import (
    Debug,
    DryRun,
    Force,
    Out,
    Quiet,
    Seed,
    Threads,
    carry_out,
    failures_told,
    settings,
)


def demo(
    seed: Seed = None,
    out: Out = None,
    threads: Threads = None,
    force: Force = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Train, unlearn and audit a small embedded model.

    Needs no network and no GPU; the report is ready in minutes.
    """
    with failures_told(debug):
        from expunge.recipe import Recipe

        recipe = Recipe.load("demo", settings(seed, out, threads))
        carry_out(recipe, force=force, dry_run=dry_run, quiet=quiet)
