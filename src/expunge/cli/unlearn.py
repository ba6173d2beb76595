"""``expunge unlearn``: an erasure request in, an unlearned model out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from expunge.cli._common import (
    Debug,
    DryRun,
    Force,
    Quiet,
    Threads,
    failures_told,
    messages,
    print_plan,
    use_threads,
)


def unlearn(
    model: Annotated[str, typer.Option(help="Hub id, local folder, FILE.gguf, package:NAME or testbed.")],
    forget: Annotated[str, typer.Option(help="Records that must go: JSONL, JSON, CSV, Parquet or a hub data set.")],
    retain: Annotated[str | None, typer.Option(help="Records that must stay.", show_default=False)] = None,
    method: Annotated[str, typer.Option(help="See 'expunge list methods'.")] = "npo",
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="A setting of the method (beta=0.2), of training (train.lr=1e-4) or of the model "
            "(model.max_length=256). Repeatable.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Run folder.")] = Path("runs/unlearn"),
    seed: Annotated[int, typer.Option(help="Fixes every random draw.")] = 0,
    threads: Threads = None,
    force: Force = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Make a model forget some records. The same command resumes."""
    with failures_told(debug):
        from expunge import api
        from expunge._overrides import override

        hyper: dict[str, Any] = {}
        for text in changes or ():
            override(hyper, text)
        train, settings = hyper.pop("train", {}), hyper.pop("model", {})
        recipe = api.recipe_for(  # checks every name and setting before torch is loaded
            model,
            forget,
            retain,
            None,
            out=out,
            seed=seed,
            methods=[{"name": method, **hyper}],
            train=train,
            settings=settings,
        )
        if dry_run:
            print_plan(recipe)
            return
        use_threads(threads)
        result = api.unlearn(
            model,
            forget,
            retain,
            method=method,
            out=out,
            seed=seed,
            train=train,
            settings=settings,
            hyper=hyper,
            console=messages(quiet),
            force=force,
        )
        typer.echo(result.model)
