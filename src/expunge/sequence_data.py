"""The data of an erasure request in its chain, and whether the chain still holds.

The benchmark's own forget set is request 1. A later request takes its records from a file, or from the benchmark
under other settings (the next fold). What earlier requests took away stays away: it is neither trained on as
something to keep nor as part of gold, and it is measured as the split ``forget_earlier``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from expunge.catalog import Entry
from expunge.engine.method import Guard
from expunge.errors import InputError
from expunge.language.data import Record, digest
from expunge.language.prepare import TESTBED
from expunge.language.workload import Workload
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
from expunge.sequence_records import Content, compose, content, read_request


@dataclass(frozen=True)
class Asked:
    """One request of a chain with its data.

    Attributes:
        recipe: What was asked for.
        folder: The run that carries it out.
        workload: What is trained on and measured.
        new: The records of this request alone.
        trained_on: What the chain's target was trained on where it is trained here.
        origin: The recipe of the chain's first run, whose target is everybody's.
        earlier: The requests before it whose result it starts from, oldest first.
        link: Its link of the chain.
    """

    recipe: Recipe
    folder: Path
    workload: Workload
    new: list[Record]
    trained_on: list[Record]
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
    base, request = _load(recipe, loaded), recipe.request
    if request is None:
        everything = base.retain + base.forget
        link = Link(1, recipe_key(recipe.to_dict()), digest(base.forget), digest(base.retain), len(base.forget))
        return Asked(recipe, Path(recipe.out), base, base.forget, everything, recipe, (), link)
    previous: Asked | None = None
    earlier: tuple[Asked, ...] = ()
    if request.continues is not None:
        previous = _reopen(request.continues, loaded)
        require_same(recipe, previous.recipe, previous.folder)
        if request.start == "previous":
            _refuse_guards(recipe, previous.folder)
            earlier = (*previous.earlier, previous)
    origin, everything = (previous.origin, previous.trained_on) if previous else (recipe, base.retain + base.forget)
    gone = {content(r): i for i, past in enumerate(earlier) for r in past.new}
    new = base.forget if request.forget is None else read_request(request.forget, base, gone, earlier)
    _refuse_forgotten(new, gone, earlier, recipe)
    workload = compose(recipe, base, new, earlier)
    notes = _notes(recipe, base, workload, new, earlier, everything)
    if previous is not None and request.start == "previous":
        notes += _gold_note(recipe, previous)
    workload = replace(workload, notes=[*workload.notes, *notes])
    link = Link(
        request=len(earlier) + 1,
        recipe=recipe_key(recipe.to_dict()),
        forget=digest(new),
        retain=digest(workload.retain),
        records=len(new),
        previous=previous.link.fingerprint if previous else "",
        folder=str(previous.folder) if previous else "",
    )
    return Asked(recipe, Path(recipe.out), workload, new, everything, origin, earlier, link)


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


def _refuse_forgotten(new: list[Record], gone: dict[Content, int], earlier: Sequence[Asked], recipe: Recipe) -> None:
    for i, record in enumerate(new, 1):
        if content(record) in gone:
            past = earlier[gone[content(record)]]
            raise InputError(
                f"benchmark {recipe.benchmark.name}: forget record {i} was already forgotten by request "
                f"{past.link.request} ({past.folder})."
            )


# -- notes --------------------------------------------------------------------------------------------


def _notes(
    recipe: Recipe,
    base: Workload,
    work: Workload,
    new: list[Record],
    earlier: Sequence[Asked],
    everything: list[Record],
) -> list[str]:
    """What the reader of the report should know about the request."""
    number, wanted = len(earlier) + 1, {content(r) for r in new}
    start = f"the result of {earlier[-1].folder}" if earlier else "the target"
    notes = [f"Request {number}: {len(new)} records, from {start}."]
    taken = sum(content(r) in wanted for r in base.retain)
    if taken:
        notes.append(
            f"{taken} records of the retain set are to be forgotten now: they were taken out of it, and "
            f"{len(work.retain)} stay."
        )
    about = {r.cluster for r in new if r.cluster}
    beside = sum(r.cluster in about for r in work.retain)
    if beside:
        notes.append(f"{beside} retain records are about the same data subjects as the new forget records, and stay.")
    known = {content(r) for r in everything}
    strange = sum(content(r) not in known for r in new)
    if strange and recipe.target is not None:
        notes.append(f"{strange} of the {len(new)} new records are not among those the target was trained on.")
    if earlier and recipe.unlearn.rehearse:
        notes.append(f"The {sum(len(p.new) for p in earlier)} records of earlier requests are rehearsed.")
    if earlier and recipe.unlearn.reference == "initial":
        notes.append("Losses that need a reference model are given the target, not the model this request starts from.")
    return notes


def _gold_note(recipe: Recipe, previous: Asked) -> list[str]:
    gold, before = recipe.gold, previous.recipe.gold
    if gold is None or gold.source == "retrain" or before is None or gold.source != before.source:
        return []
    if gold.source in TESTBED and recipe.benchmark != previous.recipe.benchmark:
        return []  # the world of another fold: a gold model of its own
    return [
        f"The gold model {gold.source} is that of {previous.folder}. It was made without the records forgotten there, "
        f"and may have seen those of this request: then it is no yardstick for them. Give one that has not with "
        f"gold.source."
    ]
