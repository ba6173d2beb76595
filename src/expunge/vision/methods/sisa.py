"""SISA: train in shards and slices, so that forgetting exactly means retraining little."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from expunge.engine.method import Edit, Intention
from expunge.engine.training import Training
from expunge.errors import InputError
from expunge.vision.data import Images, concatenate
from expunge.vision.ensemble import Ensemble
from expunge.vision.methods.fine_tune import FineTune
from expunge.vision.sharded import Shards, States
from expunge.vision.subject import Subject
from expunge.vision.unlearn import UnlearnJob, require


@dataclass(frozen=True)
class SISA(Edit):
    """Sharded, isolated, sliced, aggregated: each constituent sees one shard, slice after slice, and votes.

    Constituent s is trained e_r = 2e / (R + 1) passes on slices 1..r, for r = 1..R, from the state after r - 1; states
    before every slice are kept. To delete an image, the state before its slice is loaded and the rest is trained
    again. Exact by construction: no normalisation statistics, schedule, optimiser state or random draw crosses
    constituents or slices, and the place of an image depends on that image alone, so what is returned equals bit for
    bit what training without the forgotten images returns.

    The recipe of the target (`target.train`) trains the constituents, with e its passes. The target model itself is
    not used: what is returned is another kind of model, an ensemble, and its accuracy is that of small shards.

    Attributes:
        shards: S. Source: paper.
        slices: R. Source: paper.
        aggregate: ``vote`` (majority; equal votes go to the lowest class) or ``mean`` (of the probabilities).
            Source: paper.
        by: What shares a shard and a slice: each ``image`` on its own, or all of an ``identity``, so that forgetting
            one person touches one shard. Source: paper; ours (the paper's distribution-aware sharding in kind).
        epochs: e; None takes the target's recipe, which must be in epochs then. Source: paper.
        stored: Folder of the states. States of everything are first trained there if they are not there yet, then the
            deletion is carried out on them, and states that saw the forgotten images are removed. Without it the
            constituents are trained without the forgotten images from the start. Source: paper.
    """

    paper: ClassVar[str] = "Bourtoule et al., Machine Unlearning, IEEE S&P 2021 (arXiv 1912.03817)"
    intention: ClassVar[Intention] = "removal"

    shards: int = 5
    slices: int = 4
    aggregate: Literal["vote", "mean"] = "vote"
    by: Literal["image", "identity"] = "image"
    epochs: float | None = None
    stored: str | None = None

    def __post_init__(self) -> None:
        for name in ("shards", "slices"):
            if getattr(self, name) < 1:
                raise InputError(f"sisa: {name}={getattr(self, name)} must be at least 1.")
        if self.epochs is not None and not self.epochs > 0:
            raise InputError(f"sisa: epochs={self.epochs} must be above 0.")
        for name, allowed in {"aggregate": ("vote", "mean"), "by": ("image", "identity")}.items():
            if getattr(self, name) not in allowed:
                raise InputError(f"sisa: {name}={getattr(self, name)!r}; {' or '.join(allowed)}.")

    def apply(self, job: UnlearnJob) -> Subject:
        """Return the ensemble.

        Raises:
            InputError: No retained images; nothing says how the target was trained, or it says so in steps.
        """
        require(job.retain, "retain", self)
        shards = self.trainer(job)
        if self.stored:
            shards.fit(_both(job.forget, job.retain))
        return self.ensemble(shards.fit(job.retain))

    def trainer(self, job: UnlearnJob) -> Shards:
        """What trains the constituents of this job.

        Raises:
            InputError: Nothing says how the target was trained, or it says so in steps.
        """
        if job.base is None or job.base_training is None:
            raise InputError("sisa: nothing says how the target was trained (target.train in the recipe).")
        recipe = job.base_training
        if recipe.steps is not None and self.epochs is None:
            raise InputError(
                f"sisa: the target was trained for {recipe.steps} steps; slices need passes, so set epochs of sisa."
            )
        recipe = replace(recipe, steps=None, epochs=self.epochs or recipe.epochs)

        def train(subject: Subject, images: Images, training: Training, seed: int) -> None:
            part = replace(job, subject=subject, seed=seed, folder=None, forget=images.take([]), retain=images, logs=[])
            part.train(FineTune(), subject, training, quiet=True)
            job.logs.extend(part.logs)

        states = States(Path(self.stored).expanduser()) if self.stored else None
        return Shards(self.shards, self.slices, recipe, job.seed, job.base, train, states, self.by)

    def ensemble(self, constituents: list[Subject]) -> Subject:
        """The constituents as one classifier."""
        first = constituents[0]
        origin: dict[str, Any] = {}
        if first.origin:
            origin = {
                "network": "ensemble", "members": len(constituents), "aggregate": self.aggregate,
                "member": first.origin,
            }  # fmt: skip
        model = Ensemble([c.model for c in constituents], self.aggregate).eval()
        return replace(first, model=model, origin=origin)


def _both(forget: Images, retain: Images) -> Images:
    """Forgotten and retained images as one set."""
    if len(forget) == 0:
        return retain
    if forget.source is not retain.source:
        raise InputError("sisa: stored states need forgotten and retained images of one source.")
    return concatenate([forget, retain])
