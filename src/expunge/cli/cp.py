"""``expunge cp RECIPE FILE``: start a recipe of your own from a packaged one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from expunge.cli._common import Debug, failures_told


def copy_recipe(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="Name of a packaged recipe.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write it.")],
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
    debug: Debug = False,
) -> None:
    """Copy a packaged recipe to a file, to be edited."""
    with failures_told(debug):
        from expunge.errors import InputError
        from expunge.recipe import find_recipe

        source = find_recipe(recipe)
        if file.is_dir():
            file = file / source.name
        if file.exists() and not force:
            raise InputError(f"{file}: already exists; choose another name, or overwrite it with --force.")
        file.write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
        typer.echo(file)
