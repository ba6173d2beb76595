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
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from expunge.engine.loop import Observers, TrainLog
from expunge.engine.method import Method
from expunge.journal import Bars, Journal, cache_folder, lock_folder
from expunge.language.attacks._common import fact_scores
from expunge.language.audit import Attack, audit_model
from expunge.language.benchmarks.testbed import Testbed
from expunge.language.card import model_card
from expunge.language.data import digest
from expunge.language.evidence import EvidenceStore
from expunge.language.methods.idk import IDK
from expunge.language.prepare import (
    ModelRef,
    Models,
    ModelSpec,
    key_of,
    model_ref,
    retrain_training,
    write_note,
)
from expunge.language.subject import Subject, merge_lora
from expunge.language.testbed import World
from expunge.language.unlearn import UnlearnJob, unlearn
from expunge.language.workload import Workload
from expunge.recipe import Recipe
from expunge.report.assemble import ModelAudit, assemble
from expunge.report.html import write_report
from expunge.report.scorecard import Scorecard
from expunge.report.verdict import Tolerance, judge_model

PROBE_ROWS = 128  # rows of each split that a probe during training looks at
REFERENCES = ("target", "gold", "gold_2")
MISSING = {
    "target": "No target model was given: what the model knew before, and what it lost, is not known.",
    "gold": "No gold model was given: nothing shows what a model that never saw the data would answer.",
}


@dataclass
class Context:
    """What every stage of one run shares."""

    recipe: Recipe
    workload: Workload
    models: Models
    folder: Path
    journal: Journal
    bars: Bars
    gold: ModelRef | None = None


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
    with opened(recipe, console, force) as context:
        started = _now()
        refs = prepare(context)
        context.gold = refs.get("gold")
        for method in recipe.methods:
            refs[method.name] = unlearn_stage(context, refs["target"], method)
        return report_stage(context, audit_stage(context, refs), started)


def unlearn_only(recipe: Recipe, *, console: Console | None = None, force: bool = False) -> Path:
    """Carry out the recipe's one method on the delivered model; returns the model's folder."""
    with opened(recipe, console, force) as context:
        (method,) = recipe.methods
        unlearn_stage(context, context.models.delivered(), method)
        return context.folder / "model"


def audit_only(
    recipe: Recipe,
    *,
    target: str | None,
    gold: str | None,
    console: Console | None = None,
    force: bool = False,
) -> Scorecard:
    """Audit the recipe's model, beside its target and gold model where they are given."""
    with opened(recipe, console, force) as context:
        models, started = context.models, _now()
        refs = {"unlearned": models.delivered()}
        for name, source in (("target", target), ("gold", gold)):
            if source is not None:
                other = Models(replace(models.spec, source=source), models.cache, seed=recipe.seed)
                refs[name] = other.delivered()
            else:
                context.journal.note(MISSING[name])
        return report_stage(context, audit_stage(context, refs), started)


@contextmanager
def opened(recipe: Recipe, console: Console | None, force: bool) -> Iterator[Context]:
    """The run folder, locked, with its recipe written and its data loaded."""
    folder = Path(recipe.out)
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    with Bars(console) as bars:
        context = open_run(recipe, bars)  # data errors come before anything is written
        folder.mkdir(parents=True, exist_ok=True)
        with lock_folder(folder):
            if force:
                for part in ("model", "audit", "stages", "checkpoints"):
                    shutil.rmtree(folder / part, ignore_errors=True)
            (folder / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
            for note in context.workload.notes:
                context.journal.note(note)
            yield context


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def open_run(recipe: Recipe, bars: Bars) -> Context:
    """Load the data and bind the models."""
    benchmark = recipe.benchmark.build()
    workload: Workload = benchmark.load(recipe.seed)
    folder = Path(recipe.out)
    journal = Journal(folder / "log.jsonl", bars.console)
    source = recipe.model.source
    if source == "testbed" and recipe.target is not None:
        source = "testbed:base"
    spec = ModelSpec(
        source=source,
        template=recipe.model.template,
        system=recipe.model.system,
        dtype=recipe.model.dtype,
        max_length=recipe.model.max_length,
        lora=recipe.model.lora.model_dump() if recipe.model.lora else None,
        world=benchmark.world if isinstance(benchmark, Testbed) else World(),
    )
    models = Models(spec, cache_folder(recipe.cache) / "models", seed=recipe.seed, observers=bars.watch)
    return Context(recipe, workload, models, folder, journal, bars)


# -- prepare ------------------------------------------------------------------------------------------


def prepare(context: Context) -> dict[str, ModelRef]:
    """The target, the gold models and the positive control, as far as the recipe asks for them."""
    recipe, workload, models = context.recipe, context.workload, context.models
    everything = workload.retain + workload.forget
    refs: dict[str, ModelRef] = {}
    with context.journal.stage("target"):
        if recipe.target is None:
            refs["target"] = models.delivered()
        else:
            refs["target"] = models.trained(everything, recipe.target.train, recipe.seed, "target model")
    if recipe.gold is not None:
        refs |= _golds(context, len(everything))
    if recipe.audit.control and workload.retain:
        with context.journal.stage("control"):
            refs["control"] = _control(context, refs["target"])
    return refs


def _golds(context: Context, rows: int) -> dict[str, ModelRef]:
    """Gold models: trained by the target's recipe without the forget set, or given by the user."""
    recipe, models, retain = context.recipe, context.models, context.workload.retain
    gold = recipe.gold
    assert gold is not None
    refs: dict[str, ModelRef] = {}
    for number in range(gold.seeds):
        name = "gold" if number == 0 else f"gold_{number + 1}"
        with context.journal.stage(name):
            if gold.source != "retrain":
                refs[name] = Models(
                    replace(models.spec, source=gold.source), models.cache, seed=recipe.seed
                ).delivered()
            else:
                assert recipe.target is not None  # the recipe refuses gold.source=retrain without it
                training = retrain_training(recipe.target.train, rows, len(retain))
                refs[name] = models.trained(retain, training, recipe.seed + number, f"{name} model")
    return refs


def _control(context: Context, target: ModelRef) -> ModelRef:
    """The positive control: the target taught to refuse, knowledge left inside. The audit must find it."""
    settings = context.recipe.control_training
    subject_key = _fingerprint(context, target)
    key = key_of(
        "control",
        subject_key,
        _data_key(context),
        asdict(settings),
        context.recipe.seed,
        list(context.workload.refusals),
    )

    def make() -> Subject:
        subject = context.models.adapted(target.load(), context.recipe.seed)
        folder = context.models.cache / f"{key}.training"
        observers = context.bars.watch("control")
        job = UnlearnJob(
            subject,
            context.workload.forget,
            context.workload.retain,
            settings,
            context.recipe.seed,
            folder,
            observers,
            refusals=context.workload.refusals,
        )
        return merge_lora(job.train(IDK(), subject))

    return context.models.keep(key, make, "positive control (refusal-tuned target)")


# -- unlearn ------------------------------------------------------------------------------------------


def unlearn_stage(context: Context, target: ModelRef, named: Any) -> ModelRef:
    """One method's unlearned model, in the run folder."""
    recipe, workload = context.recipe, context.workload
    method: Method = named.build()
    training = recipe.training(named)
    out = context.folder / "model" if len(recipe.methods) == 1 else context.folder / "model" / named.name
    key = key_of("unlearn", _fingerprint(context, target), _data_key(context), named.name, repr(method),
                 asdict(training), recipe.seed, asdict(context.models.spec), list(workload.refusals))  # fmt: skip
    note = context.folder / "stages" / f"unlearn-{named.name}.json"
    if context.journal.done(note, key) and (out / "expunge.json").exists():
        return model_ref(out, recipe.model.dtype)
    with context.journal.stage(f"unlearn {named.name}"):
        checkpoints = context.folder / "checkpoints" / named.name / key
        subject = context.models.adapted(target.load(), recipe.seed)
        job = UnlearnJob(
            subject, workload.forget, workload.retain, training, recipe.seed, checkpoints,
            _observers(context, named.name, subject), base=context.models.base,
            base_training=recipe.target.train if recipe.target else None, refusals=workload.refusals,
        )  # fmt: skip
        unlearned = merge_lora(unlearn(method, job))
        temporary = out.with_name(out.name + ".tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        unlearned.save(temporary, model_card(named, method, recipe, digest(workload.forget)))
        write_note(unlearned, temporary)
        shutil.rmtree(out, ignore_errors=True)
        os.replace(temporary, out)
        context.journal.finish(note, key, {"logs": [_summary(log) for log in job.logs]})
        shutil.rmtree(context.folder / "checkpoints" / named.name, ignore_errors=True)
    return model_ref(out, recipe.model.dtype)


def _observers(context: Context, name: str, subject: Subject) -> Observers:
    """Progress, and a cheap probe of forget and retain accuracy for the trajectory."""
    observers = context.bars.watch(name) or Observers()
    splits = {n: context.workload.splits[n] for n in ("forget", "retain") if n in context.workload.splits}
    kind, tokens = context.workload.attack_score, context.workload.max_new_tokens

    def thin(rows: list[Any]) -> list[Any]:
        return rows[:: max(1, len(rows) // PROBE_ROWS)]

    def probe(model: Any) -> dict[str, float]:
        probed = subject.with_model(model)
        return {n: float(fact_scores(probed, thin(rows), kind, tokens).mean()) for n, rows in splits.items()}

    if context.gold is None:
        return replace(observers, probe=probe)
    level = probe(context.gold.load().model)["forget"]
    # Among checkpoints that keep the utility floor: the one whose forget score is nearest to gold's.
    return replace(observers, probe=probe, score=lambda values: (-abs(values["forget"] - level),))


def _summary(log: TrainLog) -> dict[str, Any]:
    return {
        "steps": len(log.steps),
        "probes": log.probes,
        "resumed_at": log.resumed_at,
        "stopped": log.stopped,
        "selected_step": log.selected_step,
        "reference": log.reference,
    }


# -- audit --------------------------------------------------------------------------------------------


def audit_stage(context: Context, refs: dict[str, ModelRef]) -> dict[str, ModelAudit]:
    """Measure every model; gold first, because others are measured beside it."""
    attacks = {a.name: a.build() for a in context.recipe.audit.attacks}
    order = sorted(refs, key=lambda name: (name != "gold", name != "target"))
    gold = _store(context, "gold", refs["gold"]) if "gold" in refs else None
    audits = {name: _audit_one(context, name, refs[name], gold, attacks) for name in order}
    return {name: audits[name] for name in (*(n for n in REFERENCES if n in audits), *(
        n for n in audits if n not in REFERENCES))}  # fmt: skip


def _store(context: Context, name: str, ref: ModelRef) -> EvidenceStore:
    return EvidenceStore(
        name,
        ref.load,
        context.workload.splits,
        context.folder / "audit" / "evidence",
        fingerprint=_fingerprint(context, ref),
        max_new_tokens=context.workload.max_new_tokens,
    )


def _audit_one(
    context: Context, name: str, ref: ModelRef, gold: EvidenceStore | None, attacks: dict[str, Attack]
) -> ModelAudit:
    workload, recipe = context.workload, context.recipe
    fingerprint = _fingerprint(context, ref)
    data = {split: digest(rows) for split, rows in workload.splits.items()}
    gold_key = gold.subject.fingerprint() if gold else None
    key = key_of("audit", fingerprint, gold_key, data, repr(workload.metrics), repr(attacks), recipe.seed,
                 _data_key(context))  # fmt: skip
    path, note = context.folder / "audit" / f"{name}.json", context.folder / "stages" / f"audit-{name}.json"
    if context.journal.done(note, key) and path.exists():
        return replace(ModelAudit.load(path), name=name)
    with context.journal.stage(f"audit {name}"):
        store = gold if gold is not None and name == "gold" else _store(context, name, ref)
        with context.bars.work(f"audit {name}", len(workload.metrics) + len(attacks)) as progress:
            audit = audit_model(store, gold, workload, attacks, seed=recipe.seed, progress=progress)
        audit.save(path)
        context.journal.finish(note, key, {})
    return audit


# -- report -------------------------------------------------------------------------------------------


def report_stage(context: Context, audits: dict[str, ModelAudit], started: str) -> Scorecard:
    """Scorecard, verdicts and report."""
    recipe = context.recipe
    intentions = {m.name: m.entry.intention or "" for m in recipe.methods}
    scorecard = assemble(audits, intentions, seed=recipe.seed, draws=recipe.audit.draws)
    scorecard.curves["trajectory"] = _trajectories(context)
    tolerance = Tolerance(delta=recipe.audit.delta)
    judged = [n for n in scorecard.evidence if n not in REFERENCES]
    scorecard.verdicts = {name: judge_model(scorecard, name, tolerance) for name in judged}
    scorecard.run = _provenance(context, started)
    scorecard.save(context.folder / "scorecard.json")
    write_report(scorecard, context.folder / "report.html")
    context.journal.note("report written")
    return scorecard


def _trajectories(context: Context) -> dict[str, Any]:
    curves = {}
    for method in context.recipe.methods:
        note = context.folder / "stages" / f"unlearn-{method.name}.json"
        logs = json.loads(note.read_text(encoding="utf-8"))["result"]["logs"] if note.exists() else []
        probes = logs[-1]["probes"] if logs else []
        if probes:
            columns = {k: [p.get(k) for p in probes] for k in ("step", "forget", "retain") if k in probes[0]}
            curves[method.name] = {**columns, "selected": logs[-1]["selected_step"]}
    return curves


def _provenance(context: Context, started: str) -> dict[str, Any]:
    recipe = context.recipe
    packages = ("expunge", "torch", "transformers", "accelerate", "peft", "numpy", "scipy")
    data = {
        name: {"sha256": digest(rows), "records": len(rows)}
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
    }


# -- keys ---------------------------------------------------------------------------------------------


def _fingerprint(context: Context, ref: ModelRef) -> str:
    known = context.journal.fingerprints
    if id(ref) not in known:
        known[id(ref)] = (ref, ref.load().fingerprint())
    return known[id(ref)][1]


def _data_key(context: Context) -> list[str]:
    return [digest(context.workload.forget), digest(context.workload.retain)]
