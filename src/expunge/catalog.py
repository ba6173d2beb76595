"""Finds methods, metrics, attacks and benchmarks by name, without importing any of them.

The file ``language/methods/grad_diff.py`` defines ``GradDiff``; its public name is ``grad-diff``. The
catalog reads such files as syntax trees, so listing them costs milliseconds and never loads torch.

Other packages add theirs by pointing at a folder of such files, the same convention as ours::

    [project.entry-points.expunge]
    "language.methods" = "their_package.methods"
"""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, NamedTuple

from expunge._source import Field as Field
from expunge._source import ancestry, classes, constant, dataclass_fields, formulas, locate, parse
from expunge.errors import InputError, nearest

KINDS = {"methods": "method", "metrics": "metric", "attacks": "attack", "benchmarks": "benchmark"}
INTENTIONS = ("removal", "suppression")


@dataclass(frozen=True)
class Entry:
    """One catalogued class: what its file says about it.

    Attributes:
        name: Public name.
        kind: ``method``, ``metric``, ``attack`` or ``benchmark``.
        wing: The modality's package.
        summary: First line of the class docstring.
        paper: Citation.
        intention: What a method's authors claim; empty for other kinds.
        doc: Class docstring.
        notes: Module docstring.
        formulas: Docstrings of the module's public functions, under their signatures.
        module: Dotted module.
        qualname: Class name.
        fields: Hyper-parameters with their defaults.
        aliases: Other names it answers to (`aliases: ClassVar[str]`, separated by spaces).
    """

    name: str
    kind: str
    wing: str
    summary: str
    paper: str
    intention: str
    doc: str
    notes: str
    formulas: tuple[str, ...]
    module: str
    qualname: str
    fields: tuple[Field, ...]
    aliases: tuple[str, ...] = ()

    def load(self) -> type[Any]:
        """Import the class."""
        loaded: type[Any] = getattr(importlib.import_module(self.module), self.qualname)
        return loaded


class Folder(NamedTuple):
    """A folder of catalogued files."""

    path: Path
    package: str
    wing: str
    kind: str


class Catalog(NamedTuple):
    """All entries, and one sentence for each file that could not be catalogued."""

    entries: tuple[Entry, ...]
    problems: tuple[str, ...]

    def find(self, kind: str, name: str, wing: str | None = None) -> Entry:
        """Look an entry up; case, ``_`` and ``-`` make no difference. Entries of `wing` come first.

        Raises:
            InputError: No such entry (with the nearest valid name), or several wings have one.
        """
        wanted = normalise(name)
        ours = [e for e in self.entries if e.kind == kind]
        named = [e for e in ours if e.name == wanted] or [e for e in ours if wanted in e.aliases]
        found = [e for e in named if e.wing == wing] or named
        if not found:
            for problem in self.problems:  # the file is there, but not as it should be
                if re.search(rf"[\\/]{re.escape(wanted.replace('-', '_'))}\.py\b", problem):
                    raise InputError(problem)
            known = sorted({e.name for e in self.entries if e.kind == kind})
            raise InputError(f"Unknown {kind} {name!r}.{nearest(wanted, known)}")
        if len(found) > 1:
            wings = ", ".join(e.wing for e in found)
            raise InputError(f"{kind.capitalize()} {name!r} exists in several wings: {wings}.")
        return found[0]


def normalise(name: str) -> str:
    """The public form of a name.

    >>> normalise("Grad_Diff")
    'grad-diff'
    """
    return name.strip().lower().replace("_", "-")


@cache
def catalog() -> Catalog:
    """Everything this installation offers: our wings, then the folders other packages point at."""
    problems: list[str] = []
    own = wing_folders(Path(__file__).parent, "expunge")
    return scan([*own, *_third_party(problems)], problems)


def find(kind: str, name: str, wing: str | None = None) -> Entry:
    """`Catalog.find` on the whole installation."""
    return catalog().find(kind, name, wing)


def entries(kind: str | None = None, wing: str | None = None) -> list[Entry]:
    """All entries, optionally of one kind or one wing, ordered by kind, wing and name."""
    return [e for e in catalog().entries if kind in (None, e.kind) and wing in (None, e.wing)]


def scan(folders: list[Folder], problems: list[str] | None = None) -> Catalog:
    """Read every file of `folders` whose name starts with no underscore."""
    found: dict[tuple[str, str, str], Entry] = {}
    problems = [] if problems is None else problems
    for folder in folders:
        for path in sorted(folder.path.glob("*.py")):
            if path.name.startswith("_"):
                continue
            try:
                entry = read(path, folder)
            except InputError as error:
                problems.append(str(error))
                continue
            first = found.setdefault((entry.kind, entry.wing, entry.name), entry)
            if first is not entry:
                problems.append(f"{path}: {entry.kind} {entry.name!r} is already defined by {first.module}.")
    order = list(KINDS.values())
    ranked = sorted(found.values(), key=lambda e: (order.index(e.kind), e.wing, e.name))
    return Catalog(tuple(ranked), tuple(problems))


def wing_folders(root: Path, package: str) -> list[Folder]:
    """The catalogued folders below `root`: every ``WING/methods``, ``WING/metrics`` and so on."""
    return [
        Folder(wing / plural, f"{package}.{wing.name}.{plural}", wing.name, kind)
        for wing in sorted(root.iterdir())
        for plural, kind in KINDS.items()
        if (wing / plural).is_dir()
    ]


def _third_party(problems: list[str]) -> Iterator[Folder]:
    for point in sorted(entry_points(group="expunge")):
        wing, _, plural = point.name.rpartition(".")
        where = f"Entry point {point.name!r} = {point.value!r} of group 'expunge'"
        folder = locate(point.value)
        if not wing or plural not in KINDS:
            problems.append(f"{where}: its name must be WING.KIND, with KIND one of {', '.join(KINDS)}.")
        elif folder is None or not folder.is_dir():
            problems.append(f"{where}: there is no such package folder.")
        else:
            yield Folder(folder, point.value, wing, KINDS[plural])


def read(path: Path, folder: Folder) -> Entry:
    """Read one file as a catalog entry.

    Raises:
        InputError: It does not parse, has no class of its name, or the class lacks its docstring, its
            paper or (a method) its intention.
    """
    tree = parse(path)
    expected = path.stem.replace("_", "")
    node = next((n for n in classes(tree).values() if n.name.lower() == expected), None)
    if node is None:
        camel = "".join(part.capitalize() for part in path.stem.split("_"))
        raise InputError(f"{path}: defines no class named after the file ({camel!r}, in any case).")
    doc = ast.get_docstring(node)
    if not doc:
        raise InputError(f"{path}: class {node.name} has no docstring; its first line is the summary.")
    chain = list(ancestry(node, tree, f"{folder.package}.{path.stem}"))
    paper = constant("paper", chain)
    if not paper:
        raise InputError(
            f'{path}: class {node.name} names no paper (paper: ClassVar[str] = "Authors, Title, venue year").'
        )
    intention = constant("intention", chain)
    if folder.kind == "method" and intention not in INTENTIONS:
        allowed = " or ".join(repr(i) for i in INTENTIONS)
        raise InputError(f"{path}: class {node.name} has intention {intention!r}; it must be {allowed}.")
    return Entry(
        name=normalise(path.stem),
        kind=folder.kind,
        wing=folder.wing,
        summary=doc.splitlines()[0].strip(),
        paper=paper,
        intention=intention,
        doc=doc,
        notes=ast.get_docstring(tree) or "",
        formulas=formulas(tree),
        module=f"{folder.package}.{path.stem}",
        qualname=node.name,
        fields=dataclass_fields(chain),
        aliases=tuple(map(normalise, constant("aliases", chain).split())),
    )
