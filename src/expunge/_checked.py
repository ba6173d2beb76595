"""Checked settings: pydantic models whose errors are all reported at once, in words, with the key's path."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    create_model,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from expunge._source import Field as SourceField
from expunge.errors import nearest

_TYPES = {t.__name__: t for t in (bool, int, float, str, list, dict, tuple, Path)} | {
    "Literal": Literal,
    "Any": Any,
}


class Checked(BaseModel):
    """A frozen model that refuses unknown keys and names the nearest valid one."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=False)

    @model_validator(mode="wrap")
    @classmethod
    def _name_unknown_keys(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler(value)
        except ValidationError as error:
            raise ValidationError.from_exception_data(
                cls.__name__, [cls._reworded(e) for e in error.errors()]
            ) from None

    @classmethod
    def _reworded(cls, error: Any) -> InitErrorDetails:
        kind: str | PydanticCustomError = error["type"]
        if kind == "extra_forbidden" and len(error["loc"]) == 1:
            kind = problem(f"unknown key.{nearest(str(error['loc'][0]), cls.model_fields)}", show=False)
        elif kind in (_SHOWN, _BARE):
            kind = problem(error["msg"], show=kind == _SHOWN)
        return InitErrorDetails(type=kind, loc=error["loc"], input=error["input"], ctx=error.get("ctx", {}))


_SHOWN, _BARE = "expunge_value", "expunge_key"


def problem(message: str, *, show: bool = True) -> PydanticCustomError:
    """An error of ours, to be raised by a validator; `show` puts the value as typed before it."""
    return PydanticCustomError(_SHOWN if show else _BARE, "{message}", {"message": message})


def model_of(title: str, fields: Sequence[SourceField], others: Mapping[str, Any]) -> type[Checked]:
    """A model of the fields of a catalogued class; a type that is no plain one is checked when it is loaded.

    Args:
        title: What to call the model.
        fields: The fields, as the catalog read them.
        others: Further fields in pydantic's (type, default) form.
    """
    definitions: dict[str, Any] = dict(others)
    for field in fields:
        default = ... if field.default is None else Field(default=None)
        definitions[field.name] = (_type_of(field.annotation), default)
    return create_model(title, __base__=Checked, **definitions)


def _type_of(annotation: str) -> Any:
    try:
        return eval(annotation, {"__builtins__": {}}, _TYPES)  # the source of an installed class
    except (NameError, AttributeError, TypeError, SyntaxError):
        return Any


def explain(error: ValidationError, raw: Any) -> list[str]:
    """One line for each wrong key: its path, the value as typed, what is allowed, the nearest valid one.

    Args:
        error: What pydantic found.
        raw: The settings as typed; path elements that do not lead into them are pydantic's and are dropped.
    """
    lines: dict[str, tuple[str, list[str]]] = {}
    for item in error.errors():
        path = ".".join(str(part) for part in _real(item["loc"], raw))
        message = re.sub(r"^[A-Z]\w* should", "must", item["msg"]).replace("Field required", "is required")
        shown = item["type"] not in (_BARE, "missing", "extra_forbidden")
        head = f"{path}: {item['input']!r}" if shown else f"{path}:"
        lines.setdefault(path, (head, []))[1].append(message.split(", unable to")[0] + _hint(item))
    return [f"{head} {' or '.join(dict.fromkeys(messages))}" for head, messages in lines.values()]


def _real(loc: tuple[str | int, ...], raw: Any) -> list[str | int]:
    """The elements of `loc` that lead into `raw`; others name members of unions (except a missing key)."""
    path: list[str | int] = []
    for i, part in enumerate(loc):
        inside = isinstance(raw, Mapping) and part in raw
        if inside or (isinstance(raw, list | tuple) and isinstance(part, int) and part < len(raw)):
            raw = raw[part]
        elif not (i == len(loc) - 1 and isinstance(raw, Mapping)):
            continue
        path.append(part)
    return path


def _hint(item: Any) -> str:
    """`` Did you mean 'x'?`` for a misspelt choice."""
    if item["type"] != "literal_error" or not isinstance(item["input"], str):
        return ""
    choices = item["ctx"]["expected"].split("'")[1::2]
    close = difflib.get_close_matches(item["input"], choices, n=1)
    return f". Did you mean '{close[0]}'?" if close else ""
