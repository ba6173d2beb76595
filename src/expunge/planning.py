"""The plan of a run before anything is loaded or written: counts, models, expected memory and time."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from expunge.engine.training import Training
from expunge.language.data import Record
from expunge.language.prepare import TESTBED
from expunge.language.subject import count_parameters
from expunge.language.workload import Workload
from expunge.recipe import Recipe
from expunge.sequence_data import resolve

CHARACTERS_PER_TOKEN = 4.0  # English text; only for the estimate
GIB = 2**30


@dataclass(frozen=True)
class Cost:
    """Expected cost of one piece of training."""

    seconds: float
    memory: float


def plan(recipe: Recipe) -> list[tuple[str, str]]:
    """What a run will do, as (what, detail) rows.

    Loads the data and the model's configuration, no weights; writes nothing. Times assume this
    machine's matrix speed, measured here for a moment, and are good to a factor of about two.

    Raises:
        InputError: Wrong names, settings or data.
    """
    workload: Workload = resolve(recipe).workload
    for method in recipe.methods:
        method.build()
    parameters = count_parameters(recipe.model.source) if recipe.model.source not in TESTBED else 485_504
    trained = parameters if recipe.model.lora is None else 0.02 * parameters
    speed = flops_per_second()
    rows = [
        ("run folder", str(recipe.out)),
        ("model", f"{recipe.model.source}, {parameters / 1e6:.1f} M parameters"),
    ]
    for name, records in {"forget": workload.forget, "retain": workload.retain}.items():
        rows.append((f"{name} records", f"{len(records)}, about {_tokens(records):,.0f} tokens"))
    rows.append(("measured splits", ", ".join(f"{n} {len(r)}" for n, r in workload.splits.items())))
    total, peak = 0.0, 0.0
    for title, training, records, sides in _trainings(recipe, workload):
        cost = _cost(training, records, sides, parameters, trained, speed)
        total, peak = total + cost.seconds, max(peak, cost.memory)
        rows.append((title, f"{training.total_steps(len(records))} steps, about {_time(cost.seconds)}"))
    audited = len(recipe.methods) + (recipe.target is not None) + (recipe.gold.seeds if recipe.gold else 0)
    audit = audited * _audit_flops(recipe, workload, parameters) / speed
    rows.append(("audits", f"{audited} models, about {_time(audit)}"))
    rows.append(("expected memory", f"about {(peak + 0.6 * GIB) / GIB:.1f} GiB"))
    rows.append(("expected time", f"about {_time(total + audit)} (prepared models are reused)"))
    return rows


def _trainings(recipe: Recipe, workload: Workload) -> list[tuple[str, Training, list[Record], int]]:
    """Each training: title, settings, the records that drive it, and how many sides a step has."""
    work: list[tuple[str, Training, list[Record], int]] = []
    if recipe.target is not None:
        work.append(("train target", recipe.target.train, workload.retain + workload.forget, 1))
        if recipe.gold is not None and recipe.gold.source == "retrain":
            work += [(f"train gold {i + 1}", recipe.target.train, workload.retain, 1) for i in range(recipe.gold.seeds)]
    for method in recipe.methods:
        work.append((f"unlearn with {method.name}", recipe.training(method), workload.forget, 2))
    return work


def _tokens(records: list[Record]) -> float:
    return sum(len(r.question) + len(r.answer) for r in records) / CHARACTERS_PER_TOKEN


def _cost(
    training: Training, records: list[Record], sides: int, parameters: float, trained: float, speed: float
) -> Cost:
    """6 operations per parameter and token; weights, gradients, two moments, and activations."""
    per_row = _tokens(records) / max(1, len(records)) + 12  # the template's own tokens
    rows = training.batch_size * sides
    seconds = training.total_steps(len(records)) * rows * per_row * 6 * parameters / speed
    in_flight = (training.micro_batch or training.batch_size) * per_row
    activations = in_flight * 60 * (parameters / 12) ** 0.5 * 4
    return Cost(seconds, 4 * parameters + 12 * trained + activations)


def _audit_flops(recipe: Recipe, workload: Workload, parameters: float) -> float:
    scored = sum(
        len(r.question) + len(r.answer) + sum(len(w) + len(r.question) for w in r.perturbed_answers)
        for rows in workload.splits.values()
        for r in rows
    )
    attacked: float = sum(
        6 * 64 * 16 * 30 * a.fields.get("seeds", 1) for a in recipe.audit.attacks if "relearn" in a.name
    )
    return parameters * (2 * scored / CHARACTERS_PER_TOKEN * 2 + attacked)


def flops_per_second() -> float:
    """Sustained float32 rate of this machine, from a tenth of a second of matrix products."""
    a = torch.randn(512, 512)
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < 0.1:
        a @ a
        count += 1
    # Training reaches about a third of what large matrix products do.
    return 0.35 * 2 * 512**3 * count / (time.perf_counter() - started)


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
