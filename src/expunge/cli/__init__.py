"""The command line: one file for each command, nothing heavy imported until a command does its work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from expunge.cli.audit import audit
from expunge.cli.bench import bench
from expunge.cli.compare import compare
from expunge.cli.cp import copy_recipe
from expunge.cli.demo import demo
from expunge.cli.list import list_entries
from expunge.cli.run import run
from expunge.cli.show import show
from expunge.cli.unlearn import unlearn

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: brackets such as methods=[npo] are meant as typed
    context_settings={"help_option_names": ["-h", "--help"]},
)
COMMANDS: dict[str, Callable[..., None]] = {
    "demo": demo,
    "run": run,
    "unlearn": unlearn,
    "audit": audit,
    "compare": compare,
    "bench": bench,
    "list": list_entries,
    "show": show,
    "cp": copy_recipe,
}
for _name, _command in COMMANDS.items():
    app.command(_name)(_command)


def _version(asked: bool) -> None:
    if asked:
        import expunge

        typer.echo(f"expunge {expunge.__version__}")
        raise typer.Exit


@app.callback()
def expunge(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Make a trained model forget, and prove it.

    Exit codes: 0 done, 1 an audit gate failed, 2 wrong usage or input, 3 the run failed.
    """


def main() -> None:
    """The console script."""
    app(prog_name="expunge")
