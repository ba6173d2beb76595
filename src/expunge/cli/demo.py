"""``expunge demo``: the whole chain on an embedded test bed."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

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


class Demo(StrEnum):
    """The demos there are: the packaged recipe of each."""

    language = "language"
    vision = "vision"
    recommend = "recommend"

    @property
    def recipe(self) -> str:
        """Name of its packaged recipe."""
        return "demo" if self is Demo.language else f"demo-{self}"


def demo(
    kind: Annotated[
        Demo, typer.Argument(help="What is unlearned: a language model, an image classifier or a recommender.")
    ] = Demo.language,
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

        recipe = Recipe.load(kind.recipe, settings(seed, out, threads))
        carry_out(recipe, force=force, dry_run=dry_run, quiet=quiet)
