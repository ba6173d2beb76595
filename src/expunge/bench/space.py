"""Search spaces: what a bench recipe says a method may vary, checked, and the generic one.

A dimension is a range, ``{low: 1e-4, high: 3e-3, log: true}``, or a list of choices, ``[0, 1]``. Its name is one
of the method's own fields or of the training settings (``lr``; ``train.lr`` where the method has such a field
too). No torch here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from dataclasses import fields as dataclass_fields
from typing import Any, Literal, Protocol

from expunge.catalog import Entry
from expunge.engine.training import Training
from expunge.errors import InputError, nearest

KEYS = ("low", "high", "log", "step")
TRAINING = {f.name: str(f.type) for f in dataclass_fields(Training)}
# What the generic space spans around a default: retain terms are usually too weak on small models, not too strong.
LR_REACH = (0.25, 8.0)
RETAIN_REACH = (1.0, 10.0)
WEIGHT_REACH = (0.25, 4.0)


class Trial(Protocol):
    """The part of an Optuna trial that is used."""

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None, log: bool) -> float: ...  # noqa: D102

    def suggest_int(self, name: str, low: int, high: int, *, step: int, log: bool) -> int: ...  # noqa: D102

    def suggest_categorical(self, name: str, choices: Sequence[str]) -> str: ...  # noqa: D102


@dataclass(frozen=True)
class Dimension:
    """One setting a search varies.

    Attributes:
        name: As written in the bench recipe.
        field: The method's field or the training setting it sets.
        place: Whose setting it is.
        low: Smallest value of a range.
        high: Largest value of a range.
        log: Whether the range is searched on a log scale.
        step: Distance of the values of a range; None for all of them.
        whole: Whether the range holds whole numbers only.
        choices: The values of a list; empty for a range.
    """

    name: str
    field: str
    place: Literal["method", "train"]
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    step: float | None = None
    whole: bool = False
    choices: tuple[Any, ...] = ()

    def suggest(self, trial: Trial) -> Any:
        """Ask a search for a value."""
        if self.choices:
            return json.loads(trial.suggest_categorical(self.name, [json.dumps(c) for c in self.choices]))
        if self.whole:
            return trial.suggest_int(self.name, int(self.low), int(self.high), step=int(self.step or 1), log=self.log)
        return trial.suggest_float(self.name, self.low, self.high, step=self.step, log=self.log)

    def parameter(self, value: Any) -> Any:
        """A value as the search stores it."""
        return json.dumps(value) if self.choices else value

    def centre(self) -> Any:
        """The middle of a range (on its scale), or the first choice.

        >>> Dimension("lr", "lr", "train", low=1e-4, high=1e-2, log=True).centre()
        0.001
        """
        if self.choices:
            return self.choices[0]
        middle = math.sqrt(self.low * self.high) if self.log else (self.low + self.high) / 2
        if self.step is not None:
            middle = self.low + self.step * round((middle - self.low) / self.step)
        return round(middle) if self.whole else float(f"{middle:.6g}")

    def probes(self) -> list[Any]:
        """Values whose validity stands for all: both ends, or every choice."""
        if self.choices:
            return list(self.choices)
        return [int(self.low), int(self.high)] if self.whole else [self.low, self.high]

    def holds(self, value: Any) -> bool:
        """Whether the dimension contains a value."""
        if self.choices:
            return value in self.choices
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and self.low <= value <= self.high and (not self.whole or value == int(value))


def parse_space(raw: Any, entry: Entry, fixed: Mapping[str, Any], where: str) -> tuple[Dimension, ...]:
    """Check the ``search:`` section of one method.

    Args:
        raw: What the recipe says.
        entry: The method.
        fixed: The method's fixed settings, `train` among them.
        where: What the section is called in errors, for example ``methods.npo.search``.

    Raises:
        InputError: The first thing that is wrong with it.
    """
    if not isinstance(raw, Mapping):
        raise InputError(f"{where}: {raw!r} must be a mapping such as {{lr: {{low: 1e-4, high: 3e-3, log: true}}}}.")
    return tuple(_dimension(str(name), spec, entry, fixed, f"{where}.{name}") for name, spec in raw.items())


def _dimension(name: str, spec: Any, entry: Entry, fixed: Mapping[str, Any], where: str) -> Dimension:
    field, place, annotation = _located(name, entry, where)
    taken = fixed if place == "method" else fixed.get("train", {})
    if field in taken:
        raise InputError(
            f"{where}: {field!r} is fixed to {taken[field]!r} and searched as well; leave one of them out."
        )
    if isinstance(spec, list):
        return Dimension(name, field, place, choices=_choices(spec, where))
    if not isinstance(spec, Mapping):
        raise InputError(f"{where}: {spec!r} must be a range {{low: ..., high: ..., log: true}} or a list of choices.")
    for key in spec:
        if key not in KEYS:
            raise InputError(f"{where}: unknown key {key!r}.{nearest(str(key), KEYS)}")
    low, high = _number(spec, "low", where), _number(spec, "high", where)
    log, step = spec.get("log", False), spec.get("step")
    if low >= high:
        raise InputError(f"{where}: low={low:g} must be smaller than high={high:g}.")
    if not isinstance(log, bool):
        raise InputError(f"{where}: log={log!r} must be true or false.")
    if log and low <= 0:
        raise InputError(f"{where}: low={low:g} must be above 0 on a log scale.")
    if step is not None and (not _is_number(step) or not 0 < step <= high - low):
        raise InputError(f"{where}: step={step!r} must be a number above 0 and at most high - low.")
    if step is not None and log:
        raise InputError(f"{where}: a log scale has no step; leave one of them out.")
    whole = annotation.split("|")[0].strip() == "int"
    if whole and any(value != int(value) for value in (low, high, step or 1)):
        raise InputError(f"{where}: {field!r} takes whole numbers; low, high and step must be whole.")
    return Dimension(name, field, place, low, high, log, step, whole)


def _located(name: str, entry: Entry, where: str) -> tuple[str, Literal["method", "train"], str]:
    """The field a dimension sets, whose it is, and its type as written."""
    own = {f.name: f.annotation for f in entry.fields}
    prefix, _, rest = name.rpartition(".")
    if prefix == "" and name in own:
        return name, "method", own[name]
    if prefix in ("", "train") and rest in TRAINING:
        return rest, "train", TRAINING[rest]
    known = nearest(name, [*own, *TRAINING])
    raise InputError(f"{where}: neither {entry.name} nor its training has a setting {name!r}.{known}")


def _choices(spec: list[Any], where: str) -> tuple[Any, ...]:
    if not spec:
        raise InputError(f"{where}: the list of choices is empty.")
    words = [json.dumps(choice) for choice in spec]
    if len(set(words)) < len(words):
        raise InputError(f"{where}: {spec!r} holds a choice twice.")
    return tuple(spec)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _number(spec: Mapping[str, Any], key: str, where: str) -> float:
    if key not in spec:
        raise InputError(f"{where}: {key!r} is required.")
    if not _is_number(spec[key]):
        raise InputError(f"{where}: {key}={spec[key]!r} must be a number.")
    return float(spec[key])


def generic_space(entry: Entry, fixed: Mapping[str, Any], lr: float) -> tuple[Dimension, ...]:
    """The space of a method that no recipe describes: the learning rate, and its weights of terms.

    A weight whose default is 0 switches a term off and stays so; a retain weight under ``retain: none`` would
    change nothing.

    Args:
        entry: The method.
        fixed: Its fixed settings.
        lr: The learning rate around which to search.
    """
    space = []
    if "lr" not in fixed.get("train", {}):
        low, high = (float(f"{lr * reach:.3g}") for reach in LR_REACH)
        space.append(Dimension("lr", "lr", "train", low, high, log=True))
    values = {f.name: _default(f) for f in entry.fields} | dict(fixed)
    for field in entry.fields:
        value = values[field.name]
        if not field.name.endswith("weight") or field.name in fixed or not _is_number(value) or value <= 0:
            continue
        if field.name == "retain_weight" and values.get("retain") == "none":
            continue
        reach = RETAIN_REACH if field.name == "retain_weight" else WEIGHT_REACH
        low, high = (float(f"{value * r:.3g}") for r in reach)
        space.append(Dimension(field.name, field.name, "method", low, high, log=True))
    return tuple(space)


def _default(field: Any) -> Any:
    try:
        return field.literal()
    except ValueError:
        return None
