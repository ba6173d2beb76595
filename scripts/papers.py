"""Writes docs/papers.md, the paper ledger, from the catalog: ``python scripts/papers.py docs/papers.md``."""

from __future__ import annotations

import sys
from itertools import groupby
from pathlib import Path

from expunge.catalog import KINDS, Entry, Field, catalog

HEAD = """# Papers

What is implemented, from which paper, with which defaults.
Written by `make docs` from the docstrings; do not edit it here.
"""
PLURALS = {kind: plural for plural, kind in KINDS.items()}


def ledger(entries: list[Entry]) -> str:
    """The whole page: entries by kind, then wing, then name (the catalog's order)."""
    parts = [HEAD]
    for (kind, wing), group in groupby(entries, key=lambda entry: (entry.kind, entry.wing)):
        parts.append(f"## {PLURALS[kind].capitalize()}: {wing}\n")
        parts += [section(entry) for entry in group]
    return "\n".join(parts)


def section(entry: Entry) -> str:
    """One entry: summary, citation, intention, defaults with what they mean, and what the docstring adds."""
    claim = f" Its authors claim {entry.intention}." if entry.intention else ""
    lines = [f"### {entry.name}\n", f"{entry.summary}\n", f"Source: {entry.paper.rstrip('.')}.{claim}\n"]
    if more := remarks(entry.doc):
        lines.append(f"{more}\n")
    if entry.fields:
        lines += ["| setting | default | meaning |", "| --- | --- | --- |", *map(row, entry.fields), ""]
    return "\n".join(lines)


def row(field: Field) -> str:
    """One hyper-parameter as a table row."""
    default = "required" if field.default is None else f"`{field.default}`"
    meaning = field.doc.replace("``", "`").replace("|", "\\|")
    return f"| `{field.name}` | {default} | {meaning} |"


def remarks(doc: str) -> str:
    """What a class docstring says between its first line and its ``Attributes:``."""
    return doc.partition("\n")[2].partition("Attributes:")[0].strip()


def main() -> None:
    """Write the page, or with a malformed file say so and fail."""
    found = catalog()
    if found.problems:
        sys.exit("\n".join(found.problems))
    Path(sys.argv[1]).write_text(ledger(list(found.entries)), encoding="utf-8")


if __name__ == "__main__":
    main()
