"""The data of an erasure request in its chain, and whether the chain still holds.

The benchmark's own forget set is request 1; what a later request asks for is the wing's to say (`Wing.request`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from expunge.catalog import Entry
from expunge.engine.method import Guard
from expunge.errors import InputError
from expunge.recipe import Recipe
from expunge.sequence import (
    Link,
    finished_link,
    read_link,
    recipe_key,
    recipe_of,
    require_models,
    require_same,
    written_key,
)
from expunge.wing import Rows, Wing, Workload, find_wing


@dataclass(frozen=True)
class Asked:
    """One request of a chain with its data.

    Attributes:
        recipe: What was asked for.
        folder: The run that carries it out.
        wing: The modality.
        workload: What is trained on and measured (`expunge.wing.Workload`, with what the wing adds).
        new: The records of this request alone.
        trained_on: What the chain's target was trained on where it is trained here.
        origin: The recipe of the chain's first run, whose target is everybody's.
        earlier: The requests before it whose result it starts from, oldest first.
        link: Its link of the chain.
    """

    recipe: Recipe
    folder: Path
    wing: Wing
    workload: Any
    new: Rows
    trained_on: Rows
    origin: Recipe
    earlier: tuple[Asked, ...]
    link: Link


def resolve(recipe: Recipe) -> Asked:
    """Read a run's data and check the runs it stands on.

    Raises:
        InputError: A run of the chain is missing, unfinished or changed; wrong records or settings.
    """
    return _resolve(recipe, {})


def _resolve(recipe: Recipe, loaded: dict[str, Workload]) -> Asked:
    base, request, wing = _load(recipe, loaded), recipe.request, find_wing(recipe.benchmark.wing)
    everything = wing.join(base.retain, base.forget)
    if request is None:
        digests = wing.digest(base.forget), wing.digest(base.retain)
        link = Link(1, recipe_key(recipe.to_dict()), *digests, len(base.forget))
        return Asked(recipe, Path(recipe.out), wing, base, base.forget, everything, recipe, (), link)
    previous: Asked | None = None
    earlier: tuple[Asked, ...] = ()
    if request.continues is not None:
        previous = _reopen(request.continues, loaded)
        require_same(recipe, previous.recipe, previous.folder)
        if request.start == "previous":
            _refuse_guards(recipe, previous.folder)
            earlier = (*previous.earlier, previous)
    origin, everything = (previous.origin, previous.trained_on) if previous else (recipe, everything)
    workload, new = wing.request(recipe, base, earlier, previous, everything)
    link = Link(
        request=len(earlier) + 1,
        recipe=recipe_key(recipe.to_dict()),
        forget=wing.digest(new),
        retain=wing.digest(workload.retain),
        records=len(new),
        previous=previous.link.fingerprint if previous else "",
        folder=str(previous.folder) if previous else "",
    )
    return Asked(recipe, Path(recipe.out), wing, workload, new, everything, origin, earlier, link)


def _load(recipe: Recipe, loaded: dict[str, Workload]) -> Workload:
    """The benchmark's own data; the runs of a chain mostly share it."""
    key = recipe.fingerprint("benchmark", "seed")
    if key not in loaded:
        loaded[key] = recipe.benchmark.build().load(recipe.seed)
    return loaded[key]


def _reopen(folder: Path, loaded: dict[str, Workload]) -> Asked:
    """A finished run with its data, which must be what it was.

    Raises:
        InputError: It is not.
    """
    recipe = recipe_of(folder)
    link = finished_link(folder, recipe)
    try:
        asked = _resolve(recipe, loaded)
    except InputError as error:
        raise InputError(f"{folder} cannot be continued: {error}") from None
    made, now = link.asked(), replace(asked.link.asked(), recipe=written_key(folder))
    if made != now:
        what = {"recipe": "its recipe", "forget": "its forget records", "retain": "its retain records"}
        changed = next((w for k, w in what.items() if getattr(made, k) != getattr(now, k)), "the run before it")
        raise InputError(f"{folder} has changed since it was made ({changed}); a further request cannot build on it.")
    return replace(asked, folder=folder, link=link)


def require_start(asked: Asked, folder: Path, force: bool) -> None:
    """Refuse a request that does not start where it should, or that would overwrite another one.

    Args:
        asked: The request.
        folder: Its run folder.
        force: Whether what lies there is to be redone anyway.

    Raises:
        InputError: The models of the run before are not those it made; the folder holds another request, or was
            begun from another state of the run before.
    """
    if asked.earlier:
        require_models(asked.earlier[-1].folder, asked.earlier[-1].recipe, asked.earlier[-1].link)
    begun = read_link(folder) if asked.recipe.request and not force else None
    if begun is None:
        return
    same_run = begun.folder == asked.link.folder
    if begun.forget != asked.link.forget or (begun.previous != asked.link.previous and not same_run):
        raise InputError(
            f"{folder} holds another request; continue that run, name another folder with --out, or replace it with "
            f"--force."
        )
    if begun.previous != asked.link.previous:
        raise InputError(
            f"{begun.folder} has changed since {folder} was begun from it; --force begins {folder} anew from what it "
            f"is now."
        )


def _refuse_guards(recipe: Recipe, folder: Path) -> None:
    for method in recipe.methods:
        entry: Entry = method.entry
        if issubclass(entry.load(), Guard):
            raise InputError(
                f"{method.name} leaves the weights as they are and guards them, so there is no result in {folder} to "
                f"start from: run it on all records at once, or with request.start=target."
            )
