"""Reads classes as syntax trees: their fields, constants and docstrings, bases included, nothing imported."""

from __future__ import annotations

import ast
import copy
import importlib.util
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from expunge.errors import InputError


class Field(NamedTuple):
    """One hyper-parameter of an entry, as written in its source."""

    name: str
    annotation: str
    default: str | None
    """Source text of the default; None when the field is required."""
    doc: str = ""

    def literal(self) -> Any:
        """The default as a value.

        Raises:
            ValueError: The field is required, or its default is an expression.
        """
        if self.default is None:
            raise ValueError(f"{self.name} has no default")
        return ast.literal_eval(self.default)


def locate(module: str) -> Path | None:
    """The file or package folder of a dotted module, found without importing it or its parents."""
    top, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if not rest and spec.origin and not spec.submodule_search_locations:
        return Path(spec.origin)
    for location in spec.submodule_search_locations or ():
        path = Path(location).joinpath(*rest)
        if path.is_dir():
            return path
        if path.with_suffix(".py").is_file():
            return path.with_suffix(".py")
    return None


class Link(NamedTuple):
    """A class definition, the syntax tree it stands in, and that tree's dotted module."""

    node: ast.ClassDef
    tree: ast.Module
    module: str


@cache
def parse(path: Path) -> ast.Module:
    """Parse a file once.

    Raises:
        InputError: It is not valid Python; names the file and the line.
    """
    try:
        return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    except SyntaxError as error:
        raise InputError(f"{path}, line {error.lineno}: not valid Python ({error.msg}).") from None


def classes(tree: ast.Module) -> dict[str, ast.ClassDef]:
    """The module's classes by name."""
    return {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}


def ancestry(node: ast.ClassDef, tree: ast.Module, module: str) -> Iterator[Link]:
    """Yield the class and its bases, nearest first, as far as their sources lie in this package or ours."""
    yield Link(node, tree, module)
    for base in node.bases:
        if isinstance(base, ast.Name):
            if base.id in classes(tree):
                yield from ancestry(classes(tree)[base.id], tree, module)
            elif (origin := _imported(base.id, tree, module)) and base.id in classes(origin[0]):
                yield from ancestry(classes(origin[0])[base.id], *origin)


def _imported(name: str, tree: ast.Module, module: str) -> tuple[ast.Module, str] | None:
    """The tree and dotted module that `name` is imported from, if that lies in this package or ours."""
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and name in {alias.asname or alias.name for alias in node.names}:
            parents = module.split(".")[: -node.level] if node.level else []
            origin = ".".join([*parents, *([node.module] if node.module else [])])
            path = locate(origin) if origin.split(".")[0] in ("expunge", module.split(".")[0]) else None
            if path is not None:
                return parse(path / "__init__.py" if path.is_dir() else path), origin
    return None


def _constant_node(name: str, tree: ast.Module, module: str) -> ast.expr | None:
    """What `name` is assigned at module level, here or where it is imported from."""
    found = _assigned(tree.body).get(name)
    if found is None and (origin := _imported(name, tree, module)):
        return _constant_node(name, *origin)
    return found


def constant(name: str, chain: list[Link]) -> str:
    """A string constant of a class or its bases: written out, or the name of a module's constant."""
    for node, tree, module in chain:
        value: ast.expr | None = _assigned(node.body).get(name)
        if isinstance(value, ast.Name):
            value = _constant_node(value.id, tree, module)
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            return value.value
    return ""


def formulas(tree: ast.Module) -> tuple[str, ...]:
    """The docstrings of a module's public functions, each under its signature: where the mathematics is."""
    return tuple(
        f"{node.name}({ast.unparse(node.args)})\n{doc}"
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_") and (doc := ast.get_docstring(node))
    )


def _assigned(body: list[ast.stmt]) -> dict[str, ast.expr]:
    found: dict[str, ast.expr] = {}
    for node in body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            found[node.target.id] = node.value
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found[node.targets[0].id] = node.value
    return found


class _Spelled(ast.NodeTransformer):
    """Replaces names in an annotation by the module constants they stand for (``Retain`` by its Literal)."""

    def __init__(self, tree: ast.Module, module: str) -> None:
        self.tree, self.module = tree, module

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return _constant_node(node.id, self.tree, self.module) or node


def dataclass_fields(chain: list[Link]) -> tuple[Field, ...]:
    """The dataclass fields, inherited ones first, a redefined one in its first place."""
    found: dict[str, Field] = {}
    for node, tree, module in reversed(chain):
        for item in node.body:
            if not isinstance(item, ast.AnnAssign) or not isinstance(item.target, ast.Name):
                continue
            annotation = ast.unparse(_Spelled(tree, module).visit(copy.deepcopy(item.annotation))).strip("'\"")
            if "ClassVar" not in annotation:
                name = item.target.id
                doc = found[name].doc if name in found else ""
                found[name] = Field(name, annotation, _default(item.value), doc)
        for name, text in attribute_docs(ast.get_docstring(node) or "").items():
            if name in found:  # a subclass may document what it inherits
                found[name] = found[name]._replace(doc=text)
    return tuple(found.values())


def _default(value: ast.expr | None) -> str | None:
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "field":
        for keyword in value.keywords:
            if keyword.arg == "default":
                return ast.unparse(keyword.value)
            if keyword.arg == "default_factory":
                return f"{ast.unparse(keyword.value)}()"
        return None
    return None if value is None else ast.unparse(value)


def attribute_docs(doc: str) -> dict[str, str]:
    """The entries of a Google docstring's ``Attributes:`` section, each joined to one line.

    >>> attribute_docs("A.\\n\\nAttributes:\\n    beta: Inverse\\n        temperature.\\n")
    {'beta': 'Inverse temperature.'}
    """
    lines = iter(doc.splitlines())
    for line in lines:
        if line.strip() in ("Attributes:", "Args:"):
            break
    found: dict[str, list[str]] = {}
    current: list[str] = []
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if line.strip() and indent == 0:
            break
        name, colon, text = line.strip().partition(":")
        if indent == 4 and colon and name.split(" ")[0].isidentifier():
            current = found.setdefault(name.split(" ")[0], [text.strip()])
        elif line.strip():
            current.append(line.strip())
    return {name: " ".join(parts) for name, parts in found.items()}
