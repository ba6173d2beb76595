"""Language models as the floor sees them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from expunge.engine.loop import Observers
from expunge.engine.method import Method
from expunge.engine.training import Training
from expunge.kept import ModelRef
from expunge.language.attacks._common import fact_scores
from expunge.language.attacks.relearn import Relearn
from expunge.language.audit import audit_model, audit_notes
from expunge.language.data import Record, digest
from expunge.language.estimate import TextEstimate
from expunge.language.evidence import EvidenceStore
from expunge.language.harness_suite import Suite, check_tasks
from expunge.language.methods.idk import IDK
from expunge.language.metrics.reference_membership import reference_metric
from expunge.language.prepare import EMBEDDED, EmbeddedWorld, Models, ModelSpec, model_ref
from expunge.language.references import ReferenceEvidence, missing, reference_evidence
from expunge.language.request import further_request
from expunge.language.request_records import request_rows
from expunge.language.stop_rule import Rule
from expunge.language.subject import Subject, merge_lora
from expunge.language.testbed import World
from expunge.language.unlearn import UnlearnJob, unlearn
from expunge.language.workload import Placing, Workload
from expunge.recipe import Recipe
from expunge.report.assemble import ModelAudit
from expunge.report.verdict import Tolerance
from expunge.wing import Wing

if TYPE_CHECKING:
    from expunge.sequence_data import Asked
    from expunge.stages import Context


class Language(Wing):
    """Causal language models, unlearned by records of text."""

    name: ClassVar[str] = "language"
    records: ClassVar[str] = "records"
    packages: ClassVar[tuple[str, ...]] = ("transformers", "accelerate", "peft")
    control_title: ClassVar[str] = "positive control (refusal-tuned target)"
    library: ClassVar[str] = "transformers"
    continues: ClassVar[bool] = True
    required: ClassVar[tuple[str, ...]] = Tolerance.required

    # -- data ---------------------------------------------------------------------------------------

    def digest(self, rows: list[Record]) -> str:
        """See `Wing`."""
        return digest(rows)

    def subjects(self, rows: list[Record]) -> list[str]:
        """See `Wing`; a record without a cluster is known by its place."""
        return [r.cluster or f"\0{i}" for i, r in enumerate(rows)]

    def take(self, rows: list[Record], indices: Sequence[int]) -> list[Record]:
        """See `Wing`."""
        return [rows[i] for i in indices]

    def join(self, first: list[Record], second: list[Record]) -> list[Record]:
        """See `Wing`."""
        return first + second

    def check(self, recipe: Recipe, workload: Workload) -> None:
        """See `Wing`."""
        check_tasks(recipe.audit.harness.tasks, workload.splits)

    def request(
        self,
        recipe: Recipe,
        base: Workload,
        earlier: tuple[Asked, ...],
        previous: Asked | None,
        everything: list[Record],
    ) -> tuple[Workload, list[Record]]:
        """See `Wing`."""
        return further_request(recipe, base, earlier, previous, everything)

    def request_rows(self, source: str) -> Any:
        """See `Wing`."""
        return request_rows(source)

    # -- models -------------------------------------------------------------------------------------

    def models(
        self,
        recipe: Recipe,
        workload: Workload,
        cache: Path,
        origin: Recipe,
        observers: Callable[[str], Observers | None],
        note: Callable[[str], None],
    ) -> Models:
        """See `Wing`."""
        source = recipe.model.source
        if source in EMBEDDED and recipe.target is not None:
            source += ":base"
        spec = ModelSpec(
            source=source,
            template=recipe.model.template,
            system=recipe.model.system,
            dtype=recipe.model.dtype,
            max_length=recipe.model.max_length,
            lora=recipe.model.lora.model_dump() if recipe.model.lora else None,
            world=world_of(origin),
        )
        return Models(spec, cache, seed=recipe.seed, observers=observers, note=note)

    def given(self, context: Context, source: str) -> ModelRef:
        """See `Wing`; an embedded gold model has not seen what this very request asks to forget (a later fold)."""
        models: Models = context.models
        spec = replace(models.spec, source=source, world=world_of(context.recipe))
        return Models(spec, models.cache, seed=context.recipe.seed).delivered()

    def model_ref(self, folder: Path, recipe: Recipe) -> ModelRef:
        """See `Wing`."""
        return model_ref(folder, recipe.model.dtype)

    # -- unlearning ---------------------------------------------------------------------------------

    def job(
        self,
        context: Context,
        subject: Subject,
        training: Training,
        *,
        folder: Path,
        observers: Observers,
        reference: ModelRef | None = None,
    ) -> UnlearnJob:
        """See `Wing`."""
        recipe, workload, models = context.recipe, context.workload, context.models
        return UnlearnJob(
            subject, workload.forget, workload.retain, training, recipe.seed, folder, observers,
            base=models.adapted_base, base_training=recipe.target.train if recipe.target else None,
            refusals=workload.refusals, reference=reference.load if reference else None,
            corpus=partial(workload.corpus, cache=models.cache) if workload.corpus else None,
        )  # fmt: skip

    def unlearn(self, method: Method, job: UnlearnJob) -> Subject:
        """See `Wing`."""
        return merge_lora(unlearn(method, job))

    def control(self, job: UnlearnJob) -> Subject:
        """The target taught to refuse, its knowledge left inside."""
        return merge_lora(job.train(IDK(), job.subject))

    def content(self, context: Context) -> list[Any]:
        """See `Wing`."""
        workload, models = context.workload, context.models
        own = repr(context.recipe.benchmark) if workload.stop_rule or workload.corpus else None
        gold = context.fingerprint(context.gold) if workload.stop_rule and context.gold else None
        return [repr(models.spec), list(workload.refusals), own, gold]

    def score(
        self, subject: Subject, rows: list[Record], workload: Workload, *, attacked: bool = False
    ) -> NDArray[np.float64]:
        """See `Wing`."""
        kind = workload.attack_score if attacked else workload.behaviour
        return fact_scores(subject, rows, kind, workload.max_new_tokens)

    def stops(self, workload: Workload) -> bool:
        """See `Wing`."""
        return workload.stop_rule is not None

    def stopping(self, context: Context, subject: Subject) -> Rule | None:
        """See `Wing`."""
        rule = context.workload.stop_rule
        return None if rule is None else rule(subject).beside(context.gold.load if context.gold else None)

    # -- audit --------------------------------------------------------------------------------------

    def store(self, context: Context, name: str, ref: ModelRef, fingerprint: str) -> EvidenceStore:
        """See `Wing`."""
        return EvidenceStore(
            name, ref.load, context.workload.splits, context.folder / "audit" / "evidence", fingerprint=fingerprint,
            max_new_tokens=context.workload.max_new_tokens,
        )  # fmt: skip

    def audit(
        self,
        context: Context,
        store: EvidenceStore,
        gold: EvidenceStore | None,
        target: EvidenceStore | None,
        attacks: Mapping[str, Any],
        references: ReferenceEvidence | None,
        progress: Callable[[str], None],
    ) -> ModelAudit:
        """See `Wing`."""
        return audit_model(
            store, gold, context.workload, attacks, seed=context.recipe.seed, target=target,
            suite=_suite(context.recipe), references=references, progress=progress,
        )  # fmt: skip

    def audit_notes(self, workload: Workload) -> list[str]:
        """See `Wing`."""
        return audit_notes(workload)

    def audit_content(self, context: Context) -> list[Any]:
        """See `Wing`."""
        return [_suite(context.recipe).content()]

    def measurements(self, context: Context) -> int:
        """See `Wing`."""
        return len(context.workload.metrics) + bool(_suite(context.recipe).tasks)

    def compares(self, metrics: Sequence[Any]) -> bool:
        """See `Wing`."""
        return super().compares(metrics) or any(isinstance(m, Placing) for m in metrics)

    def divides(self, attack: Any) -> bool:
        """See `Wing`."""
        return type(attack) is Relearn

    def references(self, context: Context) -> ReferenceEvidence | None:
        """See `Wing`."""
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

    # -- plan ---------------------------------------------------------------------------------------

    def estimate(self, recipe: Recipe, workload: Workload) -> TextEstimate:
        """See `Wing`."""
        return TextEstimate.of(recipe, workload)

    def __str__(self) -> str:
        return "language models"


def world_of(recipe: Recipe) -> EmbeddedWorld:
    """The world of the embedded model: the benchmark's, or the test bed's where it has none."""
    return getattr(recipe.benchmark.build(), "world", None) or World()


def _suite(recipe: Recipe) -> Suite:
    return Suite(**recipe.audit.harness.model_dump(exclude={"tolerance"}))


WING = Language()
