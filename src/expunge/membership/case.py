"""A case: one model under attack, the records it is asked about, and everything an attacker may use.

`audit_case` makes one of a model at hand; `tddbench_case` follows TDDBench's protocol, which trains the models under
attack itself. All records lie in one table, and everything else speaks of its rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expunge.errors import InputError
from expunge.membership.augmentations import Neighbours
from expunge.membership.classifier import Classifier, Floats, Ints, Records
from expunge.membership.learners import Learner, TrainOn
from expunge.membership.shadows import (
    Bools,
    Distribution,
    Halves,
    Shadows,
    halves,
    reference_masks,
    target_masks,
    train_references,
)


class ReferenceModels(Protocol):
    """Models whose training data is known: `Shadows`, or `HeldModels`."""

    @property
    def inside(self) -> Bools:
        """[M, n] whether record i was among the training data of model m; models 2k and 2k + 1 are a pair."""
        ...

    @property
    def seconds(self) -> Floats:
        """[M] what training took; NaN where it is not known."""
        ...

    def __len__(self) -> int:
        """M."""
        ...

    def logits(self, m: int) -> Floats:
        """[n, C] answers of model m on all records."""
        ...

    def classifier(self, m: int) -> Classifier:
        """Model m itself."""
        ...

    def without(self, models: set[int]) -> ReferenceModels:
        """The other models, in order."""
        ...


@dataclass(frozen=True, eq=False)
class HeldModels:
    """Reference models that are at hand, in memory.

    Attributes:
        models: The models, pairs side by side.
        inside: [M, n] what each was trained on.
        records: All n records.
    """

    models: Sequence[Classifier]
    inside: Bools
    records: Records
    _answers: dict[int, Floats] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.inside.shape != (len(self.models), len(self.records)):
            raise InputError(
                f"{len(self.models)} reference models on {len(self.records)} records need masks of that shape; "
                f"found {self.inside.shape}."
            )

    def __len__(self) -> int:
        return len(self.models)

    @property
    def seconds(self) -> Floats:
        """Not known."""
        return np.full(len(self.models), np.nan)

    def logits(self, m: int) -> Floats:
        """See `ReferenceModels`."""
        if m not in self._answers:
            self._answers[m] = self.models[m].logits(self.records.inputs)
        return self._answers[m]

    def classifier(self, m: int) -> Classifier:
        """See `ReferenceModels`."""
        return self.models[m]

    def without(self, models: set[int]) -> HeldModels:
        """See `ReferenceModels`."""
        kept = [m for m in range(len(self.models)) if m not in models]
        answers = {i: self._answers[m] for i, m in enumerate(kept) if m in self._answers}
        return HeldModels([self.models[m] for m in kept], self.inside[kept], self.records, answers)


@dataclass(frozen=True, eq=False)
class Case:
    """One model under attack.

    Attributes:
        target: The model.
        data: All records: audited ones, those reference models were trained on, the population.
        audited: [n] rows of the records it is asked about.
        member: [n] whether it was trained on each.
        references: Reference models.
        population: [z] rows of records the target was not trained on; none of them audited.
        population_references: Models for the population's own ratios (RMIA); None for `references`.
        learner: How a model like the target is trained; None if that is not known.
        clusters: [n] what each audited record is about, the unit of resampling; None where records are independent.
        neighbours: Texts and a number to at most so many similar ones each; texts are asked about with these.
        seed: Fixes every draw of the detectors.
    """

    target: Classifier
    data: Records
    audited: Ints
    member: Bools
    references: ReferenceModels
    population: Ints
    population_references: ReferenceModels | None = None
    learner: Learner | None = None
    clusters: NDArray[Any] | None = None
    neighbours: Neighbours | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        n = len(self.data)
        audited, population = (_rows(rows, n, what) for rows, what in ((self.audited, "audited"),
                                                                       (self.population, "population")))  # fmt: skip
        member = np.asarray(self.member)
        if len(audited) == 0 or member.shape != audited.shape or member.dtype != np.bool_:
            raise InputError(f"{len(audited)} audited records need one true or false membership each.")
        if member.all() or not member.any():
            kind = "a member" if member.all() else "a non-member"
            raise InputError(f"Each of the {len(member)} audited records is {kind}; some of either are needed.")
        shared = np.intersect1d(audited, population)
        if len(shared):
            raise InputError(f"{len(shared)} population records are audited too, the first is row {shared[0]}.")
        if self.clusters is not None and np.shape(self.clusters) != member.shape:
            raise InputError(f"{len(audited)} audited records but clusters of shape {np.shape(self.clusters)}.")
        for models in (self.references, self.population_references):
            if models is not None and models.inside.shape != (len(models), n):
                raise InputError(f"Reference models with masks of shape {models.inside.shape} do not fit {n} records.")
        object.__setattr__(self, "audited", audited)
        object.__setattr__(self, "population", population)

    @property
    def records(self) -> Records:
        """The audited records."""
        return self.data.take(self.audited)

    @property
    def online(self) -> bool:
        """Whether each audited record has reference models that were trained on it, and others."""
        inside = self.references.inside[:, self.audited]
        return bool(inside.any(0).all() and not inside.all(0).any())

    @property
    def pool(self) -> Ints:
        """Rows that reference model 0 was trained on, or its partner: what the learning detectors learn from."""
        return np.flatnonzero(self.references.inside[:2].any(0))

    def stand_in(self) -> Case | None:
        """The last reference model in the place of the target: a case whose answer is known to the attacker.

        It and its partner are left out of the references. Thresholds are calibrated on it.

        Returns:
            None where fewer than four reference models are left, or they were not trained on records to audit.
        """
        last = len(self.references) - 1
        audited = self.audited if self.references.inside[:, self.audited].any() else self.pool
        audited = np.setdiff1d(audited, self.population)
        inside = self.references.inside[last, audited]
        if last < 3 or len(audited) == 0 or inside.all() or not inside.any():
            return None
        return replace(
            self, target=self.references.classifier(last), audited=audited, member=inside, clusters=None,
            references=self.references.without({last - 1, last}),
        )  # fmt: skip


def _rows(rows: ArrayLike, n: int, what: str) -> Ints:
    found = np.asarray(rows)
    if found.size == 0:
        return np.zeros(0, dtype=np.int64)
    if found.ndim != 1 or not np.issubdtype(found.dtype, np.integer):
        raise InputError(f"The {what} records must be given as row numbers; found {found.dtype} {found.shape}.")
    if found.min() < 0 or found.max() >= n or len(np.unique(found)) != len(found):
        raise InputError(f"The {what} rows must be different and lie in 0 .. {n - 1}.")
    return found.astype(np.int64)


# -- making one ---------------------------------------------------------------------------------------


def audit_case(
    target: Classifier,
    data: Records,
    audited: ArrayLike,
    member: ArrayLike,
    learner: Learner,
    folder: Path,
    *,
    models: int = 16,
    seed: int = 0,
    workers: int = 1,
    clusters: NDArray[Any] | None = None,
    neighbours: Neighbours | None = None,
    tell: Callable[[int, int], None] | None = None,
) -> Case:
    """A case of a model at hand: reference models are trained on halves of the audited records, and filed.

    Args:
        target: The model.
        data: Audited records and, if there are any, others that the target was not trained on: the population.
        audited: [n] rows of the audited ones.
        member: [n] whether the target was trained on each.
        learner: How a model like the target is trained.
        folder: Where the reference models go; the same call finds them again.
        models: How many, even.
        seed: Fixes masks and trainings.
        workers: Processes that train.
        clusters: See `Case`.
        neighbours: See `Case`.
        tell: See `train_references`.

    Raises:
        InputError: As `Case` and `reference_masks`.
    """
    rows = _rows(audited, len(data), "audited")
    rest = np.setdiff1d(np.arange(len(data)), rows)
    masks = reference_masks(Halves(rows, rest), len(data), models, "target_ref", seed)
    references = train_references(
        TrainOn(learner, data), masks, data, folder, name=learner.name, seed=seed, workers=workers,
        revive=learner.revive, tell=tell,
    )  # fmt: skip
    return Case(
        target, data, rows, np.asarray(member), references, rest, None, learner, clusters, neighbours, seed
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Division:
    """TDDBench's protocol, trained: a target part and a shadow part, target models, reference models of both.

    Attributes:
        data: All records.
        parts: Target part (audited) and shadow part (population).
        targets: The models under attack.
        references: Reference models of the chosen distribution.
        population_references: Reference models of the shadow part.
        learner: What trained them.
        seed: Fixes all of it.
    """

    data: Records
    parts: Halves
    targets: Shadows
    references: Shadows
    population_references: Shadows
    learner: Learner
    seed: int

    def case(self, target: int, neighbours: Neighbours | None = None) -> Case:
        """Target model number `target` under attack; all of the target part is audited."""
        return Case(
            self.targets.classifier(target), self.data, self.parts.target,
            self.targets.inside[target, self.parts.target], self.references, self.parts.shadow,
            self.population_references, self.learner, None, neighbours, self.seed,
        )  # fmt: skip


def tddbench_case(
    data: Records,
    learner: Learner,
    folder: Path,
    *,
    targets: int = 5,
    models: int = 16,
    distribution: Distribution = "target_ref",
    target_ratio: float = 0.5,
    seed: int = 2024,
    workers: int = 1,
    tell: Callable[[int, int], None] | None = None,
) -> Division:
    """Divide records as TDDBench does and train all models: targets, references, references of the shadow part.

    Args:
        data: All records.
        learner: How a model is trained.
        folder: Where the models go; the same call finds them again.
        targets: Models under attack, each trained on an independent random half of the target part.
        models: Reference models, even.
        distribution: What they are trained on, see `reference_masks`.
        target_ratio: Share of the records in the target part.
        seed: Fixes all of it.
        workers: Processes that train.
        tell: See `train_references`.
    """
    parts, n = halves(len(data), seed, target_ratio), len(data)
    masks = [target_masks(parts, n, targets, seed), reference_masks(parts, n, models, distribution, seed)]
    if distribution != "shadow":
        masks.append(reference_masks(parts, n, models, "shadow", seed))
    every = train_references(
        TrainOn(learner, data), np.concatenate(masks), data, folder, name=learner.name, seed=seed, workers=workers,
        revive=learner.revive, tell=tell,
    )  # fmt: skip
    first, second = set(range(targets)), set(range(targets, targets + models))
    third = set(range(len(every))) - first - second
    references = every.without(first | third)
    return Division(
        data, parts, every.without(second | third), references,
        every.without(first | second) if third else references, learner, seed,
    )  # fmt: skip
