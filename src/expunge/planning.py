"""The plan of a run before anything is loaded or written: counts, models, expected memory and time."""

from __future__ import annotations

from typing import Any

from expunge.engine.training import Training
from expunge.recipe import Recipe
from expunge.sequence_data import resolve

GIB = 2**30


def plan(recipe: Recipe) -> list[tuple[str, str]]:
    """What a run will do, as (what, detail) rows.

    Loads the data, and of the model what its wing needs to know its size; writes nothing. Times are good to a factor
    of about two.

    Raises:
        InputError: Wrong names, settings or data.
    """
    asked = resolve(recipe)
    workload, wing = asked.workload, asked.wing
    wing.check(recipe, workload)
    for method in recipe.methods:
        method.build()
    estimate = wing.estimate(recipe, workload)
    rows = [
        ("run folder", str(recipe.out)),
        ("model", f"{recipe.model.source}, {estimate.parameters / 1e6:.1f} M parameters"),
    ]
    for name, examples in {"forget": workload.forget, "retain": workload.retain}.items():
        rows.append((f"{name} {wing.records}", estimate.describe(examples)))
    rows.append(("measured splits", ", ".join(f"{n} {len(r)}" for n, r in workload.splits.items())))
    total, peak = 0.0, 0.0
    for title, training, examples, sides in _trainings(recipe, workload, asked.trained_on):
        cost = estimate.training(training, examples, sides)
        total, peak = total + cost.seconds, max(peak, cost.memory)
        rows.append((title, f"{training.total_steps(len(examples))} steps, about {_time(cost.seconds)}"))
    audited = len(recipe.methods) + (recipe.target is not None) + (recipe.gold.seeds if recipe.gold else 0)
    audit = audited * estimate.audit()
    rows.append(("audits", f"{audited} models, about {_time(audit)}"))
    rows.append(("expected memory", f"about {(peak + 0.6 * GIB) / GIB:.1f} GiB"))
    rows.append(("expected time", f"about {_time(total + audit)} (prepared models are reused)"))
    return rows


def _trainings(recipe: Recipe, workload: Any, trained_on: Any) -> list[tuple[str, Training, Any, int]]:
    """Each training: title, settings, the examples that drive it, and how many sides a step has."""
    work: list[tuple[str, Training, Any, int]] = []
    if recipe.target is not None:
        work.append(("train target", recipe.target.train, trained_on, 1))
        if recipe.gold is not None and recipe.gold.source == "retrain":
            training = recipe.target.train.for_share(len(workload.retain), len(trained_on))
            work += [(f"train gold {i + 1}", training, workload.retain, 1) for i in range(recipe.gold.seeds)]
        work += [
            (f"train reference {i + 1}", recipe.target.train, workload.retain, 1)
            for i in range(recipe.audit.references)
        ]
    for method in recipe.methods:
        work.append((f"unlearn with {method.name}", recipe.training(method), workload.forget, 2))
    return work


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
