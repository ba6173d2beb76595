"""The stages of a run that make and measure models; each is filed under a key of all it depends on."""

from __future__ import annotations

import math
import os
import shutil
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from expunge.engine.loop import Observers, TrainLog
from expunge.engine.method import Method
from expunge.engine.training import Training
from expunge.journal import Bars, Journal
from expunge.language.attacks._common import fact_scores
from expunge.language.attacks.relearn import Relearn
from expunge.language.audit import Attack, audit_model, audit_notes
from expunge.language.card import model_card
from expunge.language.data import cluster_ids, digest
from expunge.language.evidence import EvidenceStore
from expunge.language.harness_suite import Suite
from expunge.language.methods.idk import IDK
from expunge.language.metrics.reference_membership import reference_metric
from expunge.language.prepare import EmbeddedWorld, ModelRef, Models, key_of, model_ref, write_note
from expunge.language.references import ReferenceEvidence, missing, reference_evidence
from expunge.language.subject import Subject, merge_lora
from expunge.language.testbed import World
from expunge.language.unlearn import UnlearnJob, unlearn
from expunge.language.workload import Comparing, Placing, Workload
from expunge.recipe import Recipe
from expunge.report.assemble import ModelAudit
from expunge.report.verdict import REFERENCES
from expunge.sequence import model_folder
from expunge.sequence_data import Asked

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
    asked: Asked
    gold: ModelRef | None = None
    gold_level: float | None = None


def world_of(recipe: Recipe) -> EmbeddedWorld:
    """The world of the embedded model: the benchmark's, or the test bed's where it has none."""
    return getattr(recipe.benchmark.build(), "world", None) or World()


# -- prepare ------------------------------------------------------------------------------------------


def prepare(context: Context) -> dict[str, ModelRef]:
    """The target, the gold models and the positive control, as far as the recipe asks for them."""
    recipe, workload, models = context.recipe, context.workload, context.models
    audit_notes(workload)  # refuses data that no audit could use, before anything is trained
    everything = context.asked.trained_on
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
                # an embedded gold model has not seen what this very request asks to forget (a later fold)
                spec = replace(models.spec, source=gold.source, world=world_of(recipe))
                refs[name] = Models(spec, models.cache, seed=recipe.seed).delivered()
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
    out = model_folder(context.folder, recipe, named.name)
    start = start_of(context, target, named.name)
    reference = target if start is not target and recipe.unlearn.reference == "initial" else None
    key = key_of("unlearn", _fingerprint(context, start), _data_key(context), named.name, repr(method),
                 asdict(training), recipe.seed, asdict(context.models.spec), list(workload.refusals),
                 repr(recipe.benchmark) if workload.stop_rule or workload.corpus else None,
                 *([_fingerprint(context, context.gold)] if workload.stop_rule and context.gold else []),
                 *([_fingerprint(context, reference)] if reference else []))  # fmt: skip
    note = context.folder / "stages" / f"unlearn-{named.name}.json"
    if context.journal.done(note, key) and (out / "expunge.json").exists():
        return model_ref(out, recipe.model.dtype)
    with context.journal.stage(f"unlearn {named.name}"):
        checkpoints = context.folder / "checkpoints" / named.name / key
        subject = context.models.adapted(start.load(), recipe.seed)
        job = UnlearnJob(
            subject, workload.forget, workload.retain, training, recipe.seed, checkpoints,
            _observers(context, named.name, subject, training), base=context.models.adapted_base,
            base_training=recipe.target.train if recipe.target else None, refusals=workload.refusals,
            reference=reference.load if reference else None,
            corpus=partial(workload.corpus, cache=context.models.cache) if workload.corpus else None,
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


def start_of(context: Context, target: ModelRef, method: str) -> ModelRef:
    """What a method starts from: the target, or its own result of the request before."""
    if not context.asked.earlier:
        return target
    past = context.asked.earlier[-1]
    return model_ref(model_folder(past.folder, past.recipe, method), context.recipe.model.dtype)


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
        rule = context.workload.stop_rule(subject).beside(context.gold.load if context.gold else None)
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
    attacks = _attacks(context)
    order = sorted(refs, key=lambda name: (name != "gold", name != "target"))
    compared = any(isinstance(m, Comparing | Placing) for m in context.workload.metrics)
    beside = ["gold", "target"] if compared else ["gold"]  # models that others are measured beside stay loaded
    stores = {name: _store(context, name, refs[name]) for name in beside if name in refs}
    for text in audit_notes(context.workload):
        context.journal.note(text)
    references = _references(context)
    audits = {name: _audit_one(context, name, refs[name], stores, attacks, references) for name in order}
    first = [n for n in REFERENCES if n in audits]
    return {name: audits[name] for name in dict.fromkeys([*first, *audits])}


def _references(context: Context) -> ReferenceEvidence | None:
    """Scores of the reference models, for the membership attacks that need them; None where there are none."""
    recipe, workload = context.recipe, context.workload
    metric, training = reference_metric(workload.metrics), recipe.target.train if recipe.target else None
    if not recipe.audit.references:
        return None
    sides = metric.members, metric.non_members
    if (why := missing(workload.forget, workload.splits, training, sides)) is not None or training is None:
        context.journal.note(f"audit.references={recipe.audit.references}: no reference models, because {why}.")
        return None
    with context.journal.stage("references"):
        references = reference_evidence(
            context.models, workload.forget, workload.retain, workload.splits, training, seed=recipe.seed,
            count=recipe.audit.references, trained_on=len(context.asked.trained_on), sides=sides, k=metric.k,
        )  # fmt: skip
    for text in metric.notes(references):
        context.journal.note(text)
    return references


def _attacks(context: Context) -> dict[str, Attack]:
    """The recipe's attacks, without those that a request about one data subject cannot be put to."""
    attacks = {a.name: a.build() for a in context.recipe.audit.attacks}
    alone = len(set(cluster_ids(context.workload.splits["forget"]))) < 2
    left_out = [name for name, attack in attacks.items() if alone and type(attack) is Relearn]
    if left_out:
        context.journal.note(
            f"{', '.join(left_out)}: left out. All forget records are about one data subject, and relearning some "
            f"subjects to see whether others come back takes two."
        )
    return {name: attack for name, attack in attacks.items() if name not in left_out}


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
    context: Context,
    name: str,
    ref: ModelRef,
    stores: dict[str, EvidenceStore],
    attacks: dict[str, Attack],
    references: ReferenceEvidence | None = None,
) -> ModelAudit:
    """Measure one model beside the stores of gold and target."""
    workload, recipe = context.workload, context.recipe
    fingerprint, gold, target = _fingerprint(context, ref), stores.get("gold"), stores.get("target")
    data = {split: digest(rows) for split, rows in workload.splits.items()}
    beside = [store.subject.fingerprint() if store else None for store in (gold, target)]
    suite = Suite(**recipe.audit.harness.model_dump(exclude={"tolerance"}))
    key = key_of("audit", fingerprint, beside, data, repr(workload.metrics), repr(attacks), recipe.seed,
                 _data_key(context), suite.content(), references.key if references else None)  # fmt: skip
    path, note = context.folder / "audit" / f"{name}.json", context.folder / "stages" / f"audit-{name}.json"
    if context.journal.done(note, key) and path.exists():
        return replace(ModelAudit.load(path), name=name)
    with context.journal.stage(f"audit {name}"):
        store = stores.get(name) or _store(context, name, ref)
        with context.bars.work(f"audit {name}", len(workload.metrics) + len(attacks) + bool(suite.tasks)) as progress:
            audit = audit_model(
                store, gold, workload, attacks, seed=recipe.seed, target=target, suite=suite, references=references,
                progress=progress,
            )  # fmt: skip
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
