"""The recipe: one checked description of a run, from which the same run can be made again.

Names of methods, attacks and benchmarks, and their hyper-parameters, are checked against the catalog, so a
misspelt key is found before anything is loaded. No torch here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails

from expunge import _yaml, catalog
from expunge._checked import Checked, explain, problem
from expunge._overrides import override
from expunge._settings import (
    Audit,
    BenchmarkSettings,
    Gold,
    MethodSettings,
    ModelSettings,
    Named,
    Request,
    Sequence,
    Target,
    Unlearn,
)
from expunge.catalog import normalise
from expunge.engine.training import Training
from expunge.errors import InputError, nearest

PACKAGED = Path(__file__).parent / "recipes"


def _one_or_more(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class Recipe(Checked):
    """One run: model, benchmark, target, gold, methods and audit."""

    name: str = Field(min_length=1, pattern=r"^[^/\\]+$")
    out: Path
    seed: int = Field(0, ge=0)
    threads: int = Field(0, ge=0)
    cache: Path | None = None
    model: ModelSettings
    benchmark: BenchmarkSettings
    target: Target | None = None
    gold: Gold | None = None
    methods: Annotated[list[MethodSettings], BeforeValidator(_one_or_more)] = Field(default_factory=list)
    unlearn: Unlearn = Unlearn()
    request: Request | None = None
    sequence: Sequence | None = None
    audit: Audit = Field(default_factory=dict, validate_default=True)

    @classmethod
    def load(cls, source: str | Path, overrides: Iterable[str] = ()) -> Self:
        """Read a recipe file, or a packaged recipe by name, with ``key.sub=value`` overrides.

        Raises:
            InputError: No such recipe, or everything that is wrong in it, at once.
        """
        path = find_recipe(source)
        raw = _yaml.parse(_read(path), str(source))
        if not isinstance(raw, dict):
            raise InputError(f"{source}: a recipe is a mapping of keys such as 'name' and 'model'.")
        for text in overrides:
            override(raw, text)
        return cls.parse(raw, str(source))

    @classmethod
    def parse(cls, raw: dict[str, Any], where: str = "recipe") -> Self:
        """Check plain data.

        Raises:
            InputError: Everything that is wrong, at once.
        """
        try:
            return cls.model_validate(raw, context={"wing": _wing(raw)})
        except ValidationError as error:
            lines = explain(error, raw)
        if len(lines) == 1:
            raise InputError(f"{where}: {lines[0].rstrip('.')}.")
        raise InputError(f"{where}: {len(lines)} errors.\n" + "\n".join(f"  {line}" for line in lines))

    @model_validator(mode="before")
    @classmethod
    def _default_folder(cls, value: Any) -> Any:
        if isinstance(value, Mapping) and value.get("out") is None:
            return {**value, "out": f"runs/{value.get('name')}"}
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        wrong: list[InitErrorDetails] = []

        def refuse(loc: tuple[str | int, ...], value: Any, message: str, show: bool = True) -> None:
            wrong.append(InitErrorDetails(type=problem(message, show=show), loc=loc, input=value))

        if self.gold and self.gold.source == "retrain" and self.target is None:
            message = "needs 'target.train': without it nothing says how the target was trained"
            refuse(("gold", "source"), "retrain", message)
        if self.gold and self.gold.source != "retrain" and self.gold.seeds > 1:
            refuse(("gold", "seeds"), self.gold.seeds, "must be 1 with a gold model that is not retrained here")
        if self.request and self.sequence:
            refuse(("sequence",), None, "stands beside 'request': a sequence makes its requests itself", show=False)
        wing = self.benchmark.wing
        lists: list[tuple[tuple[str, ...], list[Named]]] = [
            (("methods",), [*self.methods]),
            (("audit", "attacks"), [*self.audit.attacks]),
        ]
        for loc, named in lists:
            names = [entry.name for entry in named]
            for i, (name, entry) in enumerate(zip(names, named, strict=True)):
                if name in names[:i]:
                    refuse((*loc, i), name, "stands in the list twice")
                if entry.wing != wing:
                    known = [e.name for e in catalog.entries(entry.kind, wing)]
                    hint = nearest(name, known)
                    message = f"is of the {entry.wing} wing, and {self.benchmark.name} of the {wing} wing.{hint}"
                    refuse((*loc, i), name, message)
        for i, method in enumerate(self.methods):
            try:
                self.training(method)
            except InputError as error:
                refuse(("methods", i, "train"), method.train, str(error), show=False)
        try:
            self.control_training  # noqa: B018
        except InputError as error:
            refuse(("audit", "control_train"), self.audit.control_train, str(error), show=False)
        if wrong:
            raise ValidationError.from_exception_data("Recipe", wrong)
        return self

    def training(self, method: MethodSettings | None) -> Training:
        """The settings a method trains under: `unlearn.train`, changed by its own (None: unchanged)."""
        return replace(self.unlearn.train, **(method.train if method else {}))

    @property
    def control_training(self) -> Training:
        """The settings the positive control trains under; it is not probed, selected or smoothed."""
        changes = {"evaluate_every": 0, "smoothing": "none", **self.audit.control_train}
        return replace(self.unlearn.train, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, fully resolved: every default spelt out."""
        return self.model_dump(mode="json")

    def to_yaml(self) -> str:
        """The fully resolved recipe; loading it gives this recipe again."""
        return _yaml.dump(self.to_dict())

    def fingerprint(self, *parts: str) -> str:
        """Content hash of parts of the recipe, given as dotted keys (``target``, ``model.source``).

        Raises:
            InputError: There is no such key.
        """
        return fingerprint({part: _dig(self.to_dict(), part) for part in parts})


def fingerprint(value: Any) -> str:
    """BLAKE2b of the canonical JSON of plain data.

    >>> fingerprint({"a": 1, "b": 2.0}) == fingerprint({"b": 2.0, "a": 1})
    True
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def packaged() -> list[str]:
    """Names of the recipes that come with expunge."""
    return sorted(path.stem for path in PACKAGED.glob("*.yaml"))


def find_recipe(source: str | Path) -> Path:
    """The file of a recipe given by path, or by the name of a packaged one.

    Raises:
        InputError: Neither.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return path
    named = PACKAGED / f"{normalise(str(source))}.yaml"
    if path.name == str(source) and named.is_file():
        return named
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        raise InputError(f"{source}: no such recipe file.")
    raise InputError(f"{source!r} is neither a recipe file nor a packaged recipe.{nearest(str(source), packaged())}")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{path}: not a text file in UTF-8.") from None


def _wing(raw: dict[str, Any]) -> str | None:
    """The wing of the recipe's benchmark, whose methods and attacks come first; None when it is unknown."""
    benchmark = raw.get("benchmark")
    name = benchmark.get("name") if isinstance(benchmark, Mapping) else benchmark
    try:
        return catalog.find("benchmark", name).wing if isinstance(name, str) else None
    except InputError:
        return None


def _dig(value: Any, key: str) -> Any:
    for part in key.split("."):
        try:
            value = value[int(part)] if isinstance(value, list) else value[part]
        except (LookupError, TypeError, ValueError):
            raise InputError(f"The recipe has no key {key!r}.") from None
    return value
