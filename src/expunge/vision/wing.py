"""Image classifiers as the floor sees them."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from numpy.typing import NDArray

from expunge.engine.loop import Observers
from expunge.engine.method import Method
from expunge.engine.training import Training
from expunge.errors import InputError
from expunge.kept import ModelRef
from expunge.recipe import Recipe
from expunge.report.assemble import ModelAudit
from expunge.vision.attacks._common import right
from expunge.vision.attacks.inside import Inside
from expunge.vision.attacks.relearn import Relearn
from expunge.vision.audit import audit_model
from expunge.vision.data import Images, concatenate
from expunge.vision.estimate import ImageEstimate
from expunge.vision.evidence import EvidenceStore
from expunge.vision.filtered import Filtered
from expunge.vision.metrics.nomus import NoMUS, too_few
from expunge.vision.pictures import sheet
from expunge.vision.prepare import Models, ModelSpec, model_ref
from expunge.vision.subject import Subject
from expunge.vision.unlearn import UnlearnJob, unlearn
from expunge.vision.workload import Workload
from expunge.wing import Picture, Wing

if TYPE_CHECKING:
    from expunge.stages import Context


class Vision(Wing):
    """Image classifiers, unlearned by identities or by whole classes."""

    name: ClassVar[str] = "vision"
    records: ClassVar[str] = "images"
    packages: ClassVar[tuple[str, ...]] = ()
    control_title: ClassVar[str] = "positive control (the target behind a filter)"
    required: ClassVar[tuple[str, ...]] = ("relearn", "benign-relearn", "inside")
    words: ClassVar[Mapping[str, str]] = {
        "control": "Control: the target itself behind a filter that answers wrongly on the forgotten images.",
        "channel direct": "the images themselves",
        "channel paraphrase": "other images of them",
        "channel inside": "a fresh last layer",
        "direct": "The forgotten images themselves are shown.",
        "paraphrase": "Other images of the forgotten people are shown.",
        "split forget_paraphrase": "other images of the forgotten people",
        "relearn": (
            "The model is briefly trained on images of some forgotten subjects, then shown those of others. What was "
            "never learned does not come back by that; what is only hidden does."
        ),
        "benign-relearn": "The same, but trained on images that were kept.",
        "split test": "unseen images",
        "inside": "A fresh last layer reads the labels from the model's features.",
    }

    # -- data ---------------------------------------------------------------------------------------

    def digest(self, rows: Images) -> str:
        """See `Wing`."""
        return rows.digest

    def subjects(self, rows: Images) -> list[str]:
        """See `Wing`; an image of nobody is known by its place."""
        return [cluster or f"\0{i}" for i, cluster in enumerate(rows.clusters)]

    def take(self, rows: Images, indices: Sequence[int]) -> Images:
        """See `Wing`."""
        return rows.take(list(indices))

    def join(self, first: Images, second: Images) -> Images:
        """See `Wing`."""
        return concatenate([first, second])

    def check(self, recipe: Recipe, workload: Workload) -> None:
        """See `Wing`."""
        super().check(recipe, workload)
        if recipe.model.dtype != "float32":
            raise InputError(f"model.dtype: {recipe.model.dtype}; image classifiers are trained in float32.")
        # asked for at the very end of a run, missed at its beginning
        wanted = {"PIL": workload.shown, "sklearn": any(isinstance(m, NoMUS) for m in workload.metrics)}
        missing = [name for name, asked in wanted.items() if asked and importlib.util.find_spec(name) is None]
        if missing:
            raise InputError(
                f"{recipe.benchmark.name} needs the extra 'vision' ({', '.join(missing)} missing): pip install "
                f"'expunge[vision]'."
            )

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
        network = recipe.benchmark.build().network
        spec = ModelSpec(recipe.model.source, workload.classes, network, workload.augment)
        return Models(spec, cache, seed=recipe.seed, observers=observers, note=note)

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
        recipe, workload = context.recipe, context.workload
        return UnlearnJob(
            subject, workload.forget, workload.retain, training, recipe.seed, folder, observers,
            base=context.models.adapted_base, base_training=recipe.target.train if recipe.target else None,
            augment=workload.augment, held_out=workload.splits.get("holdout"),
        )  # fmt: skip

    def unlearn(self, method: Method, job: UnlearnJob) -> Subject:
        """See `Wing`."""
        return unlearn(method, job)

    def control(self, job: UnlearnJob) -> Subject:
        """The target behind a filter that turns its answers on the forgotten images."""
        subject = job.subject
        _, features = subject.outputs(job.forget)
        independent = job.forget.labels.ndim == 2
        origin = {
            "network": "filtered", "inner": subject.origin, "known": list(features.shape), "independent": independent,
        }  # fmt: skip
        return Subject(
            Filtered(subject.model, features, independent=independent).eval(), subject.classes, subject.source, origin
        )

    def content(self, context: Context) -> list[Any]:
        """See `Wing`."""
        training = context.recipe.target.train if context.recipe.target else None
        return [repr(context.workload.augment), asdict(training) if training else None]

    def score(self, subject: Subject, rows: Images, workload: Workload, *, attacked: bool = False) -> NDArray[Any]:
        """See `Wing`: whether an image gets its label (the share of its labels, where there are several)."""
        return right(subject, rows)

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

    def audit_notes(self, workload: Workload) -> list[str]:
        """See `Wing`: what a request as small as this leaves unmeasured."""
        notes = []
        for metric in workload.metrics:
            if isinstance(metric, NoMUS):
                n, m = (len(workload.splits[split]) for split in (metric.members, metric.non_members))
                if too_few(n, m):
                    notes.append(f"NoMUS: left out. {n} forgotten and {m} unseen images are too few for its attack.")
        return notes

    def divides(self, attack: Any) -> bool:
        """See `Wing`."""
        return type(attack) in (Relearn, Inside)

    def pictures(self, workload: Workload) -> list[Picture]:
        """See `Wing`: those of drawn or public images only."""
        if not workload.shown:
            return []
        titles = {"forget": "To be forgotten", "retain": "To be kept", "holdout": "Never seen in training"}
        return [Picture(t, sheet(workload.splits[split])) for split, t in titles.items() if split in workload.splits]

    # -- plan ---------------------------------------------------------------------------------------

    def estimate(self, recipe: Recipe, workload: Workload) -> ImageEstimate:
        """See `Wing`."""
        models = self.models(recipe, workload, Path(), recipe, lambda _: None, lambda _: None)
        attacks = [a.build() for a in recipe.audit.attacks]
        attacked = sum(max(a.steps) * a.batch_size * a.seeds for a in attacks if isinstance(a, Relearn))
        return ImageEstimate.of(models.base(), workload, attacked)

    def __str__(self) -> str:
        return "image classifiers"


WING = Vision()
