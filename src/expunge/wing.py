"""What the floor asks of a modality's package.

Recipes, stages, sequences, plans and benches are the same for every wing. What differs between a language model and
an image classifier stands behind `Wing`: the module ``expunge/NAME/wing.py`` holds a class of it, and the recipe's
benchmark says which one a run needs.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from expunge.engine.loop import Observers
from expunge.engine.method import Method
from expunge.engine.training import Training
from expunge.errors import InputError
from expunge.kept import ModelRef
from expunge.report.assemble import ModelAudit
from expunge.report.scorecard import Finding, Published
from expunge.report.terminal import COLUMNS

if TYPE_CHECKING:
    from expunge.recipe import Recipe
    from expunge.sequence_data import Asked
    from expunge.stages import Context

Rows = Any  # a wing's set of training examples: records, images, interactions; it has a length


class Workload(Protocol):
    """What every wing's workload has (each adds its own)."""

    @property
    def forget(self) -> Rows:
        """Training examples that must go."""
        ...

    @property
    def retain(self) -> Rows:
        """Training examples that must stay."""
        ...

    @property
    def splits(self) -> Mapping[str, Rows]:
        """What is measured, ``forget`` and mostly ``retain`` among it."""
        ...

    @property
    def metrics(self) -> Sequence[Any]:
        """The measurements."""
        ...

    @property
    def notes(self) -> list[str]:
        """What the reader of the report should know about the data."""
        ...

    @property
    def published(self) -> Sequence[Published]:
        """The benchmark's published numbers."""
        ...


@runtime_checkable
class Comparing(Protocol):
    """A metric that also measures a model beside the target; a wing's stores say what models answer."""

    def compare(self, model: Any, target: Any) -> list[Finding]:
        """Findings about one model, such as its change from the target."""
        ...


class Models(Protocol):
    """Prepares the models of a run and keeps them in a cache folder."""

    cache: Path

    def base(self, seed: int | None = None) -> Any:
        """The subject before it was trained on the benchmark's data."""
        ...

    def adapted_base(self) -> Any:
        """What the target was trained from, ready to be trained again."""
        ...

    def adapted(self, subject: Any, seed: int) -> Any:
        """The subject as a method trains it (with adapters, if the recipe asks for them)."""
        ...

    def delivered(self) -> ModelRef:
        """The model of the source as it is."""
        ...

    def trained(self, rows: Rows, training: Training, seed: int, title: str) -> ModelRef:
        """The base model trained on some rows."""
        ...

    def keep(self, key: str, make: Callable[[], Any], title: str) -> ModelRef:
        """The model filed under a key, made now if it is not there."""
        ...

    def feeding(self, subject: Any) -> dict[str, Any]:
        """How a kept model is fed: plain data filed beside its weights."""
        ...


@dataclass(frozen=True)
class Cost:
    """Expected cost of one piece of training.

    Attributes:
        seconds: Time.
        memory: Bytes.
    """

    seconds: float
    memory: float


class Estimate(Protocol):
    """What the plan of a run is computed from."""

    @property
    def parameters(self) -> int:
        """Of the model."""
        ...

    def describe(self, rows: Rows) -> str:
        """How many rows, and how much is in them."""
        ...

    def training(self, training: Training, rows: Rows, sides: int) -> Cost:
        """The cost of a training whose passes go over some rows, with one or two sides in a step."""
        ...

    def audit(self) -> float:
        """Seconds of one model's audit."""
        ...


@dataclass(frozen=True)
class Picture:
    """An image for the report.

    Attributes:
        title: What is shown.
        source: A data URI.
    """

    title: str
    source: str


class Wing(ABC):
    """One modality, as the floor sees it.

    Class attributes:
        name: The package's name.
        records: What its examples are called.
        packages: Libraries whose versions belong into a report.
        control_title: What the positive control is.
        library: Whose format its unlearned models have, for model cards.
        continues: Whether it carries out several requests in turn.
        required: Tests that must be among those that clear a model (`expunge.report.verdict.Tolerance`).
        words: What reports say of its tests and its control, where that is not what they say by themselves.
    """

    name: ClassVar[str]
    records: ClassVar[str]
    packages: ClassVar[tuple[str, ...]]
    control_title: ClassVar[str]
    library: ClassVar[str] = "expunge"
    continues: ClassVar[bool] = False
    required: ClassVar[tuple[str, ...]]
    words: ClassVar[Mapping[str, str]] = {}

    # -- data ---------------------------------------------------------------------------------------

    @abstractmethod
    def digest(self, rows: Rows) -> str:
        """Content hash of some rows."""

    @abstractmethod
    def subjects(self, rows: Rows) -> list[str]:
        """Whose erasure each row belongs to: the unit of inference. A row of nobody's is its own."""

    @abstractmethod
    def take(self, rows: Rows, indices: Sequence[int]) -> Rows:
        """Some of the rows."""

    @abstractmethod
    def join(self, first: Rows, second: Rows) -> Rows:
        """Both sets, in this order."""

    def clusters(self, rows: Rows) -> list[int]:
        """The subjects numbered by first appearance."""
        numbers: dict[str, int] = {}
        return [numbers.setdefault(name, len(numbers)) for name in self.subjects(rows)]

    def kept(self, workload: Any) -> Rows:
        """What shows how much utility is left."""
        return workload.splits["retain"] if len(workload.splits.get("retain", ())) else workload.retain

    def check(self, recipe: Recipe, workload: Any) -> None:
        """Refuse settings the wing has no use for, before anything is written.

        Raises:
            InputError: Names the first one.
        """
        if recipe.audit.harness.tasks:
            raise InputError(f"audit.harness.tasks: tasks of lm-evaluation-harness ask language models, not {self}.")
        if recipe.audit.references:
            raise InputError(f"audit.references: reference models are made of language models, not of {self}.")
        if recipe.model.lora is not None:
            raise InputError(f"model.lora: adapters are for language models, not for {self}.")

    def request(
        self, recipe: Recipe, base: Any, earlier: tuple[Asked, ...], previous: Asked | None, everything: Rows
    ) -> tuple[Any, Rows]:
        """A further request: the workload with what it asks for, and its new rows (see `expunge.sequence_data`).

        Raises:
            InputError: Wrong rows; or the wing carries out single requests only.
        """
        raise InputError(f"request: several requests in turn are for language models so far, not for {self}.")

    def request_rows(self, source: str) -> Rows:
        """The rows of a request file, read once to see that they are there.

        Raises:
            InputError: No such file, unreadable, or the wing carries out single requests only.
        """
        raise InputError(f"sequence: several requests in turn are for language models so far, not for {self}.")

    # -- models -------------------------------------------------------------------------------------

    @abstractmethod
    def models(
        self,
        recipe: Recipe,
        workload: Any,
        cache: Path,
        origin: Recipe,
        observers: Callable[[str], Observers | None],
        note: Callable[[str], None],
    ) -> Models:
        """What makes the models of a run.

        Args:
            recipe: The run's recipe.
            workload: Its data.
            cache: Folder for prepared models.
            origin: Recipe of the first run of the chain, whose target is everybody's.
            observers: Given a title, what looks on while that model trains.
            note: Told what the reader of the report should know.
        """

    def given(self, context: Context, source: str) -> ModelRef:
        """A model named beside the recipe's own: a gold model, another target."""
        given: ModelRef = context.models.other(source)
        return given

    @abstractmethod
    def model_ref(self, folder: Path, recipe: Recipe) -> ModelRef:
        """A model kept by expunge.

        Raises:
            InputError: There is none.
        """

    # -- unlearning ---------------------------------------------------------------------------------

    @abstractmethod
    def job(
        self,
        context: Context,
        subject: Any,
        training: Training,
        *,
        folder: Path,
        observers: Observers,
        reference: ModelRef | None = None,
    ) -> Any:
        """The wing's `UnlearnJob`."""

    @abstractmethod
    def unlearn(self, method: Method, job: Any) -> Any:
        """Carry out a method; the subject as it is saved."""

    @abstractmethod
    def control(self, job: Any) -> Any:
        """The positive control: a target that no longer shows what it still holds. The audit must find it out."""

    def content(self, context: Context) -> list[Any]:
        """What an unlearned model depends on beside data, method, training, seed and starting model."""
        return []

    @abstractmethod
    def score(self, subject: Any, rows: Rows, workload: Any, *, attacked: bool = False) -> NDArray[np.float64]:
        """[n] in [0, 1]: how right the model is about each row.

        Args:
            subject: The model.
            rows: What it is asked about.
            workload: Says how.
            attacked: By the score of the attacks, where that is another one.
        """

    def stops(self, workload: Any) -> bool:
        """Whether the benchmark ends trainings by a rule of its own."""
        return False

    def stopping(self, context: Context, subject: Any) -> Any:
        """What ends a training early (`probe(model)` and `stop`); None where the benchmark has no such rule."""
        return None

    # -- audit --------------------------------------------------------------------------------------

    @abstractmethod
    def store(self, context: Context, name: str, ref: ModelRef, fingerprint: str) -> Any:
        """The evidence store of a model."""

    @abstractmethod
    def audit(
        self,
        context: Context,
        store: Any,
        gold: Any,
        target: Any,
        attacks: Mapping[str, Any],
        references: Any,
        progress: Callable[[str], None],
    ) -> ModelAudit:
        """Measure one model beside gold and target."""

    def audit_notes(self, workload: Any) -> list[str]:
        """What the reader of the findings should know about the splits they were measured on.

        Raises:
            InputError: Data that no audit can use.
        """
        return []

    def audit_content(self, context: Context) -> list[Any]:
        """What an audit depends on beside models, splits, metrics, attacks and seed."""
        return []

    def measurements(self, context: Context) -> int:
        """How many measurements an audit has beside its attacks, for the progress bar."""
        return len(context.workload.metrics)

    def compares(self, metrics: Sequence[Any]) -> bool:
        """Whether any metric measures models beside the target."""
        return any(isinstance(m, Comparing) for m in metrics)

    @abstractmethod
    def divides(self, attack: Any) -> bool:
        """Whether an attack works on some subjects and scores others, so that it takes two of them."""

    def references(self, context: Context) -> Any:
        """Scores of the reference models of the membership attacks; None where there are none."""
        return None

    def columns(self, workload: Any) -> Sequence[tuple[str, str, str]]:
        """Findings of the summary's table: heading, metric, split.

        The report draws the first one about what goes against the first one about what stays.
        """
        return COLUMNS

    def pictures(self, workload: Any) -> list[Picture]:
        """Images that show the reader of the report what it is about."""
        return []

    # -- plan ---------------------------------------------------------------------------------------

    @abstractmethod
    def estimate(self, recipe: Recipe, workload: Any) -> Estimate:
        """What training and audits will cost, from the recipe and a look at this machine."""

    def __str__(self) -> str:
        return f"models of the {self.name} wing"


def find_wing(name: str) -> Wing:
    """The wing of a name.

    Raises:
        InputError: The package has no such room.
    """
    try:
        module = importlib.import_module(f"expunge.{name}.wing")
    except ModuleNotFoundError as error:
        if error.name != f"expunge.{name}.wing":
            raise
        raise InputError(f"Benchmarks of the wing {name!r} cannot be run yet.") from None
    return module.WING  # type: ignore[no-any-return]
