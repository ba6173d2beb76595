"""The stages of a run that make and measure models; each is filed under a key of all it depends on."""

from __future__ import annotations

import math
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from expunge.card import model_card
from expunge.engine.loop import Observers, TrainLog
from expunge.engine.method import Method
from expunge.engine.training import Training
from expunge.journal import Bars, Journal
from expunge.kept import NOTE, ModelRef, key_of, put
from expunge.recipe import Recipe
from expunge.report.assemble import ModelAudit
from expunge.report.verdict import REFERENCES
from expunge.sequence import model_folder
from expunge.sequence_data import Asked
from expunge.wing import Wing

PROBE_ROWS = 128  # rows of each split that a probe during training looks at


@dataclass
class Context:
    """What every stage of one run shares."""

    recipe: Recipe
    wing: Wing
    workload: Any
    models: Any
    folder: Path
    journal: Journal
    bars: Bars
    asked: Asked
    gold: ModelRef | None = None
    gold_level: float | None = None

    def fingerprint(self, ref: ModelRef) -> str:
        """Content of a model, read once."""
        known = self.journal.fingerprints
        if id(ref) not in known:
            known[id(ref)] = (ref, ref.load().fingerprint())
        return known[id(ref)][1]

    @property
    def data_key(self) -> list[str]:
        """Content of what is trained on."""
        return [self.wing.digest(self.workload.forget), self.wing.digest(self.workload.retain)]


# -- prepare ------------------------------------------------------------------------------------------


def prepare(context: Context) -> dict[str, ModelRef]:
    """The target, the gold models and the positive control, as far as the recipe asks for them."""
    recipe, workload, models = context.recipe, context.workload, context.models
    context.wing.audit_notes(workload)  # refuses data that no audit could use, before anything is trained
    everything = context.asked.trained_on
    refs: dict[str, ModelRef] = {}
    with context.journal.stage("target"):
        if recipe.target is None:
            refs["target"] = models.delivered()
        else:
            refs["target"] = models.trained(everything, recipe.target.train, recipe.seed, "target model")
    if recipe.gold is not None:
        refs |= _golds(context, len(everything))
    if recipe.audit.control and len(workload.retain):
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
                refs[name] = context.wing.given(context, gold.source)
            else:
                assert recipe.target is not None  # the recipe refuses gold.source=retrain without it
                training = recipe.target.train.for_share(len(retain), rows)
                refs[name] = models.trained(retain, training, recipe.seed + number, f"{name} model")
    return refs


def control_stage(context: Context, target: ModelRef) -> ModelRef:
    """The positive control: a target that no longer shows what it still knows. The audit must find that out."""
    settings, wing = context.recipe.control_training, context.wing
    key = key_of("control", wing.name, context.fingerprint(target), context.data_key, asdict(settings),
                 context.recipe.seed, wing.content(context))  # fmt: skip

    def make() -> Any:
        subject = context.models.adapted(target.load(), context.recipe.seed)
        folder, observers = context.models.cache / f"{key}.training", context.bars.watch("control")
        return wing.control(wing.job(context, subject, settings, folder=folder, observers=observers))

    with context.journal.stage("control"):
        control: ModelRef = context.models.keep(key, make, wing.control_title)
    return control


# -- unlearn ------------------------------------------------------------------------------------------


def unlearn_stage(context: Context, target: ModelRef, named: Any) -> ModelRef:
    """One method's unlearned model, in the run folder."""
    recipe, workload, wing = context.recipe, context.workload, context.wing
    method: Method = named.build()
    training = _training(context, named)
    out = model_folder(context.folder, recipe, named.name)
    start = start_of(context, target, named.name)
    reference = target if start is not target and recipe.unlearn.reference == "initial" else None
    key = key_of("unlearn", context.fingerprint(start), context.data_key, named.name, repr(method), asdict(training),
                 recipe.seed, wing.content(context), context.fingerprint(reference) if reference else None)  # fmt: skip
    note = context.folder / "stages" / f"unlearn-{named.name}.json"
    if context.journal.done(note, key) and (out / NOTE).exists():
        return wing.model_ref(out, recipe)
    with context.journal.stage(f"unlearn {named.name}"):
        checkpoints = context.folder / "checkpoints" / named.name / key
        subject = context.models.adapted(start.load(), recipe.seed)
        observers = _observers(context, named.name, subject, training)
        job = wing.job(context, subject, training, folder=checkpoints, observers=observers, reference=reference)
        unlearned = wing.unlearn(method, job)
        card = model_card(named.name, method, recipe, wing.digest(workload.forget), wing.library)
        put(unlearned, out, card, context.models.feeding(unlearned))
        _tell(context.journal, named.name, job.logs, len(workload.forget) / training.batch_size)
        context.journal.finish(note, key, {"logs": [_summary(log) for log in job.logs]})
        shutil.rmtree(context.folder / "checkpoints" / named.name, ignore_errors=True)
    return wing.model_ref(out, recipe)


def start_of(context: Context, target: ModelRef, method: str) -> ModelRef:
    """What a method starts from: the target, or its own result of the request before."""
    if not context.asked.earlier:
        return target
    past = context.asked.earlier[-1]
    return context.wing.model_ref(model_folder(past.folder, past.recipe, method), context.recipe)


def _training(context: Context, named: Any) -> Training:
    """The method's training settings; a stop rule looks after every pass over the forget set unless told."""
    training = context.recipe.training(named)
    if not context.wing.stops(context.workload) or training.evaluate_every:
        return training
    return replace(training, evaluate_every=math.ceil(len(context.workload.forget) / training.batch_size))


def _observers(context: Context, name: str, subject: Any, training: Training) -> Observers:
    """Progress, and, if the training is to be probed, a cheap look at the forget and retain scores."""
    observers, wing = context.bars.watch(name), context.wing
    if not training.evaluate_every:
        return observers
    splits = {n: _thin(wing, context.workload.splits[n]) for n in ("forget", "retain") if n in context.workload.splits}

    def probe(model: Any) -> dict[str, float]:
        probed = subject.with_model(model)
        return {
            n: float(wing.score(probed, rows, context.workload, attacked=True).mean()) for n, rows in splits.items()
        }

    rule = wing.stopping(context, subject)
    if rule is not None:  # the weights at the stop are the result: nothing is selected
        return replace(observers, probe=lambda model: {**probe(model), **rule.probe(model)}, stop=rule.stop)
    if context.gold is None:
        return replace(observers, probe=probe)
    if context.gold_level is None:
        context.gold_level = probe(context.gold.load().model)["forget"]
    level = context.gold_level
    # Among checkpoints that keep the utility floor: the one whose forget score is nearest to gold's.
    return replace(observers, probe=probe, score=lambda values: (-abs(values["forget"] - level),))


def _thin(wing: Wing, rows: Any) -> Any:
    """At most so many rows, evenly spread."""
    return wing.take(rows, range(0, len(rows), -(-len(rows) // PROBE_ROWS)))


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
    wing, attacks = context.wing, _attacks(context)
    order = sorted(refs, key=lambda name: (name != "gold", name != "target"))
    compared = wing.compares(context.workload.metrics)
    beside = ["gold", "target"] if compared else ["gold"]  # models that others are measured beside stay loaded
    stores = {n: wing.store(context, n, refs[n], context.fingerprint(refs[n])) for n in beside if n in refs}
    for text in wing.audit_notes(context.workload):
        context.journal.note(text)
    references = wing.references(context)
    audits = {name: _audit_one(context, name, refs[name], stores, attacks, references) for name in order}
    first = [n for n in REFERENCES if n in audits]
    return {name: audits[name] for name in dict.fromkeys([*first, *audits])}


def _attacks(context: Context) -> dict[str, Any]:
    """The recipe's attacks, without those that a request about one data subject cannot be put to."""
    wing = context.wing
    attacks = {a.name: a.build() for a in context.recipe.audit.attacks}
    alone = len(set(wing.clusters(context.workload.splits["forget"]))) < 2
    left_out = [name for name, attack in attacks.items() if alone and wing.divides(attack)]
    if left_out:
        context.journal.note(
            f"{', '.join(left_out)}: left out. All forget {wing.records} are about one data subject, and relearning "
            f"some subjects to see whether others come back takes two."
        )
    return {name: attack for name, attack in attacks.items() if name not in left_out}


def _audit_one(
    context: Context,
    name: str,
    ref: ModelRef,
    stores: dict[str, Any],
    attacks: dict[str, Any],
    references: Any = None,
) -> ModelAudit:
    """Measure one model beside the stores of gold and target."""
    workload, recipe, wing = context.workload, context.recipe, context.wing
    fingerprint, gold, target = context.fingerprint(ref), stores.get("gold"), stores.get("target")
    data = {split: wing.digest(rows) for split, rows in workload.splits.items()}
    beside = [store.subject.fingerprint() if store else None for store in (gold, target)]
    key = key_of("audit", fingerprint, beside, data, repr(workload.metrics), repr(attacks), recipe.seed,
                 context.data_key, wing.audit_content(context), references.key if references else None)  # fmt: skip
    path, note = context.folder / "audit" / f"{name}.json", context.folder / "stages" / f"audit-{name}.json"
    if context.journal.done(note, key) and path.exists():
        return replace(ModelAudit.load(path), name=name)
    with context.journal.stage(f"audit {name}"):
        store = stores.get(name) or wing.store(context, name, ref, fingerprint)
        with context.bars.work(f"audit {name}", wing.measurements(context) + len(attacks)) as progress:
            audit = wing.audit(context, store, gold, target, attacks, references, progress)
        audit.save(path)
        context.journal.finish(note, key, {})
    return audit
