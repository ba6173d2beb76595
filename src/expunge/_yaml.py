"""YAML as people expect it: the 1.2 core schema, no duplicate keys, errors that name file and line.

PyYAML implements YAML 1.1, in which ``1e-4`` is a string, ``no`` is false, ``010`` is 8 and ``1:30`` is 90.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

from expunge.errors import InputError

_PREFIX = "tag:yaml.org,2002:"
_SCALARS = [  # (tag, pattern, first characters), YAML 1.2.2 section 10.3.2
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
    ("merge", r"<<", ["<"]),
]


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012  (PyYAML's own form)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == f"{_PREFIX}merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str | int):
                raise yaml.MarkedYAMLError(problem="a key must be a word", problem_mark=key_node.start_mark)
            if key in seen:
                raise yaml.MarkedYAMLError(problem=f"the key {key!r} appears twice", problem_mark=key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes every string that YAML 1.1 or 1.2 would read as something else."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _integer(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    text = loader.construct_scalar(node)
    return int(text, 0) if text.startswith(("0x", "0o")) else int(text)


def _float(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    return float(loader.construct_scalar(node).lower().replace(".inf", "inf").replace(".nan", "nan"))


for _tag, _pattern, _first in _SCALARS:
    for _kind in (_Loader, _Dumper):
        _kind.add_implicit_resolver(f"{_PREFIX}{_tag}", re.compile(rf"^(?:{_pattern})$"), _first)
_Loader.add_constructor(f"{_PREFIX}int", _integer)
_Loader.add_constructor(f"{_PREFIX}float", _float)


def parse(text: str, where: str) -> Any:
    """Read one YAML document.

    Args:
        text: The document.
        where: What it is called in errors.

    Raises:
        InputError: A syntax error or a duplicate key; names `where`, the line and what is wrong.

    >>> parse("{lr: 1e-4, on: no, n: 010}", "example")
    {'lr': 0.0001, 'on': 'no', 'n': 10}
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise InputError(f"{where}{line}: {error.problem or error.context}.") from None
    except yaml.YAMLError as error:
        raise InputError(f"{where}: not YAML ({str(error).splitlines()[0]}).") from None


def dump(value: Any) -> str:
    """Write plain data as YAML that `parse` reads back unchanged.

    >>> dump({"lr": 1e-5, "word": "1e-5", "list": [1, None]})
    "lr: 1.0e-05\\nword: '1e-5'\\nlist:\\n- 1\\n- null\\n"
    """
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
