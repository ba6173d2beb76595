"""A further erasure request on text: its new records, what stays, and what the reader should know.

The benchmark's own forget set is request 1. A later request takes its records from a file, or from the benchmark
under other settings (the next fold). What earlier requests took away stays away: it is neither trained on as
something to keep nor as part of gold, and it is measured as the split ``forget_earlier``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from expunge.errors import InputError
from expunge.language.data import Record
from expunge.language.prepare import TESTBED
from expunge.language.request_records import Content, compose, content, read_request
from expunge.language.workload import Workload
from expunge.recipe import Recipe

if TYPE_CHECKING:
    from expunge.sequence_data import Asked


def further_request(
    recipe: Recipe, base: Workload, earlier: tuple[Asked, ...], previous: Asked | None, everything: list[Record]
) -> tuple[Workload, list[Record]]:
    """The workload of a request on top of others, and the records it asks for.

    Args:
        recipe: The request's recipe, its `request` set.
        base: The benchmark's data.
        earlier: The requests whose results it builds on, oldest first.
        previous: The run it continues, if any.
        everything: What the target was trained on.

    Raises:
        InputError: Unreadable records, or some that were forgotten earlier.
    """
    request = recipe.request
    assert request is not None
    gone = {content(r): i for i, past in enumerate(earlier) for r in past.new}
    new = base.forget if request.forget is None else read_request(request.forget, base, gone, earlier)
    _refuse_forgotten(new, gone, earlier, recipe)
    workload = compose(recipe, base, new, earlier)
    notes = _notes(recipe, base, workload, new, earlier, everything)
    if previous is not None and request.start == "previous":
        notes += _gold_note(recipe, previous)
    return replace(workload, notes=[*workload.notes, *notes]), new


def _refuse_forgotten(new: list[Record], gone: dict[Content, int], earlier: Sequence[Asked], recipe: Recipe) -> None:
    for i, record in enumerate(new, 1):
        if content(record) in gone:
            past = earlier[gone[content(record)]]
            raise InputError(
                f"benchmark {recipe.benchmark.name}: forget record {i} was already forgotten by request "
                f"{past.link.request} ({past.folder})."
            )


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
