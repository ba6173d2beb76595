"""Recipes and requests on the small trained test bed, for tests of several requests in turn."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from expunge.kept import put
from expunge.language.data import Record
from expunge.language.prepare import feeding
from expunge.language.subject import Subject
from expunge.recipe import Recipe
from expunge.sequence import digest_models
from expunge.sequence_data import Asked, resolve
from tiny_bed import WORLD

PEOPLE = list(dict.fromkeys(r.cluster for r in WORLD.records()["retain"]))  # kept, and measured


def keep_model(subject: Subject, folder: Path) -> Path:
    """Save a subject where a recipe can name it as its source."""
    put(subject, folder, "", feeding(subject))
    return folder


def recipe(folder: Path, source: Any, **changes: Any) -> Recipe:
    """A quick run on the people of the test bed: a given target, one method, hardly an audit."""
    raw: dict[str, Any] = {
        "name": folder.name,
        "out": str(folder),
        "cache": str(folder.parent / "cache"),
        "seed": 3,
        "threads": 1,
        "model": {"source": str(source)},
        "benchmark": {"name": "testbed", "forget": 4, "retain": 8, "holdout": 4, "places": 6},
        "unlearn": {"train": {"steps": 4, "batch_size": 24, "lr": 1e-3}},
        "methods": [{"name": "npo", "beta": 0.5, "retain_weight": 5.0}],
        "audit": {"control": False, "draws": 5, "attacks": []},
    }
    return Recipe.parse({**raw, **changes})


def write_rows(path: Path, rows: Iterable[Any]) -> Path:
    """A JSONL file of plain rows, or of questions and answers of records."""
    plain = ({"question": r.question, "answer": r.answer} if isinstance(r, Record) else r for r in rows)
    path.write_text("".join(json.dumps(row) + "\n" for row in plain), encoding="utf-8")
    return path


def settle(made: Recipe) -> Asked:
    """Leave a run folder as if the run had been carried out, its models being empty files."""
    asked, folder = resolve(made), Path(made.out)
    for method in made.methods:
        place = folder / "model" if len(made.methods) == 1 else folder / "model" / method.name
        place.mkdir(parents=True)
        (place / "expunge.json").write_text("{}")
    (folder / "recipe.yaml").write_text(made.to_yaml(), encoding="utf-8")
    replace(asked.link, models=digest_models(folder, made)).write(folder)
    return asked
