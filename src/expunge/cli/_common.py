"""What commands share: options, how failures are told, how a run is started and reported."""

from __future__ import annotations

import errno
import json
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from expunge.errors import ExpungeError

if TYPE_CHECKING:
    from expunge.gates import Gate
    from expunge.recipe import Recipe
    from expunge.report.scorecard import Scorecard

GATE_FAILED, RUN_FAILED, INTERRUPTED = 1, 3, 130

Seed = Annotated[int | None, typer.Option(help="Fixes every random draw.", show_default=False)]
Out = Annotated[Path | None, typer.Option(help="Run folder.", show_default=False)]
Threads = Annotated[int | None, typer.Option(help="CPU threads.", show_default=False)]
Force = Annotated[bool, typer.Option("--force", help="Redo what is finished instead of resuming.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print the resolved recipe, what would be loaded, memory and time.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]
FailOn = Annotated[
    list[str] | None,
    typer.Option(
        metavar="EXPR",
        help="Exit with 1 when this holds for an unlearned model, e.g. 'membership.auroc>0.6'. Repeatable.",
        show_default=False,
    ),
]


@contextmanager
def failures_told(debug: bool) -> Iterator[None]:
    """Turn whatever goes wrong into one sentence on stderr and the right exit code."""
    try:
        yield
    except (typer.Exit, BrokenPipeError):
        raise
    except KeyboardInterrupt:
        typer.echo("interrupted: the same command resumes.", err=True)
        raise typer.Exit(INTERRUPTED) from None
    except Exception as error:
        if debug:
            traceback.print_exc()
        typer.echo(f"error: {_sentence(error, debug)}", err=True)
        code = error.exit_code if isinstance(error, ExpungeError) else RUN_FAILED
        raise typer.Exit(code) from None


def _sentence(error: Exception, debug: bool) -> str:
    if isinstance(error, ExpungeError):
        return str(error)
    if _out_of_memory(error):
        return (
            "out of memory; lower train.micro_batch, set train.gradient_checkpointing=true or use "
            "model.lora, and run the same command to resume."
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full; free some space and run the same command to resume."
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}."
    first = (str(error).strip().splitlines() or ["no message"])[0]
    hint = "" if debug else " Use --debug for the traceback."
    return f"unexpected {type(error).__name__}: {first.rstrip('.')}.{hint}"


def _out_of_memory(error: Exception) -> bool:
    named = any(cls.__name__ == "OutOfMemoryError" for cls in type(error).__mro__)  # torch's, without torch
    return named or isinstance(error, MemoryError) or "can't allocate memory" in str(error)


def messages(quiet: bool = False) -> Console:
    """Where messages go; data goes to stdout."""
    return Console(stderr=True, quiet=quiet)


def settings(seed: int | None, out: Path | None, threads: int | None) -> list[str]:
    """The common options as recipe overrides."""
    given = {"seed": seed, "out": None if out is None else str(out), "threads": threads}
    return [f"{key}={json.dumps(value)}" for key, value in given.items() if value is not None]


def use_threads(threads: int | None) -> None:
    """Limit torch to some CPU threads."""
    if threads:
        import torch

        torch.set_num_threads(threads)


def parse_gates(expressions: Sequence[str] | None) -> list[Gate]:
    """Read ``--fail-on`` before any work is done."""
    from expunge.gates import Gate

    return [Gate.parse(text) for text in expressions or ()]


def carry_out(
    recipe: Recipe,
    *,
    gates: Sequence[Gate] = (),
    force: bool = False,
    dry_run: bool = False,
    quiet: bool = False,
) -> None:
    """Run a recipe, or with `dry_run` print what it would do."""
    if dry_run:
        print_plan(recipe)
        return
    from expunge.runner import execute

    scorecard = execute(recipe, console=messages(quiet), force=force)
    conclude(scorecard, recipe.out, gates, quiet)


def print_plan(recipe: Recipe, *rows: tuple[str, str]) -> None:
    """Print the resolved recipe and, as YAML comments, what running it would load and cost."""
    from expunge.planning import plan

    typer.echo(recipe.to_yaml(), nl=False)
    for what, detail in (*rows, *plan(recipe)):
        typer.echo(f"# {what}: {detail}")


def conclude(scorecard: Scorecard, folder: Path, gates: Sequence[Gate], quiet: bool) -> None:
    """Tell the verdicts (stderr) and where the report is (stdout); exit with 1 if a gate failed."""
    from expunge.report.terminal import print_summary

    console = messages(quiet)
    print_summary(scorecard, console)
    console.print("report: ", end="")
    sys.stderr.flush()
    typer.echo(folder / "report.html")
    if gates:
        from expunge.gates import check

        failed = check(gates, scorecard.findings)
        for sentence in failed:
            typer.echo(sentence, err=True)
        if failed:
            raise typer.Exit(GATE_FAILED)
