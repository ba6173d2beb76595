"""The recipe of a detection bench: cases (data and a model) times detectors, on several target models each.

::

    name: tddbench
    targets: 5                                    # models under attack in each case
    references: 16                                # reference models
    detectors: all                                # this key makes it a detection bench
    cases:
      - {name: digits, data: digits, model: cnn}
      - {name: mine, data: table.csv, label: outcome, kind: continuous, model: random-forest}

No torch here: a bench is checked before anything is loaded.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from expunge import _yaml
from expunge._checked import Checked, explain, problem
from expunge._overrides import override
from expunge.bench.reading import find_bench
from expunge.errors import InputError, nearest

PARADIGMS = {
    "metric": ("Metric-loss", "Metric-conf", "Metric-corr", "Metric-ent", "Metric-ment"),
    "learning": ("Learn-original", "Learn-top3", "Learn-sorted", "Learn-label", "Learn-merge"),
    "model": ("Model-loss", "Model-calibration", "Model-lira", "Model-fpr", "Model-robust"),
    "query": ("Query-neighbor", "Query-augment", "Query-adv", "Query-transfer", "Query-qrm", "Query-ref"),
}
NAMES = tuple(name for names in PARADIGMS.values() for name in names)
BUILT_IN = {"digits": "image", "breast-cancer": "continuous", "wine": "continuous", "purchase": "binary",
            "sentences": "text"}  # fmt: skip
NUMBERS = ("continuous", "binary")
MODELS = {
    "cnn": ("image",),
    "mlp": NUMBERS,
    "words": ("text",),
    "logistic-regression": ("image", *NUMBERS),
    "random-forest": ("image", *NUMBERS),
    "gradient-boosting": ("image", *NUMBERS),
}
Distribution = Literal["target_ref", "shadow", "subtar", "subtar_shadow"]


def is_detection(raw: Any) -> bool:
    """Whether a bench recipe compares detectors, not methods."""
    return isinstance(raw, dict) and "detectors" in raw


def _names(value: Any) -> tuple[str, ...]:
    """Names of detectors: ``all``, or a list."""
    if value == "all":
        return NAMES
    words = value if isinstance(value, list | tuple) else [value]
    known = {name.lower(): name for name in NAMES}
    for word in words:
        if str(word).lower() not in known:
            raise problem(f"{word!r} is no detector.{nearest(str(word), NAMES)}", show=False)
    if not words:
        raise problem("must be 'all', or a list of detectors")
    return tuple(dict.fromkeys(known[str(word).lower()] for word in words))


def _even(value: Any) -> Any:
    if isinstance(value, int) and value % 2:
        raise problem("must be even: reference models come in complementary pairs")
    return value


def _model(value: Any) -> Any:
    if value not in MODELS:
        raise problem(f"is no model of a bench.{nearest(str(value), MODELS)}")
    return value


class CaseSettings(Checked):
    """Data and a model.

    Attributes:
        name: What the case is called.
        data: Built-in data, or the path of a CSV file.
        model: Architecture of targets and references.
        label: Column of the labels in a CSV file.
        kind: What the other columns of a CSV file are.
        noise: Share of the labels that are drawn anew, so that there is something only memory can know.
        limit: Most records.
        epochs: Epochs of the training; None for the model's own.
        widths: Hidden layers of an MLP.
    """

    name: str = Field(min_length=1, pattern=r"^[\w.-]+$")
    data: str = Field(min_length=1)
    model: Annotated[str, BeforeValidator(_model)]
    label: str | None = None
    kind: Literal["continuous", "binary"] | None = None
    noise: float = Field(0.0, ge=0, lt=1)
    limit: int | None = Field(None, ge=40)
    epochs: int | None = Field(None, ge=1)
    widths: list[Annotated[int, Field(ge=1)]] = Field(default=[128, 64], min_length=1)

    @model_validator(mode="after")
    def _fits(self) -> CaseSettings:
        own = self.data not in BUILT_IN
        if own and not self.data.lower().endswith(".csv"):
            raise problem(f"data {self.data!r} is neither built in nor a .csv file.{nearest(self.data, BUILT_IN)}",
                          show=False)  # fmt: skip
        if own and (self.label is None or self.kind is None):
            raise problem("a CSV file needs 'label', the column of the labels, and 'kind', continuous or binary",
                          show=False)  # fmt: skip
        if not own and (self.label is not None or self.kind is not None):
            raise problem("'label' and 'kind' are for CSV files", show=False)
        kind = self.kind or BUILT_IN[self.data]
        if kind not in MODELS[self.model]:
            fitting = [model for model, kinds in MODELS.items() if kind in kinds]
            raise problem(f"model {self.model!r} does not take {kind} records; these do: {', '.join(fitting)}",
                          show=False)  # fmt: skip
        return self


class LimitSettings(Checked):
    """What detectors may spend; see `expunge.membership.roster.Limits`, whose defaults are the paper's."""

    queries: int = Field(10, ge=1)
    boundary_records: int = Field(1000, ge=2)
    boundary_iterations: int = Field(50, ge=1)
    boundary_evaluations: int = Field(10_000, ge=10)
    regressor_epochs: int = Field(30, ge=1)
    canary_steps: int = Field(30, ge=1)
    gamma: float = Field(2.0, gt=0)
    a: float = Field(0.4, ge=0, le=1)


class DetectionBench(Checked):
    """A checked detection bench.

    Attributes:
        name: Its name.
        out: Its folder.
        seed: Fixes all draws.
        targets: Models under attack in each case.
        references: Reference models; even.
        ref_dis: What they are trained on.
        detectors: Names.
        cases: The cases.
        limits: What detectors may spend.
        draws: Resamples of each interval.
    """

    name: str = Field("detection", min_length=1, pattern=r"^[\w.-]+$")
    out: Path | None = None
    seed: int = Field(2024, ge=0)
    targets: int = Field(5, ge=1)
    references: Annotated[int, BeforeValidator(_even), Field(ge=4)] = 16
    ref_dis: Distribution = "target_ref"
    detectors: Annotated[tuple[str, ...], BeforeValidator(_names)]
    cases: list[CaseSettings] = Field(min_length=1)
    limits: LimitSettings = Field(default_factory=lambda: LimitSettings.model_validate({}))
    draws: int = Field(1000, ge=10)

    @model_validator(mode="after")
    def _different(self) -> DetectionBench:
        names = [case.name for case in self.cases]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise problem(f"two cases are called {twice!r}", show=False)
        return self

    @property
    def folder(self) -> Path:
        """Where its files go."""
        return self.out or Path(f"runs/bench-{self.name}")


def read_raw(source: str) -> Any:
    """A bench recipe of either kind as plain data."""
    try:
        return _yaml.parse(find_bench(source).read_text(encoding="utf-8"), source)
    except UnicodeDecodeError:
        raise InputError(f"{source}: not a text file in UTF-8.") from None


def load_detection(
    raw: dict[str, Any], where: str, overrides: Iterable[str] = (), *, detectors: str | None = None,
    out: Path | None = None,
) -> DetectionBench:  # fmt: skip
    """Check the recipe of a detection bench.

    Args:
        raw: From `read_raw`.
        where: What it is called in errors.
        overrides: Changes, ``KEY=VALUE``; a case goes by its name, ``cases.digits.limit=200``.
        detectors: ``all``, or names with commas between; None for the recipe's.
        out: The bench folder.

    Raises:
        InputError: What is wrong with any of them.
    """
    for text in overrides:
        override(raw, text)
    if detectors is not None:
        raw["detectors"] = "all" if detectors == "all" else [w.strip() for w in detectors.split(",") if w.strip()]
    if out is not None:
        raw["out"] = str(out)
    try:
        return DetectionBench.model_validate(raw)
    except ValidationError as error:
        lines = explain(error, raw)
    raise InputError(f"{where}: {'; '.join(line.rstrip('.') for line in lines)}.")
