"""The parts of a recipe: each a checked model of one of its sections."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import asdict
from dataclasses import fields as dataclass_fields
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, get_type_hints

from pydantic import (
    BeforeValidator,
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationInfo,
    create_model,
    model_serializer,
    model_validator,
)

from expunge import catalog
from expunge._checked import Checked, model_of, problem
from expunge.engine.training import Training
from expunge.errors import InputError

_hints = get_type_hints(Training)
_definitions: dict[str, Any] = {f.name: (_hints[f.name], f.default) for f in dataclass_fields(Training)}
_Overrides = create_model("Training", __base__=Checked, **_definitions)


def _overrides(value: Any) -> dict[str, Any]:
    """The given training settings, each of the right type."""
    if isinstance(value, Training):
        return asdict(value)
    given: dict[str, Any] = _Overrides.model_validate(value or {}).model_dump(exclude_unset=True)
    return given


def _training(value: Any) -> Training:
    try:
        return Training(**_overrides(value))
    except InputError as error:
        raise problem(str(error), show=False) from None


TrainingField = Annotated[Training, PlainValidator(_training), PlainSerializer(asdict)]
OverridesField = Annotated[dict[str, Any], PlainValidator(_overrides)]


class Tags(Checked):
    """An explicit prompt template: what stands around the question and before the answer."""

    user_start: str
    user_end: str
    assistant_start: str


def _template(value: Any) -> str | dict[str, str]:
    if isinstance(value, Mapping):
        return Tags.model_validate(value).model_dump()
    if value in ("auto", "chat", "plain"):
        return str(value)
    raise problem("must be 'auto', 'chat', 'plain' or {user_start: ..., user_end: ..., assistant_start: ...}")


class Lora(Checked):
    """Train low-rank adapters instead of all weights (Hu et al. 2022)."""

    rank: int = Field(16, ge=1)
    alpha: float = Field(32.0, gt=0)
    targets: str | list[str] = "all-linear"
    dropout: float = Field(0.0, ge=0, lt=1)


class ModelSettings(Checked):
    """The model and how questions are put to it."""

    source: str = Field(min_length=1)
    template: Annotated[str | dict[str, str], PlainValidator(_template)] = "auto"
    system: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    lora: Lora | None = None
    max_length: int = Field(512, ge=2)


class Named(Checked):
    """A catalogued class by name with its hyper-parameters; written flat, or as the bare name.

    Attributes:
        name: Public name.
        wing: The wing it was found in.
        fields: Its hyper-parameters: those given, and the defaults the catalog can read.
    """

    kind: ClassVar[str]
    own: ClassVar[dict[str, Any]] = {}

    name: str
    wing: str = Field(exclude=True)
    fields: dict[str, Any]

    @model_validator(mode="before")
    @classmethod
    def _look_up(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, str):
            value = {"name": value}
        if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
            raise problem(f"must be the name of a known {cls.kind}, or {{name: ..., and its settings}}")
        try:
            entry = catalog.find(cls.kind, value["name"], (info.context or {}).get("wing"))
        except InputError as error:
            raise problem(str(error), show=False) from None
        model = model_of(entry.name, entry.fields, {"name": (str, ...), **cls.own})
        checked = model.model_validate(value)
        # Defaults go the way of given values, so that a recipe read back from its file is the same one.
        full = model.model_validate({**_defaults(entry), **value})
        fields = {f.name: getattr(full, f.name) for f in entry.fields if f.name in full.model_fields_set}
        own = {key: getattr(checked, key) for key in cls.own}
        return {"name": entry.name, "wing": entry.wing, "fields": fields, **own}

    @model_serializer
    def _flat(self) -> dict[str, Any]:
        return {"name": self.name, **self.fields, **{key: getattr(self, key) for key in self.own}}

    @property
    def entry(self) -> catalog.Entry:
        """What the catalog says about it."""
        return catalog.find(self.kind, self.name, self.wing)

    def build(self) -> Any:
        """Import the class and make it with these hyper-parameters.

        Raises:
            InputError: The class refuses a value.
        """
        return self.entry.load()(**self.fields)


def _defaults(entry: catalog.Entry) -> dict[str, Any]:
    """The defaults the catalog can read, as a recipe file would have them."""
    values: dict[str, Any] = {}
    for field in entry.fields:
        with contextlib.suppress(ValueError):  # an expression: the class itself fills it in
            value = field.literal()
            values[field.name] = list(value) if isinstance(value, tuple) else value
    return values


class MethodSettings(Named):
    """A method, and how its training differs from `unlearn.train`."""

    kind = "method"
    own: ClassVar[dict[str, Any]] = {"train": (OverridesField, {})}

    train: dict[str, Any]


class AttackSettings(Named):
    """An attack."""

    kind = "attack"


class BenchmarkSettings(Named):
    """A benchmark."""

    kind = "benchmark"


class Target(Checked):
    """How the target model is trained from `model.source` on the forget and retain sets."""

    train: TrainingField = Training()


class Unlearn(Checked):
    """Training settings that all methods of the run share, and what a further request does with the earlier ones."""

    train: TrainingField = Training()
    reference: Literal["previous", "initial"] = "previous"
    rehearse: bool = False


class Request(Checked):
    """An erasure request other than the benchmark's own: records of a file, or on top of a finished run."""

    continues: Path | None = None
    forget: str | None = Field(None, min_length=1)
    start: Literal["previous", "target"] = "previous"

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.continues is None and self.forget is None:
            raise problem("names neither a run it 'continues' nor a file of records to 'forget'", show=False)
        return self


class Step(Checked):
    """One request of a sequence: other settings of the benchmark (a fold), or a file of records."""

    benchmark: dict[str, Any] = Field(default_factory=dict)
    forget: str | None = Field(None, min_length=1)

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.benchmark and self.forget is not None:
            raise problem("takes its records from 'benchmark' or from 'forget', not from both", show=False)
        return self


class Sequence(Checked):
    """Requests carried out in turn: each from the result of the one before, or each from the target."""

    requests: list[Step] = Field(min_length=1)
    start: Literal["previous", "target"] = "previous"
    show: list[Annotated[str, Field(pattern=r"^[\w.-]+@[\w.-]+$")]] = Field(default_factory=list)

    @model_validator(mode="after")
    def _no_request_twice(self) -> Self:
        for i, step in enumerate(self.requests):
            if step in self.requests[:i]:
                raise problem(f"the requests {self.requests.index(step)} and {i} are the same", show=False)
        return self


class Gold(Checked):
    """Where the gold model comes from: retrained here, or a path or hub id."""

    source: str = Field("retrain", min_length=1)
    seeds: int = Field(1, ge=1, le=2)


class Harness(Checked):
    """Tasks of lm-evaluation-harness that show whether other abilities were kept."""

    tasks: Annotated[list[str], BeforeValidator(lambda v: [v] if isinstance(v, str) else v)] = Field(
        default_factory=list
    )
    limit: int | None = Field(None, ge=1)
    shots: int | None = Field(None, ge=0)
    chat_template: bool = False
    tolerance: float = Field(0.02, ge=0, lt=1)


class Audit(Checked):
    """What is measured, and the tolerance of the verdict."""

    attacks: list[AttackSettings]
    harness: Harness = Field(default_factory=dict, validate_default=True)
    control: bool = True
    control_train: OverridesField = Field(default_factory=dict)
    draws: int = Field(1000, ge=1)
    delta: float = Field(0.2, gt=0, lt=1)
    references: int = Field(0, ge=0, multiple_of=2)

    @model_validator(mode="before")
    @classmethod
    def _all_attacks(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, Mapping) and value.get("attacks") is None:
            wing = (info.context or {}).get("wing")
            return {**value, "attacks": [entry.name for entry in catalog.entries("attack", wing)]}
        return value
