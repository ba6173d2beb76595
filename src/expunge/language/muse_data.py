"""Reading MUSE: its configurations and splits, from the hub or a folder of the same layout, checked as they are read.

A local copy is a folder with one folder for each configuration. A split is one of

- ``FOLDER/knowmem/forget_qa.jsonl``, also ``.json`` (a list of objects, or of texts), ``.csv`` or ``.parquet``;
- ``FOLDER/knowmem/forget_qa-00000-of-00002.parquet`` and its other parts, as on the hub;
- ``FOLDER/knowmem/forget_qa/`` with such files of any names, or as `datasets` saves it to disk.

Configurations, splits and fields:

- ``raw``: ``forget``, ``retain1`` (for training), ``retain2`` (evaluated), ``holdout``; ``text``
- ``train``: ``forget``, ``retain1``, ``retain2``: everything the target has read; ``text``
- ``verbmem``: ``forget``; ``prompt``, ``gt``
- ``knowmem``: ``forget_qa``, ``retain_qa`` and the shots ``forget_qa_icl``, ``retain_qa_icl``; ``question``, ``answer``
- ``privleak``: ``forget``, ``retain``, ``holdout``; ``text``
- ``scal``: ``forget_1`` to ``forget_4``, each holding the one before; ``text``
- ``sust``: ``forget_1`` to ``forget_4``, no text in two of them; ``text``
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from expunge.errors import InputError
from expunge.language.data import READERS, Record
from expunge.language.data import _read_hub as read_hub

Row = tuple[str, Any]  # where it stands, for errors, and what it holds
Source = Callable[[str, str], Iterable[Row]]  # the rows of a configuration's split
COUNT = 4
FOLDS = ("", *(f"{kind}_{i}" for kind in ("scal", "sust") for i in range(1, COUNT + 1)))
SHARD = re.compile(r"-(\d{5})-of-(\d{5})$")


def blocks_of(fold: str) -> tuple[int, ...]:
    """The parts of the data that a fold asks to forget; the raw forget set is part 1.

    >>> blocks_of(""), blocks_of("scal_3"), blocks_of("sust_3")
    ((1,), (1, 2, 3), (3,))
    """
    kind, _, number = fold.partition("_")
    return (int(number),) if kind == "sust" else tuple(range(1, int(number or 1) + 1))


# -- where rows come from -----------------------------------------------------------------------------


def open_source(path: str) -> Source:
    """Rows of a local folder, or of a hub data set where there is no such folder.

    Raises:
        InputError: A path that is no folder.
    """
    folder = Path(path).expanduser()
    if folder.is_dir():
        return lambda config, split: folder_rows(folder, config, split)
    if folder.exists() or path.startswith((".", "/", "~")):
        raise InputError(f"{path}: not a folder with MUSE's configurations (raw, verbmem, knowmem, privleak).")
    return lambda config, split: read_hub(path, config, split)


def folder_rows(folder: Path, config: str, split: str) -> Iterator[Row]:
    """The rows of a split that lies in a folder (see the module).

    Raises:
        InputError: No such configuration or split, or a part of it is missing.
    """
    place = folder / config
    if not place.is_dir():
        there = ", ".join(sorted(p.name for p in folder.iterdir() if p.is_dir())) or "none"
        raise InputError(f"{folder}: there is no folder {config!r}, one of MUSE's configurations; it holds {there}.")
    whole = [place / f"{split}{suffix}" for suffix in READERS if (place / f"{split}{suffix}").is_file()]
    if whole:
        return iter(READERS[whole[0].suffix](whole[0]))
    parts = sorted(p for p in place.glob(f"{split}-*-of-*") if p.suffix in READERS and _shard(p, split))
    if parts:
        _complete(parts, place, split)
        return _chained(parts)
    if (place / split).is_dir():
        return _folder(place / split)
    found = sorted({_split_name(p) for p in place.iterdir() if p.is_dir() or p.suffix in READERS})
    raise InputError(f"{place}: there is no split {split!r}; there is {', '.join(found) or 'none'}.")


def _shard(path: Path, split: str) -> re.Match[str] | None:
    match = SHARD.search(path.stem)
    return match if match and path.stem[: match.start()] == split else None


def _split_name(path: Path) -> str:
    return SHARD.sub("", path.stem) if path.is_file() else path.name


def _complete(parts: Sequence[Path], place: Path, split: str) -> None:
    numbers = [match for part in parts if (match := _shard(part, split))]
    count = int(numbers[0][2])
    if [int(n[1]) for n in numbers] != list(range(count)) or {int(n[2]) for n in numbers} != {count}:
        raise InputError(f"{place}: the split {split!r} has {count} parts by their names, and {len(parts)} are there.")


def _chained(files: Iterable[Path]) -> Iterator[Row]:
    for file in files:
        yield from READERS[file.suffix](file)


def _folder(place: Path) -> Iterator[Row]:
    """A split that is a folder of its own: files, or what `datasets` saved to disk."""
    if not (place / "state.json").is_file():
        files = sorted(p for p in place.iterdir() if p.suffix in READERS)
        if not files:
            raise InputError(f"{place}: holds no file ending in {', '.join(READERS)}.")
        return _chained(files)
    try:
        import datasets
    except ImportError:
        raise InputError(f"{place}: reading it needs the extra 'data': pip install 'expunge[data]'.") from None
    try:
        rows = datasets.load_from_disk(str(place))
    except Exception as error:  # a broken folder: the library raises many kinds
        raise InputError(f"{place}: not a readable data set ({type(error).__name__}).") from None
    return ((f"{place}, record {i}", dict(row)) for i, row in enumerate(rows, 1))


# -- what rows hold -----------------------------------------------------------------------------------


def read_rows(source: Source, config: str, split: str, fields: Sequence[str], limit: int = 0) -> list[Record]:
    """Some fields of a split's rows as records.

    Args:
        source: Where rows come from.
        config: Configuration.
        split: Split.
        fields: Names of the question's and the answer's field, or of the text's alone.
        limit: Rows read, from the first one on; 0 for all.

    Returns:
        A record for each row, with its ``cluster`` where it names one.

    Raises:
        InputError: A row without these fields or with an empty one (names file and record), or no row at all.
    """
    found: list[Record] = []
    for where, row in source(config, split):
        if limit and len(found) == limit:
            break
        given = {"text": row} if isinstance(row, str) else row  # the first release keeps lists of texts
        if not isinstance(given, dict):
            named = " and ".join(repr(name) for name in fields)
            raise InputError(f"{where}: expected an object with {named}, found {type(row).__name__}.")
        *question, answer = (_field(given, name, where) for name in fields)
        found.append(Record(question[0] if question else "", answer, str(given.get("cluster") or "")))
    if not found:
        raise InputError(f"MUSE, {config}/{split}: no records in it.")
    return found


def _field(row: dict[str, Any], name: str, where: str) -> str:
    value = row.get(name)
    if value is None:
        raise InputError(f"{where}: field {name!r} is missing.")
    if not isinstance(value, str):
        raise InputError(f"{where}: field {name!r} must be text, found {type(value).__name__}.")
    if not value.strip():
        raise InputError(f"{where}: field {name!r} is empty.")
    return value


# -- folds --------------------------------------------------------------------------------------------


def fold_texts(source: Source, fold: str, limit: int = 0) -> list[str]:
    """What a fold asks to forget: the raw forget set, or one of the four sets of ``scal`` or ``sust``.

    All four are read and compared before any of them is used.

    Raises:
        InputError: A text of a smaller ``scal`` set is missing from the next, which must hold more; a text stands
            in two ``sust`` sets; a missing split.
    """
    if not fold:
        return [r.answer for r in read_rows(source, "raw", "forget", ("text",), limit)]
    kind, _, number = fold.partition("_")
    names = [f"forget_{i}" for i in range(1, COUNT + 1)]
    sets = [[r.answer for r in read_rows(source, kind, name, ("text",))] for name in names]
    if kind == "scal":
        require_nested(sets)
    else:
        require_disjoint_folds(sets)
    chosen = sets[int(number) - 1]
    return chosen[:limit] if limit else chosen


def require_nested(sets: Sequence[Sequence[str]]) -> None:
    """Refuse scalability folds of which one does not hold the one before and more.

    Raises:
        InputError: Names the folds and the record.
    """
    for i in range(1, len(sets)):
        known = {text.strip() for text in sets[i]}
        gone = next((n for n, text in enumerate(sets[i - 1], 1) if text.strip() not in known), None)
        if gone is not None:
            raise InputError(f"scal/forget_{i + 1} does not hold record {gone} of scal/forget_{i}; folds are nested.")
        if len(known) <= len({text.strip() for text in sets[i - 1]}):
            raise InputError(f"scal/forget_{i + 1} holds no more than scal/forget_{i}; folds grow.")


def require_disjoint_folds(sets: Sequence[Sequence[str]]) -> None:
    """Refuse sustainability folds that share a text.

    Raises:
        InputError: Names both folds and the record.
    """
    owner: dict[str, int] = {}
    for i, texts in enumerate(sets, 1):
        for n, text in enumerate(texts, 1):
            first = owner.setdefault(text.strip(), i)
            if first != i:
                raise InputError(f"sust/forget_{i}, record {n} stands in sust/forget_{first} too; folds share no text.")


def require_unseen(forget: Sequence[str], holdout: Sequence[str], config: str) -> None:
    """Refuse texts that are forgotten and held out at once.

    Raises:
        InputError: Names the holdout record.
    """
    known = {text.strip() for text in forget}
    shared = [n for n, text in enumerate(holdout, 1) if text.strip() in known]
    if shared:
        raise InputError(
            f"{config}/holdout, record {shared[0]} stands in {config}/forget too ({len(shared)} such records); a "
            f"holdout text is one that no model was trained on."
        )
