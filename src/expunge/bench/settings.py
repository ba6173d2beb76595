"""The bench recipe: a run recipe, a ``tuning:`` section, and for each method what a search may vary.

::

    name: demo
    model: ... # model, benchmark, target, gold, unlearn, audit: as in a run recipe
    tuning: {trials: 8, floor: 0.9}
    methods:
      - name: npo
        beta: 0.5                                                   # fixed
        train: {weight_decay: 0.0}                                  # fixed
        search: {lr: {low: 1e-4, high: 3e-3, log: true}}            # varied
        start: {lr: 3e-4}                                           # tried first; default: the middle
      - {name: whp, skip: needs names to propose}                   # not run, for this reason

`expunge.bench.reading` reads and checks it. No torch in either: a bench is checked before anything is loaded.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from expunge._checked import Checked
from expunge.bench.space import Dimension
from expunge.recipe import Recipe

FORMAT = 1  # part of every key: raise it when a change alters what a cell measures


class Tuning(Checked):
    """How settings are searched, and what utility a method has to keep.

    Attributes:
        trials: Settings tried for each method; 0 judges the starting settings.
        seeds: Seeds a trial is averaged over: the first ones of the bench.
        share: Share of the forget subjects whose answers the search looks at; the others are judged.
        rows: Records of each side a probe looks at.
        floor: Share of the target's utility that has to be kept.
        margin: Added to the floor while searching, for the judged records are others.
        penalty: What falling below that costs, in units of distance to gold for each unit of utility.
        show: Findings that are shown beside the judged values, such as ``h_lr@all``: metric and split.
    """

    trials: int = Field(8, ge=0)
    seeds: int = Field(1, ge=1)
    share: float = Field(0.5, gt=0, lt=1)
    rows: int = Field(256, ge=8)
    floor: float = Field(0.9, ge=0, le=1)
    margin: float = Field(0.02, ge=0, lt=1)
    penalty: float = Field(10.0, ge=0)
    show: list[Annotated[str, Field(pattern=r"^[\w.-]+@[\w.-]+$")]] = Field(default_factory=list)


@dataclass(frozen=True)
class MethodPlan:
    """One method of a bench.

    Attributes:
        name: Public name.
        fixed: Settings that do not vary, `train` among them.
        space: What the search varies.
        start: Where the search starts; settings left out start in the middle of their range.
        generic: Whether the recipe says nothing about the method.
    """

    name: str
    fixed: dict[str, Any]
    space: tuple[Dimension, ...]
    start: dict[str, Any] = field(default_factory=dict)
    generic: bool = False

    def first(self) -> dict[str, Any]:
        """The settings tried first."""
        return {d.name: self.start.get(d.name, d.centre()) for d in self.space}

    def entry(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The method as an entry of a run recipe, with values for what varies."""
        own = {d.field: values[d.name] for d in self.space if d.place == "method"}
        train = {d.field: values[d.name] for d in self.space if d.place == "train"}
        return {"name": self.name, **self.fixed, **own, "train": {**self.fixed.get("train", {}), **train}}


@dataclass(frozen=True)
class Bench:
    """A checked bench: plain data, so that it travels to worker processes.

    Attributes:
        name: Name of the bench.
        out: Its folder.
        run: The run recipe all cells share, without methods, seed and folder.
        tuning: See `Tuning`.
        methods: The methods to be run.
        skipped: Methods that are not run: name to reason.
        seeds: The seeds.
        wing: The benchmark's wing.
    """

    name: str
    out: Path
    run: dict[str, Any]
    tuning: Tuning
    methods: tuple[MethodPlan, ...]
    skipped: dict[str, str]
    seeds: tuple[int, ...]
    wing: str

    def plan(self, name: str) -> MethodPlan:
        """The plan of a method by name."""
        return next(plan for plan in self.methods if plan.name == name)

    def recipe(self, seed: int, folder: Path, methods: Iterable[Mapping[str, Any]] = ()) -> Recipe:
        """The run recipe of one seed with some methods."""
        entries = [dict(entry) for entry in methods]
        return Recipe.parse(run_recipe(self.run, seed, folder, entries), self.name)

    def content(self, seed: int, methods: Iterable[Mapping[str, Any]] = ()) -> dict[str, Any]:
        """What the outcome of a run depends on, as plain data."""
        from expunge import __version__

        resolved = self.recipe(seed, self.out, methods).to_dict()
        for key in ("name", "out", "cache", "threads"):
            del resolved[key]
        return {"format": FORMAT, "version": __version__, "recipe": resolved}

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as it is filed in the bench folder."""
        methods = [asdict(plan) for plan in self.methods]
        return {
            "name": self.name, "seeds": list(self.seeds), "tuning": self.tuning.model_dump(), "run": self.run,
            "methods": methods, "skipped": self.skipped,
        }  # fmt: skip


def run_recipe(shared: Mapping[str, Any], seed: int, folder: Path, methods: list[dict[str, Any]]) -> dict[str, Any]:
    """A run recipe as plain data: what cells share, and what tells them apart."""
    return {"threads": 1, **copy.deepcopy(dict(shared)), "seed": seed, "out": str(folder), "methods": methods}
