"""``expunge show NAME``: what one entry is, its formula, its paper, its settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from expunge.cli._common import Debug, failures_told

if TYPE_CHECKING:
    from expunge.catalog import Entry


def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A method, metric, attack or benchmark.")],
    debug: Debug = False,
) -> None:
    """Show one entry: formula, paper, intention, defaults."""
    with failures_told(debug):
        from expunge.catalog import entries, normalise
        from expunge.errors import InputError, nearest

        wanted = normalise(name)
        found = [e for e in entries() if e.name == wanted] or [e for e in entries() if wanted in e.aliases]
        if not found:
            known = nearest(wanted, {entry.name for entry in entries()})
            raise InputError(f"Unknown name {name!r}.{known}")
        for entry in found:
            _print(entry)


def _print(entry: Entry) -> None:
    console = Console(highlight=False)
    intention = f", intended for {entry.intention}" if entry.intention else ""
    console.print(Text.assemble((entry.name, "bold"), f"  {entry.wing} {entry.kind}{intention}"))
    console.print(Text(_prose(entry.doc)), soft_wrap=True)
    console.print(Text(f"\npaper: {entry.paper}"), soft_wrap=True)
    if entry.fields:
        table = Table(box=None, padding=(0, 2, 0, 0))
        for heading in ("setting", "default", "type", "meaning"):
            table.add_column(heading, overflow="fold")
        for field in entry.fields:
            default = "required" if field.default is None else field.default
            table.add_row(*(Text(cell) for cell in (field.name, default, field.annotation, field.doc)))
        console.print()
        console.print(table)
    for formula in entry.formulas:
        signature, _, doc = formula.partition("\n")
        console.print(Text(f"\n{signature}", style="bold"), soft_wrap=True)
        console.print(Text("\n".join(f"    {line}".rstrip() for line in doc.splitlines())), soft_wrap=True)
    console.print()


def _prose(doc: str) -> str:
    """A class docstring without its ``Attributes:`` section, which the table of settings repeats."""
    lines, skipping = [], False
    for line in doc.splitlines():
        skipping = line.strip() == "Attributes:" or (skipping and (not line.strip() or line.startswith(" ")))
        if not skipping:
            lines.append(line)
    return "\n".join(lines).rstrip()
