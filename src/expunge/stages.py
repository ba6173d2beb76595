"""The stages of a run that make and measure models; each is filed under a key of all it depends on."""

from __future__ import annotations

import math
import os
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from expunge.engine.loop import Observers, TrainLog
from expunge.engine.method import Method
from expunge.engine.training import Training
from expunge.journal import Bars, Journal
from expunge.language.attacks._common import fact_scores
from expunge.language.audit import Attack, audit_model
from expunge.language.card import model_card
from expunge.language.data import digest
from expunge.language.evidence import EvidenceStore
from expunge.language.methods.idk import IDK
from expunge.language.prepare import ModelRef, Models, key_of, model_ref, write_note
from expunge.language.subject import Subject, merge_lora
from expunge.language.unlearn import UnlearnJob, unlearn
from expunge.language.workload import Comparing, Workload
from expunge.recipe import Recipe
from expunge.report.assemble import ModelAudit
from expunge.report.verdict import REFERENCES

PROBE_ROWS = 128  # rows of each split that a probe during training looks at


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
    gold_level: float | None = None


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
        refs["control"] = control_stage(context, refs["target"])
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
                training = recipe.target.train.for_share(len(retain), rows)
                refs[name] = models.trained(retain, training, recipe.seed + number, f"{name} model")
    return refs


def control_stage(context: Context, target: ModelRef) -> ModelRef:
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

    with context.journal.stage("control"):
        return context.models.keep(key, make, "positive control (refusal-tuned target)")


# -- unlearn ------------------------------------------------------------------------------------------


def unlearn_stage(context: Context, target: ModelRef, named: Any) -> ModelRef:
    """One method's unlearned model, in the run folder."""
    recipe, workload = context.recipe, context.workload
    method: Method = named.build()
    training = _training(context, named)
    out = context.folder / "model" if len(recipe.methods) == 1 else context.folder / "model" / named.name
    key = key_of("unlearn", _fingerprint(context, target), _data_key(context), named.name, repr(method),
                 asdict(training), recipe.seed, asdict(context.models.spec), list(workload.refusals),
                 repr(recipe.benchmark) if workload.stop_rule else None)  # fmt: skip
    note = context.folder / "stages" / f"unlearn-{named.name}.json"
    if context.journal.done(note, key) and (out / "expunge.json").exists():
        return model_ref(out, recipe.model.dtype)
    with context.journal.stage(f"unlearn {named.name}"):
        checkpoints = context.folder / "checkpoints" / named.name / key
        subject = context.models.adapted(target.load(), recipe.seed)
        job = UnlearnJob(
            subject, workload.forget, workload.retain, training, recipe.seed, checkpoints,
            _observers(context, named.name, subject, training), base=context.models.adapted_base,
            base_training=recipe.target.train if recipe.target else None, refusals=workload.refusals,
        )  # fmt: skip
        unlearned = merge_lora(unlearn(method, job))
        temporary = out.with_name(out.name + ".tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        unlearned.save(temporary, model_card(named.name, method, recipe, digest(workload.forget)))
        write_note(unlearned, temporary)
        shutil.rmtree(out, ignore_errors=True)
        os.replace(temporary, out)
        _tell(context.journal, named.name, job.logs, len(workload.forget) / training.batch_size)
        context.journal.finish(note, key, {"logs": [_summary(log) for log in job.logs]})
        shutil.rmtree(context.folder / "checkpoints" / named.name, ignore_errors=True)
    return model_ref(out, recipe.model.dtype)


def _training(context: Context, named: Any) -> Training:
    """The method's training settings; a stop rule looks after every pass over the forget set unless told."""
    training = context.recipe.training(named)
    if context.workload.stop_rule is None or training.evaluate_every:
        return training
    return replace(training, evaluate_every=math.ceil(len(context.workload.forget) / training.batch_size))


def _observers(context: Context, name: str, subject: Subject, training: Training) -> Observers:
    """Progress, and, if the training is to be probed, a cheap look at the forget and retain scores."""
    observers = context.bars.watch(name)
    if not training.evaluate_every:
        return observers
    splits = {n: context.workload.splits[n] for n in ("forget", "retain") if n in context.workload.splits}
    kind, tokens = context.workload.attack_score, context.workload.max_new_tokens

    def thin(rows: list[Any]) -> list[Any]:
        return rows[:: -(-len(rows) // PROBE_ROWS)]

    def probe(model: Any) -> dict[str, float]:
        probed = subject.with_model(model)
        return {n: float(fact_scores(probed, thin(rows), kind, tokens).mean()) for n, rows in splits.items()}

    if context.workload.stop_rule is not None:  # the weights at the stop are the result: nothing is selected
        rule = context.workload.stop_rule(subject)
        return replace(observers, probe=lambda model: {**probe(model), **rule.probe(model)}, stop=rule.stop)
    if context.gold is None:
        return replace(observers, probe=probe)
    if context.gold_level is None:
        context.gold_level = probe(context.gold.load().model)["forget"]
    level = context.gold_level
    # Among checkpoints that keep the utility floor: the one whose forget score is nearest to gold's.
    return replace(observers, probe=probe, score=lambda values: (-abs(values["forget"] - level),))


def _tell(journal: Journal, name: str, logs: list[TrainLog], steps_an_epoch: float) -> None:
    """Loss terms of every step into the log; what did not go straight through into the report too."""
    for log in logs:
        for entry in log.steps:
            journal.event("step", method=name, **entry)
        if log.resumed_at is not None:
            journal.note(f"{name}: stopped earlier, resumed from the checkpoint at step {log.resumed_at}.")
        if log.stopped:
            passes = len(log.steps) / max(1, math.ceil(steps_an_epoch))
            journal.note(f"{name}: ended after {passes:g} passes over the forget set: {log.stopped}.")
        for text in log.notes:
            journal.note(f"{name}: {text}.")


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
    compared = any(isinstance(m, Comparing) for m in context.workload.metrics)
    beside = ["gold", "target"] if compared else ["gold"]  # models that others are measured beside stay loaded
    stores = {name: _store(context, name, refs[name]) for name in beside if name in refs}
    audits = {name: _audit_one(context, name, refs[name], stores, attacks) for name in order}
    first = [n for n in REFERENCES if n in audits]
    return {name: audits[name] for name in dict.fromkeys([*first, *audits])}


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
    context: Context, name: str, ref: ModelRef, stores: dict[str, EvidenceStore], attacks: dict[str, Attack]
) -> ModelAudit:
    """Measure one model beside the stores of gold and target."""
    workload, recipe = context.workload, context.recipe
    fingerprint, gold, target = _fingerprint(context, ref), stores.get("gold"), stores.get("target")
    data = {split: digest(rows) for split, rows in workload.splits.items()}
    beside = [store.subject.fingerprint() if store else None for store in (gold, target)]
    key = key_of("audit", fingerprint, beside, data, repr(workload.metrics), repr(attacks), recipe.seed,
                 _data_key(context))  # fmt: skip
    path, note = context.folder / "audit" / f"{name}.json", context.folder / "stages" / f"audit-{name}.json"
    if context.journal.done(note, key) and path.exists():
        return replace(ModelAudit.load(path), name=name)
    with context.journal.stage(f"audit {name}"):
        store = stores.get(name) or _store(context, name, ref)
        with context.bars.work(f"audit {name}", len(workload.metrics) + len(attacks)) as progress:
            audit = audit_model(store, gold, workload, attacks, seed=recipe.seed, target=target, progress=progress)
        audit.save(path)
        context.journal.finish(note, key, {})
    return audit


# -- keys ---------------------------------------------------------------------------------------------


def _fingerprint(context: Context, ref: ModelRef) -> str:
    known = context.journal.fingerprints
    if id(ref) not in known:
        known[id(ref)] = (ref, ref.load().fingerprint())
    return known[id(ref)][1]


def _data_key(context: Context) -> list[str]:
    return [digest(context.workload.forget), digest(context.workload.retain)]
