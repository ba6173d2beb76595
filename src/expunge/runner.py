"""A run: prepare, unlearn, audit, report, from one recipe, in one folder, resumable.

Every stage is filed under a key of all it depends on. The same command on the same folder continues
where it stopped; a changed recipe redoes only what the change touches.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from expunge.journal import Bars, Journal, cache_folder, lock_folder
from expunge.recipe import Recipe
from expunge.report._drift import Measured, drift
from expunge.report.assemble import ModelAudit, assemble
from expunge.report.html import write_report
from expunge.report.scorecard import Scorecard
from expunge.report.verdict import Tolerance, judge_model
from expunge.sequence import digest_models
from expunge.sequence_data import require_start, resolve
from expunge.stages import Context, audit_stage, control_stage, prepare, unlearn_stage

JUDGED_BY = ("target", "gold", "gold_2")  # every other model gets a verdict, the positive control too


def execute(recipe: Recipe, *, console: Console | None = None, force: bool = False) -> Scorecard:
    """Carry out a recipe.

    Args:
        recipe: What to do.
        console: Where progress is shown; None shows nothing.
        force: Redo everything but the prepared models.

    Returns:
        The scorecard, also written to the run folder with the report, the models and the log.

    Raises:
        InputError: Wrong data, names or settings.
        RunError: The run failed; what was finished is kept and the same command resumes.
    """
    if recipe.sequence is not None:
        from expunge.sequence_driver import execute_all

        return execute_all(recipe, console=console, force=force)[-1]
    with opened(recipe, console, force) as context, _chained(context):
        started = _now()
        refs = prepare(context)
        context.gold = refs.get("gold")
        for method in recipe.methods:
            refs[method.name] = unlearn_stage(context, refs["target"], method)
        return report_stage(context, audit_stage(context, refs), started)


def unlearn_only(recipe: Recipe, *, console: Console | None = None, force: bool = False) -> Path:
    """Carry out the recipe's one method on the delivered model; returns the model's folder."""
    with opened(recipe, console, force) as context, _chained(context):
        (method,) = recipe.methods
        unlearn_stage(context, context.models.delivered(), method)
        return context.folder / "model"


def audit_only(
    recipe: Recipe,
    *,
    target: str | None,
    gold: str | None,
    spare_gold: str | None = None,
    console: Console | None = None,
    force: bool = False,
) -> Scorecard:
    """Audit the recipe's model, beside its target and gold models where they are given.

    The positive control is made from the target if the recipe asks for it.
    """
    with opened(recipe, console, force) as context:
        started = _now()
        refs = {"unlearned": context.models.delivered()}
        for name, source in (("target", target), ("gold", gold), ("gold_2", spare_gold)):
            if source is not None:
                refs[name] = context.wing.given(context, source)
        if recipe.audit.control:
            refs["control"] = control_stage(context, refs["target"])
        return report_stage(context, audit_stage(context, refs), started)


@contextmanager
def opened(recipe: Recipe, console: Console | None, force: bool) -> Iterator[Context]:
    """The run folder, locked, with its recipe written and its data loaded."""
    folder = Path(recipe.out)
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    with Bars(console) as bars:
        context = open_run(recipe, bars)  # data errors come before anything is written
        require_start(context.asked, folder, force)
        folder.mkdir(parents=True, exist_ok=True)
        with lock_folder(folder):
            if force:
                for part in ("model", "audit", "stages", "checkpoints"):
                    shutil.rmtree(folder / part, ignore_errors=True)
            (folder / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
            for note in context.workload.notes:
                context.journal.note(note)
            yield context


@contextmanager
def _chained(context: Context) -> Iterator[None]:
    """Within, the run counts as unfinished; after it, further requests can build on its models."""
    context.asked.link.write(context.folder)
    yield
    replace(context.asked.link, models=digest_models(context.folder, context.recipe)).write(context.folder)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def open_run(recipe: Recipe, bars: Bars) -> Context:
    """Load the data and bind the models."""
    asked = resolve(recipe)
    wing, workload = asked.wing, asked.workload
    wing.check(recipe, workload)
    folder = Path(recipe.out)
    journal = Journal(folder / "log.jsonl", bars.console)
    cache = cache_folder(recipe.cache) / "models"
    models = wing.models(recipe, workload, cache, asked.origin, bars.watch, journal.note)
    return Context(recipe, wing, workload, models, folder, journal, bars, asked)


# -- report -------------------------------------------------------------------------------------------


def report_stage(context: Context, audits: dict[str, ModelAudit], started: str) -> Scorecard:
    """Scorecard, verdicts and report."""
    recipe = context.recipe
    intentions = {m.name: m.entry.intention or "" for m in recipe.methods}
    scorecard = assemble(
        audits, intentions, seed=recipe.seed, draws=recipe.audit.draws, tolerance=recipe.audit.harness.tolerance
    )
    scorecard.curves["trajectory"] = _trajectories(context)
    tolerance = Tolerance(delta=recipe.audit.delta, required=context.wing.required)
    judged = [n for n in scorecard.evidence if n not in JUDGED_BY]
    scorecard.verdicts = {name: judge_model(scorecard, name, tolerance) for name in judged}
    scorecard.published = list(context.workload.published)
    if context.asked.earlier:
        asked = context.asked
        past = [Measured(p.link.request, len(p.new), read_scorecard(p.folder)) for p in asked.earlier]
        scorecard.curves["drift"] = drift([*past, Measured(asked.link.request, len(asked.new), scorecard)])
    scorecard.run = _provenance(context, started)
    scorecard.run["tolerance"] = asdict(tolerance)
    scorecard.save(context.folder / "scorecard.json")
    write_report(scorecard, context.folder / "report.html")
    context.journal.note("report written")
    return scorecard


def read_scorecard(folder: Path) -> Scorecard | None:
    """A run's scorecard; None for one that was not audited."""
    path = folder / "scorecard.json"
    return Scorecard.load(path) if path.exists() else None


def _trajectories(context: Context) -> dict[str, Any]:
    curves = {}
    for method in context.recipe.methods:
        note = context.folder / "stages" / f"unlearn-{method.name}.json"
        logs = json.loads(note.read_text(encoding="utf-8"))["result"]["logs"] if note.exists() else []
        probes = logs[-1]["probes"] if logs else []
        if probes and {"step", "forget", "retain"} <= set(probes[0]):  # a method may look at other things
            columns = {k: [p.get(k) for p in probes] for k in ("step", "forget", "retain")}
            curves[method.name] = {**columns, "selected": logs[-1]["selected_step"]}
    return curves


def _provenance(context: Context, started: str) -> dict[str, Any]:
    recipe = context.recipe
    packages = ("expunge", "torch", *context.wing.packages, "numpy", "scipy")
    data = {
        name: {"digest": context.wing.digest(rows), "records": len(rows)}
        for name, rows in {"train_forget": context.workload.forget, "train_retain": context.workload.retain,
                           **context.workload.splits}.items()
    }  # fmt: skip
    return {
        "name": recipe.name,
        "recipe": recipe.to_yaml(),
        "seed": recipe.seed,
        "versions": {"python": platform.python_version(), **{p: version(p) for p in packages}},
        "hardware": {
            "machine": platform.machine(),
            "system": platform.system(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        },
        "data": data,
        "seconds": context.journal.seconds,
        "started": started,
        "notes": context.journal.notes,
        "words": {"records": context.wing.records, **context.wing.words},
        "columns": [list(column) for column in context.wing.columns(context.workload)],
        "pictures": [asdict(p) for p in context.wing.pictures(context.workload)],
    }
