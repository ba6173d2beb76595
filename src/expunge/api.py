"""The Python API: one request, one call. The command line only wraps it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from expunge.errors import InputError
from expunge.recipe import Recipe
from expunge.report.scorecard import Scorecard

# The papers' learning rates are for models of billions of parameters; the embedded one needs larger steps.
TESTBED_TRAIN = {"steps": 60, "batch_size": 32, "lr": 2e-4}


@dataclass(frozen=True)
class UnlearnResult:
    """What `unlearn` leaves behind.

    Attributes:
        model: Folder of the unlearned model (safetensors, `save_pretrained` layout).
        folder: The run folder with the resolved recipe and the log.
    """

    model: Path
    folder: Path


def unlearn(
    model: str,
    forget: str | Path,
    retain: str | Path | None = None,
    *,
    method: str = "npo",
    out: str | Path = "runs/unlearn",
    seed: int = 0,
    train: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    hyper: Mapping[str, Any] | None = None,
    console: Console | None = None,
    force: bool = False,
) -> UnlearnResult:
    """Make a model forget some records.

    Args:
        model: Hub id, local folder, GGUF file, ``package:NAME`` or ``testbed``.
        forget: Records that must go: a JSONL, JSON, CSV or Parquet file, or a hub data set.
        retain: Records that must stay.
        method: Name of a method (``expunge list methods``).
        out: Run folder. The same call on the same folder resumes.
        seed: Fixes every random draw.
        train: Training settings (`expunge.engine.training.Training`).
        settings: Model settings of the recipe (template, lora, max_length...).
        hyper: The method's hyper-parameters.
        console: Where progress is shown.
        force: Redo what is already there.

    Raises:
        InputError: Wrong names, settings or data.
        RunError: The run failed; the same call resumes it.
    """
    from expunge.runner import unlearn_only

    recipe = recipe_for(
        model, forget, retain, None, out=out, seed=seed, settings=settings, train=train,
        methods=[{"name": method, **(hyper or {})}],
    )  # fmt: skip
    return UnlearnResult(unlearn_only(recipe, console=console, force=force), Path(recipe.out))


def audit(
    model: str,
    forget: str | Path,
    retain: str | Path | None = None,
    holdout: str | Path | None = None,
    *,
    target: str | None = None,
    gold: str | None = None,
    spare_gold: str | None = None,
    control: bool = False,
    out: str | Path = "runs/audit",
    seed: int = 0,
    attacks: Sequence[str | Mapping[str, Any]] | None = None,
    train: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    console: Console | None = None,
    force: bool = False,
) -> Scorecard:
    """Audit a model that somebody made forget.

    Args:
        model: The model under audit.
        forget: Records it should have forgotten.
        retain: Records it should have kept.
        holdout: Records no model was trained on; without them there is no membership attack.
        target: The model before unlearning.
        gold: The model retrained without the forget records; without it the verdict is capped.
        spare_gold: A second one, of another seed: how far apart two such models are.
        control: Train a copy of the target to refuse, which every test of the audit must then find out. Without it
            tests may convict but not clear.
        out: Run folder with the scorecard and the report.
        seed: Fixes every random draw.
        attacks: Attacks to run; default all.
        train: Training settings of the control.
        settings: Model settings of the recipe, for all models.
        console: Where progress is shown.
        force: Redo what is already there.

    Raises:
        InputError: Wrong names, settings or data.
    """
    from expunge.runner import audit_only

    if control and (target is None or retain is None):
        missing = "target" if target is None else "retain"
        raise InputError(f"control: it is made from the target and the retained records, and {missing!r} is missing.")
    recipe = recipe_for(
        model, forget, retain, holdout, out=out, seed=seed, settings=settings, attacks=attacks, train=train,
        methods=[], control=control,
    )  # fmt: skip
    return audit_only(recipe, target=target, gold=gold, spare_gold=spare_gold, console=console, force=force)


def audit_recipe(
    source: str | Path,
    model: str,
    overrides: Sequence[str] = (),
    *,
    target: str | None = None,
    gold: str | None = None,
    spare_gold: str | None = None,
    control: bool = False,
    out: str | Path = "runs/audit",
    seed: int | None = None,
    console: Console | None = None,
    force: bool = False,
) -> Scorecard:
    """Audit a model that somebody made forget, of any wing, on the data and with the attacks of a recipe.

    Args:
        source: A recipe file, or a packaged recipe's name; its methods, target and gold are left aside.
        model: The model under audit.
        overrides: ``key.sub=value`` changes to the recipe.
        target: The model before unlearning.
        gold: The model retrained without the forget set.
        spare_gold: A second one, of another seed.
        control: Make the positive control from the target.
        out: Run folder with the scorecard and the report.
        seed: Fixes every random draw; the recipe's unless given.
        console: Where progress is shown.
        force: Redo what is already there.

    Raises:
        InputError: Wrong names, settings or data.
    """
    from expunge.runner import audit_only

    recipe = recipe_to_audit(source, model, overrides, target=target, control=control, out=out, seed=seed)
    return audit_only(recipe, target=target, gold=gold, spare_gold=spare_gold, console=console, force=force)


def recipe_to_audit(
    source: str | Path,
    model: str,
    overrides: Sequence[str] = (),
    *,
    target: str | None = None,
    control: bool = False,
    out: str | Path = "runs/audit",
    seed: int | None = None,
) -> Recipe:
    """A recipe turned into the audit of one given model."""
    if control and target is None:
        raise InputError("control: it is made from the target, and 'target' is missing.")
    own = [f"model.source={model}", f"out={out}", *([] if seed is None else [f"seed={seed}"])]
    taken = ["methods=[]", "target=null", "gold=null", f"audit.control={str(control).lower()}"]
    return Recipe.load(source, [*overrides, *own, *taken])


def run(source: str | Path | Recipe, overrides: Sequence[str] = (), *, console: Console | None = None) -> Scorecard:
    """Carry out a recipe: a file, a packaged recipe's name, or a `Recipe`."""
    from expunge.runner import execute

    recipe = source if isinstance(source, Recipe) else Recipe.load(source, overrides)
    return execute(recipe, console=console)


def recipe_for(
    model: str,
    forget: str | Path,
    retain: str | Path | None,
    holdout: str | Path | None,
    *,
    out: str | Path,
    seed: int,
    methods: list[dict[str, Any]],
    train: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    attacks: Sequence[str | Mapping[str, Any]] | None = None,
    control: bool = False,
) -> Recipe:
    """The recipe of one request on the user's own records."""
    if model.startswith("testbed"):
        train = {**TESTBED_TRAIN, **(train or {})}
    data = {"forget": forget, "retain": retain, "holdout": holdout}
    raw: dict[str, Any] = {
        "name": Path(out).name or "run",
        "out": str(out),
        "seed": seed,
        "model": {"source": model, **(settings or {})},
        "benchmark": {"name": "records", **{k: str(v) for k, v in data.items() if v is not None}},
        "methods": methods,
        "unlearn": {"train": dict(train or {})},
        "audit": {"control": control, **({"attacks": list(attacks)} if attacks is not None else {})},
    }
    return Recipe.parse(raw, "request")
