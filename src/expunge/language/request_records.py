"""The records of a further erasure request: read from a file, taken from what stays, set apart to be measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge.errors import InputError
from expunge.language.data import CLUSTER_FIELDS, READERS, Record, read_records, to_record
from expunge.language.request_metrics import EARLIER, scored, with_earlier, without
from expunge.language.workload import Workload
from expunge.recipe import Recipe

if TYPE_CHECKING:
    from expunge.sequence_data import Asked

Content = tuple[tuple[tuple[str, str], ...], str, str]


def content(record: Record) -> Content:
    """What makes two records the same: everything the model sees of them."""
    return record.history, record.question, record.answer


# -- records ------------------------------------------------------------------------------------------


def read_request(source: str, base: Workload, gone: dict[Content, int], earlier: Sequence[Asked] = ()) -> list[Record]:
    """The new records of a file, each completed by what the benchmark knows of it.

    A row that names only a cluster (``{"cluster": "Ada"}``) stands for every record about it that still has to stay.

    Args:
        source: The file, or a hub data set.
        base: The benchmark's data.
        gone: Content of records forgotten earlier, and the request that did it.
        earlier: Those requests.

    Raises:
        InputError: An unreadable file, a record forgotten earlier (names file, record and request), a cluster
            nothing is known about, a record no model was trained on.
    """
    pool = base.retain + base.forget
    known = {content(r): r for rows in (pool, *(_measured(base))) for r in rows}
    unseen = {content(r) for name, rows in base.splits.items() if name.startswith("holdout") for r in rows}
    found: dict[Content, Record] = {}
    for where, row in request_rows(source):
        for record in _about(row, where, pool, gone) or [row if isinstance(row, Record) else to_record(row, where)]:
            key = content(record)
            if key in gone:
                past = earlier[gone[key]]
                raise InputError(f"{where}: already forgotten by request {past.link.request} ({past.folder}).")
            if key in unseen:
                raise InputError(
                    f"{where}: a holdout record, which no model was trained on: there is nothing to forget."
                )
            found[key] = _completed(record, known.get(key))
    return list(found.values())


def _measured(base: Workload) -> list[list[Record]]:
    return [rows for name, rows in base.splits.items() if not name.startswith("holdout")]


def request_rows(source: str) -> list[tuple[str, Any]]:
    """The rows of a request file, each with where it stands; records themselves where they come from a hub.

    Raises:
        InputError: No such file, unreadable, or nothing in it.
    """
    path = Path(source).expanduser()
    if path.suffix.lower() in READERS and path.is_file():
        rows: list[tuple[str, Any]] = list(READERS[path.suffix.lower()](path))
        if not rows:
            raise InputError(f"{source}: no records in it.")
        return rows
    return [(f"{source}, record {i}", record) for i, record in enumerate(read_records(source), 1)]


def _about(row: Any, where: str, pool: list[Record], gone: dict[Content, int]) -> list[Record]:
    """The kept records about the cluster a row names, if it names nothing else."""
    if not isinstance(row, dict):
        return []
    filled = {key: value for key, value in row.items() if value not in (None, "")}
    if len(filled) != 1 or not set(filled) <= set(CLUSTER_FIELDS):
        return []
    name = str(next(iter(filled.values())))
    rows = [r for r in pool if r.cluster == name]
    kept = [r for r in rows if content(r) not in gone]
    if not rows:
        raise InputError(f"{where}: no record is about {name!r}; the names are those of the field 'cluster'.")
    return kept or rows[:1]  # all of them are gone: the first says which request did it


def _completed(record: Record, known: Record | None) -> Record:
    """A record with what its twin in the benchmark adds: cluster, false answers, other wordings."""
    if known is None:
        return record
    own = {
        name: getattr(record, name)
        for name in ("cluster", "paraphrased_question", "paraphrased_answer", "perturbed_answers", "topic")
        if getattr(record, name)
    }
    return replace(known, **own)


# -- what is kept and measured ------------------------------------------------------------------------


def compose(recipe: Recipe, base: Workload, new: list[Record], earlier: Sequence[Asked]) -> Workload:
    """The workload of a request on top of others."""
    from_file = recipe.request is not None and recipe.request.forget is not None
    before = [r for past in earlier for r in past.new]
    gone = {content(r) for r in (*before, *new)}
    pool = base.retain + base.forget if from_file else base.retain
    retain = [r for r in pool if content(r) not in gone]
    whole = {r.cluster for r in (*before, *new) if r.cluster} - {r.cluster for r in retain}

    def kept(rows: list[Record]) -> list[Record]:
        return [r for r in rows if content(r) not in gone and r.cluster not in whole]

    own = {name: rows for name, rows in base.splits.items() if name.startswith("forget")}
    splits: dict[str, list[Record]] = _own_splits(base, new, recipe) if from_file else own
    splits |= {n: rows if n.startswith("holdout") else kept(rows) for n, rows in base.splits.items() if n not in own}
    asked = {content(r) for r in splits["forget"]}  # a benchmark may ask the same of every fold
    rows = {content(r): r for past in earlier for r in past.workload.splits["forget"]}
    splits[EARLIER] = [r for key, r in rows.items() if key not in asked]
    splits = {name: rows for name, rows in splits.items() if rows}
    work = replace(
        base, forget=[*new, *before] if recipe.unlearn.rehearse else new, retain=retain, splits=splits,
        metrics=with_earlier(without(base.metrics, base.splits, splits), splits),
    )  # fmt: skip
    if not from_file:
        return work
    return replace(scored(work), published=(), stop_rule=_stop_rule(base, new))


def _own_splits(base: Workload, new: list[Record], recipe: Recipe) -> dict[str, list[Record]]:
    """The measured forget splits of records from a file."""
    special = [n for n in base.splits if n.startswith("forget") and n not in ("forget", "forget_paraphrase")]
    if special:
        raise InputError(
            f"benchmark {recipe.benchmark.name} measures its forget set in ways of its own ({', '.join(special)}), "
            f"which records of a file do not have: name the request by the benchmark's settings (benchmark.KEY=VALUE)."
        )
    splits = {"forget": new}
    about = {r.cluster for r in new if r.cluster}
    others = [
        r
        for name in ("forget_paraphrase", "retain_paraphrase")
        for r in base.splits.get(name, [])
        if r.cluster in about and content(r) not in {content(n) for n in new}
    ]
    if all(r.paraphrased_question for r in new):
        splits["forget_paraphrase"] = [r.asked_otherwise() for r in new]
    elif about and {r.cluster for r in others} == {r.cluster for r in new}:
        splits["forget_paraphrase"] = others
    return splits


def _stop_rule(base: Workload, new: list[Record]) -> Callable[[Any], Any] | None:
    """The benchmark's stop rule on the new records."""
    rule = base.stop_rule
    return None if rule is None else lambda subject: replace(rule(subject), forget=new)
