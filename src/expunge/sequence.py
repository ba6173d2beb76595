"""Erasure requests one after another: the chain of runs, and the recipe of the next one. No torch here.

Every run leaves ``chain.json``: what it was asked to forget (content hashes, never content), with which recipe,
which files its models are, and which run it started from. A further request starts from a run only if all of that
still holds, for the run itself and for every run before it; of the older ones the weights are no longer needed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from expunge import _yaml
from expunge._overrides import override
from expunge.errors import InputError
from expunge.recipe import Recipe, fingerprint

CHAIN = "chain.json"
DECIDING = ("seed", "model", "benchmark", "target", "methods", "unlearn")  # what a run's models depend on
FIXED = ("seed", "model", "target")  # what all requests of a chain share


@dataclass(frozen=True)
class Link:
    """One run as the runs after it see it.

    Attributes:
        request: Which request of its chain it carried out, from 1.
        recipe: Content hash of the settings its models depend on.
        forget: Content hash of the new forget records.
        retain: Content hash of the retain records.
        records: Number of the new forget records.
        previous: Content hash of the link it started from; empty for a first run.
        folder: Where that run lay.
        models: Method to content hash of its model's files; empty as long as the run is not finished.
    """

    request: int
    recipe: str
    forget: str
    retain: str
    records: int
    previous: str = ""
    folder: str = ""
    models: dict[str, str] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """Content hash of the run and of all before it, wherever they lie."""
        return fingerprint({k: v for k, v in asdict(self).items() if k != "folder"})

    def asked(self) -> Link:
        """The same without what the run made: what was asked for."""
        return replace(self, models={}, folder="")

    def write(self, folder: Path) -> None:
        """File it in a run folder, atomically."""
        temporary = folder / f"{CHAIN}.tmp"
        temporary.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
        os.replace(temporary, folder / CHAIN)


def read_link(folder: Path) -> Link | None:
    """The link of a run folder; None if there is none.

    Raises:
        InputError: The file is damaged.
    """
    path = folder / CHAIN
    if not path.exists():
        return None
    try:
        return Link(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        raise InputError(f"{path}: not readable; run the command of {folder} again to write it anew.") from None


def finished_link(folder: Path, recipe: Recipe) -> Link:
    """The link of a finished run.

    Raises:
        InputError: The run is not finished, or unlearned nothing.
    """
    if recipe.sequence is not None:
        last = folder / str(len(recipe.sequence.requests))
        raise InputError(f"{folder} holds a sequence of runs; a further request continues the last of them, {last}.")
    if not recipe.methods:
        raise InputError(f"{folder} holds an audit: no method has been run in it, so there is nothing to continue.")
    link = read_link(folder)
    if link is None or not link.models:
        raise InputError(f"{folder}: the run is not finished; run its command again, then continue it.")
    return link


def recipe_of(folder: Path) -> Recipe:
    """The recipe of a run folder.

    Raises:
        InputError: It is no run folder.
    """
    return Recipe.load(_recipe_file(folder))


def _recipe_file(folder: Path) -> Path:
    if not (folder / "recipe.yaml").is_file():
        raise InputError(f"{folder}: not a run folder (it has no recipe.yaml).")
    return folder / "recipe.yaml"


def recipe_key(resolved: dict[str, Any]) -> str:
    """Content hash of what a run's models depend on, apart from records and earlier runs.

    Args:
        resolved: The recipe as it is written into the run folder, spelt out.
    """
    request = resolved.get("request") or {}
    return fingerprint({**{key: resolved.get(key) for key in DECIDING}, "start": request.get("start")})


def written_key(folder: Path) -> str:
    """The same of the recipe a run folder holds, as it stands there: a later version may know more settings."""
    path = _recipe_file(folder)
    return recipe_key(_yaml.parse(path.read_text(encoding="utf-8"), str(path)))


def model_folder(folder: Path, recipe: Recipe, method: str) -> Path:
    """Where a run keeps the model of one of its methods."""
    return folder / "model" if len(recipe.methods) == 1 else folder / "model" / method


def digest_folder(folder: Path) -> str:
    """Content hash of a model's files: weights, configuration, tokenizer; the card is left out."""
    h = hashlib.blake2b(digest_size=16)
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "README.md"):
        h.update(f"{path.relative_to(folder).as_posix()}\0".encode())
        with path.open("rb") as file:
            h.update(hashlib.file_digest(file, "blake2b").digest())
    return h.hexdigest()


def digest_models(folder: Path, recipe: Recipe) -> dict[str, str]:
    """Method to content hash of its model, as they lie in the run folder now."""
    return {m.name: digest_folder(model_folder(folder, recipe, m.name)) for m in recipe.methods}


def require_models(folder: Path, recipe: Recipe, link: Link) -> None:
    """Refuse a run whose models are not those it made.

    Raises:
        InputError: Names the first one.
    """
    found = digest_models(folder, recipe)
    for name, made in link.models.items():
        if found.get(name) != made:
            where = model_folder(folder, recipe, name)
            raise InputError(
                f"{where}: the files are not those the run made; a further request must start from its own result."
            )


def require_same(recipe: Recipe, earlier: Recipe, folder: Path) -> None:
    """Refuse a request whose settings do not fit the run it continues.

    Raises:
        InputError: Another target, seed or benchmark, or other methods.
    """
    request = recipe.request
    assert request is not None
    names, others = ([m.name for m in r.methods] for r in (recipe, earlier))
    if names != others and request.start == "previous":
        raise InputError(
            f"methods: [{', '.join(names)}], and {folder} ran [{', '.join(others)}]: a further request continues each "
            f"method of the run from its own result."
        )
    ours, theirs = recipe.to_dict(), earlier.to_dict()
    for key in FIXED:
        if ours[key] != theirs[key]:
            raise InputError(f"{key}: it cannot differ from that of {folder}: all requests share one target model.")
    if ours["benchmark"]["name"] != theirs["benchmark"]["name"] or (
        request.forget is not None and ours["benchmark"] != theirs["benchmark"]
    ):
        raise InputError(
            f"benchmark: it cannot differ from that of {folder} when the records of the request are read from a file."
        )


def continuation(
    run: str | Path, forget: str | Path | None = None, out: str | Path | None = None, overrides: Sequence[str] = ()
) -> Recipe:
    """The recipe of a further request on a finished run.

    Args:
        run: Its folder.
        forget: File with the new records; None when the overrides name them (``benchmark.fold=...``).
        out: Folder of the new run; beside the old one, numbered, unless given.
        overrides: ``key.sub=value`` changes to the run's recipe.

    Raises:
        InputError: No finished run there, no new records, wrong overrides.
    """
    folder = Path(run)
    earlier = recipe_of(folder)
    link = finished_link(folder, earlier)
    if forget is None and not any(text.strip().startswith("benchmark.") for text in overrides):
        raise InputError(
            f"--continue {folder}: what else is to be forgotten? Name a file with --forget, or another part of the "
            f"benchmark (benchmark.KEY=VALUE)."
        )
    raw: dict[str, Any] = earlier.to_dict()
    raw["request"] = {"continues": str(folder), "forget": None if forget is None else str(forget)}
    raw["out"] = str(next_folder(folder, link.request) if out is None else out)
    del raw["name"]
    for text in overrides:
        override(raw, text)
    raw.setdefault("name", Path(str(raw["out"])).name or "run")
    recipe = Recipe.parse(raw, f"--continue {folder}")
    if Path(recipe.out).resolve() == folder.resolve():
        raise InputError(f"--out {recipe.out}: that is the run to be continued; the new one needs a folder of its own.")
    return recipe


def next_folder(folder: Path, request: int) -> Path:
    """Beside a run, under its name and the number of the next request.

    >>> next_folder(Path("runs/mine"), 1).as_posix(), next_folder(Path("runs/mine-2"), 2).as_posix()
    ('runs/mine-2', 'runs/mine-3')
    """
    whole = Path(os.path.abspath(folder)) if folder.name in ("", "..") else folder
    stem = whole.name.removesuffix(f"-{request}") if request > 1 else whole.name
    return whole.with_name(f"{stem}-{request + 1}")


def steps(recipe: Recipe) -> list[Recipe]:
    """The runs of a recipe with a `sequence`, one for each request, in folders named by its number.

    Each is an ordinary recipe. From the second on it names the run it follows: the one before, or, where every
    request starts from the target, the first, whose target is theirs.

    Raises:
        InputError: Settings of the benchmark that it does not have; a name that is no metric and split.
    """
    sequence = recipe.sequence
    assert sequence is not None
    made = []
    for number, step in enumerate(sequence.requests, 1):
        raw = recipe.to_dict()
        raw["sequence"] = None
        raw["name"], raw["out"] = f"{recipe.name}-{number}", str(Path(recipe.out) / str(number))
        raw["benchmark"] |= step.benchmark
        follows = number - 1 if sequence.start == "previous" else 1
        if number > 1:
            raw["request"] = {"continues": str(Path(recipe.out) / str(follows)), "start": sequence.start}
        if step.forget is not None:
            raw["request"] = {**(raw["request"] or {}), "forget": step.forget}
        made.append(Recipe.parse(raw, f"sequence.requests.{number - 1}"))
    return made
