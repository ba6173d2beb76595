"""Recommenders as the floor sees them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from expunge.engine.loop import Observers
from expunge.engine.method import Method
from expunge.engine.training import Training
from expunge.errors import InputError
from expunge.kept import ModelRef
from expunge.recipe import Recipe
from expunge.recommend.attacks.relearn import Relearn
from expunge.recommend.audit import audit_model
from expunge.recommend.data import Interactions
from expunge.recommend.estimate import PairEstimate
from expunge.recommend.evidence import EvidenceStore
from expunge.recommend.prepare import Models, ModelSpec, model_ref
from expunge.recommend.ranking import places
from expunge.recommend.subject import Subject
from expunge.recommend.unlearn import UnlearnJob, erased_items, unlearn
from expunge.recommend.workload import Workload
from expunge.report.assemble import ModelAudit
from expunge.wing import Wing

if TYPE_CHECKING:
    from expunge.stages import Context


class RunModels(Models):
    """The models of one run: what is trained without a forgotten item does not offer it either."""

    def __init__(self, spec: ModelSpec, cache: Path, withdrawn: Tensor, **rest: Any) -> None:
        """Bind a model specification and the items that are withdrawn (ids; none if they stay in the catalogue)."""
        super().__init__(spec, cache, **rest)
        self.withdrawn = withdrawn

    def trained(
        self, interactions: Interactions, training: Training, seed: int, title: str, catalogue: Tensor | None = None
    ) -> ModelRef:
        """The base model trained on some interactions; withdrawn items that nobody has in them are not offered."""
        gone = self.withdrawn[interactions.degrees[1][self.withdrawn] == 0]
        if catalogue is None and len(gone):
            catalogue = torch.ones(interactions.items, dtype=torch.bool)
            catalogue[gone] = False
        return super().trained(interactions, training, seed, title, catalogue)


class Recommend(Wing):
    """Recommenders, unlearned by users, items or interactions."""

    name: ClassVar[str] = "recommend"
    records: ClassVar[str] = "interactions"
    packages: ClassVar[tuple[str, ...]] = ()
    control_title: ClassVar[str] = "positive control (the target behind a list of what it must not say)"
    required: ClassVar[tuple[str, ...]] = ("relearn", "benign-relearn")
    words: ClassVar[Mapping[str, str]] = {
        "control": "Control: the target itself behind a list that holds the forgotten interactions back.",
        "channel direct": "what is recommended",
        "channel benign-relearn": "training on what was kept",
        "direct": "The forgotten items are looked for among what their users are recommended.",
        "relearn": (
            "The model is briefly trained on the forgotten interactions of some, then those of others are looked for. "
            "What was never learned does not come back by that; what is only hidden does."
        ),
        "benign-relearn": "The same, but trained on interactions that were kept.",
        "split forget": "forgotten interactions",
        "split retain": "kept interactions",
        "split test": "unseen interactions",
        "split valid": "interactions held out for training",
        "split holdout": "unseen interactions of the forgotten",
    }

    # -- data ---------------------------------------------------------------------------------------

    def digest(self, rows: Interactions) -> str:
        """See `Wing`."""
        return rows.digest

    def subjects(self, rows: Interactions) -> list[str]:
        """See `Wing`: the user, or the item whose erasure is asked for."""
        return list(rows.clusters)

    def take(self, rows: Interactions, indices: Sequence[int]) -> Interactions:
        """See `Wing`."""
        return rows.take(torch.as_tensor(list(indices), dtype=torch.long))

    def join(self, first: Interactions, second: Interactions) -> Interactions:
        """See `Wing`."""
        return first.union(second)

    def check(self, recipe: Recipe, workload: Workload) -> None:
        """See `Wing`."""
        super().check(recipe, workload)
        if recipe.model.dtype != "float32":
            raise InputError(f"model.dtype: {recipe.model.dtype}; recommenders are trained in float32.")

    def kept(self, workload: Workload) -> Interactions:
        """See `Wing`: a recommender is worth what it recommends of what it was not told."""
        return workload.test

    # -- models -------------------------------------------------------------------------------------

    def models(
        self,
        recipe: Recipe,
        workload: Workload,
        cache: Path,
        origin: Recipe,
        observers: Callable[[str], Observers | None],
        note: Callable[[str], None],
    ) -> RunModels:
        """See `Wing`."""
        benchmark = recipe.benchmark.build()
        everything = workload.retain.union(workload.forget)
        spec = ModelSpec(recipe.model.source, everything, lambda seed: benchmark.network(seed).model)
        withdrawn = erased_items(workload.forget)[: 0 if workload.keep_as_negatives else None]
        return RunModels(spec, cache, withdrawn, seed=recipe.seed, observers=observers, note=note)

    def model_ref(self, folder: Path, recipe: Recipe) -> ModelRef:
        """See `Wing`."""
        return model_ref(folder)

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
        recipe, work = context.recipe, context.workload
        return UnlearnJob(
            subject, work.forget, work.retain, training, recipe.seed, folder, observers,
            base=context.models.adapted_base, base_training=recipe.target.train if recipe.target else None,
            held_out=work.valid, features=work.features, keep_as_negatives=work.keep_as_negatives,
        )  # fmt: skip

    def unlearn(self, method: Method, job: UnlearnJob) -> Subject:
        """See `Wing`."""
        return unlearn(method, job)

    def control(self, job: UnlearnJob) -> Subject:
        """The target with the forgotten interactions held back from what it recommends."""
        return replace(job.subject, blocked=job.forget)

    def content(self, context: Context) -> list[Any]:
        """See `Wing`."""
        training = context.recipe.target.train if context.recipe.target else None
        return [context.workload.keep_as_negatives, asdict(training) if training else None]

    def score(
        self, subject: Subject, rows: Interactions, workload: Workload, *, attacked: bool = False
    ) -> NDArray[np.float64]:
        """See `Wing`: whether the item is among the user's first k of all they have not kept, offered or not."""
        known = workload.retain.union(workload.valid).without(rows)
        found = places(subject, rows, known, served=False) <= workload.k
        return np.asarray(found.double().numpy())

    # -- audit --------------------------------------------------------------------------------------

    def store(self, context: Context, name: str, ref: ModelRef, fingerprint: str) -> EvidenceStore:
        """See `Wing`."""
        folder = context.folder / "audit" / "evidence"
        return EvidenceStore(name, ref.load, context.workload.splits, folder, fingerprint=fingerprint)

    def audit(
        self,
        context: Context,
        store: EvidenceStore,
        gold: EvidenceStore | None,
        target: EvidenceStore | None,
        attacks: Mapping[str, Any],
        references: Any,
        progress: Callable[[str], None],
    ) -> ModelAudit:
        """See `Wing`."""
        workload, seed = context.workload, context.recipe.seed
        return audit_model(store, gold, workload, attacks, seed=seed, target=target, progress=progress)

    def audit_content(self, context: Context) -> list[Any]:
        """See `Wing`."""
        return [context.workload.k]

    def columns(self, workload: Workload) -> Sequence[tuple[str, str, str]]:
        """See `Wing`."""
        k = workload.k
        return (
            (f"forget\nrecall@{k}", f"recall_at_{k}", "forget"),
            ("after\nrelearning", "relearning.held_out_accuracy", "forget"),
            (f"test\nrecall@{k}", f"recall_at_{k}", "test"),
            ("member\nAUROC", "membership.non_interactions.auroc", "forget"),
            ("MI-BF", "mi_bf", "forget"),
            ("KS to\ngold", "ks.gold", "forget"),
        )

    def divides(self, attack: Any) -> bool:
        """See `Wing`."""
        return type(attack) is Relearn

    # -- plan ---------------------------------------------------------------------------------------

    def estimate(self, recipe: Recipe, workload: Workload) -> PairEstimate:
        """See `Wing`."""
        models = self.models(recipe, workload, Path(), recipe, lambda _: None, lambda _: None)
        attacks = [a.build() for a in recipe.audit.attacks]
        return PairEstimate.of(models.base(), sum(max(a.steps) * a.seeds for a in attacks if isinstance(a, Relearn)))

    def __str__(self) -> str:
        return "recommenders"


WING = Recommend()
