"""Overrides on the command line: ``target.train.lr=1e-4`` sets one key of a recipe."""

from __future__ import annotations

from typing import Any

from expunge import _yaml
from expunge.catalog import normalise
from expunge.errors import InputError

LISTS = ("methods", "attacks")


def override(raw: dict[str, Any], text: str) -> None:
    """Set one key in place: ``target.train.lr=1e-4``, ``methods.0.beta=0.2``, ``methods=[npo, ga]``.

    The value is read as YAML. A list entry goes by position or by name (``methods.npo.beta=0.2``).

    Raises:
        InputError: Not of the form KEY=VALUE, or a list entry that does not exist.

    >>> raw = {"methods": ["npo"]}
    >>> override(raw, "methods.npo.beta=2e-1")
    >>> raw
    {'methods': [{'name': 'npo', 'beta': 0.2}]}
    """
    key, equals, value = text.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise InputError(f"{text!r}: an override has the form KEY=VALUE, for example seed=1 or target.train.lr=1e-4.")
    holder: Any = raw
    for depth, part in enumerate(parts):
        at: Any = part
        if isinstance(holder, list):
            at = _position(holder, part, text, ".".join(parts[:depth]))
        if depth == len(parts) - 1:
            holder[at] = _yaml.parse(value, repr(text))
            return
        below = holder[at] if isinstance(holder, list) else holder.get(at)
        if not isinstance(below, dict | list):  # a bare name, or nothing yet
            below = {} if below is None else [below] if part in LISTS else {"name": below}
            holder[at] = below
        holder = below


def _position(items: list[Any], part: str, text: str, key: str) -> int:
    names = [normalise(str(item.get("name") if isinstance(item, dict) else item)) for item in items]
    if part.isdecimal() and int(part) < len(items):
        return int(part)
    if normalise(part) in names:
        return names.index(normalise(part))
    allowed = f"0 to {len(items) - 1}, or one of {', '.join(names)}" if items else "nothing: the list is empty"
    raise InputError(f"{text!r}: {key} has no entry {part!r}; it has {allowed}.")
