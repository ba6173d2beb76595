"""``expunge list``: what there is."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from expunge.cli._common import Debug, failures_told


class Kind(StrEnum):
    """What can be listed."""

    methods = "methods"
    metrics = "metrics"
    attacks = "attacks"
    benchmarks = "benchmarks"


def list_entries(
    kind: Annotated[Kind | None, typer.Argument(help="Only these.", show_default=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON array.")] = False,
    debug: Debug = False,
) -> None:
    """List methods, metrics, attacks and benchmarks."""
    with failures_told(debug):
        from expunge.catalog import KINDS, catalog, entries

        found = entries(KINDS[kind] if kind else None)
        if as_json:
            keys = ("name", "kind", "wing", "summary", "paper")
            typer.echo(json.dumps([{k: getattr(e, k) for k in keys} for e in found], indent=1))
        else:
            table = Table(box=None, padding=(0, 2, 0, 0))
            for heading in ("name", "kind", "wing"):
                table.add_column(heading, no_wrap=True)
            table.add_column("summary", overflow="fold")
            for e in found:
                table.add_row(e.name, e.kind, e.wing, e.summary)
            Console().print(table, markup=False)
        for problem in catalog().problems:
            typer.echo(f"not listed: {problem}", err=True)
