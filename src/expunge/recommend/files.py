"""Interactions from files: CSV, TSV and Parquet tables, RecBole's and MMRec's ``.inter`` files, installed MovieLens.

Ids are the places of the names in their sorted order (as numbers, where all are whole numbers), so they do not depend
on the order of the lines. MMRec's ids are taken as they are, because the rows of its feature files are the items.
"""

from __future__ import annotations

import csv
import importlib.util
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from expunge.engine.training import derive_seed
from expunge.errors import InputError
from expunge.recommend.data import Features, Interactions, check_features, split_per_user

COLUMNS = {  # what a column may be called, in any case and without _ and -
    "user": ("user", "userid", "uid"),
    "item": ("item", "itemid", "iid", "movieid", "productid"),
    "rating": ("rating", "score", "stars"),
    "label": ("xlabel",),
}
DELIMITERS = {".csv": ",", ".tsv": "\t", ".inter": "\t"}
FEATURE_FILES = {"visual": "image_feat.npy", "text": "text_feat.npy"}  # as MMRec names them
PACKAGE = "recbole"
ML_100K = Path("dataset_example/ml-100k")
VISUAL_SIZE = 32  # numbers in the drawn stand-in for pictures of films

Duplicates = Literal["refuse", "first"]


@dataclass(frozen=True)
class Log:
    """The interactions of one file.

    Attributes:
        interactions: All of them.
        labels: [n] 0 for training, 1 for validation, 2 for testing, where the file divides them.
    """

    interactions: Interactions
    labels: Tensor | None = None

    def split(self, seed: int) -> tuple[Interactions, Interactions, Interactions]:
        """Training, validation and test interactions: as the file says, or 70, 10 and 20% of each user's."""
        if self.labels is None:
            return split_per_user(self.interactions, seed)
        train, valid, test = (self.interactions.take(self.labels == label) for label in range(3))
        return train, valid, test


def read_log(path: str | Path, *, min_rating: float | None = None, duplicates: Duplicates = "refuse") -> Log:
    """Read interactions from a ``.csv``, ``.tsv``, ``.parquet`` or ``.inter`` file with a header.

    Args:
        path: The file; it needs a column for users and one for items.
        min_rating: Ratings below this are no interactions; None takes every row, whatever its rating.
        duplicates: A pair given again: ``refuse``, or keep the ``first``.

    Raises:
        InputError: A missing, unreadable or empty file, a column that is not there, an empty or malformed value
            (names the record), or a pair given again.
    """
    if duplicates not in ("refuse", "first"):
        raise InputError(f"duplicates={duplicates!r}; refuse or first.")
    file = Path(path).expanduser()
    columns = _columns(file)
    n = len(columns["user"])
    keep = np.ones(n, dtype=bool)
    if min_rating is not None:
        if "rating" not in columns:
            raise InputError(f"{path}: no column of ratings, and min_rating={min_rating} asks for one.")
        keep = _numbers(columns["rating"], file, "rating") >= min_rating
    if not keep.any():
        raise InputError(f"{path}: no interactions{'' if min_rating is None else f' rated {min_rating} or more'}.")
    fixed = "label" in columns
    users, user_names = _ids(columns["user"], keep, file, "user", fixed)
    items, item_names = _ids(columns["item"], keep, file, "item", fixed)
    pairs = torch.from_numpy(np.stack([users, items], 1))
    labels = torch.from_numpy(_labels(columns["label"], file)[keep]) if fixed else None
    sizes = (len(user_names), len(item_names)) if not fixed else (int(users.max()) + 1, int(items.max()) + 1)
    if duplicates == "first":
        first = torch.from_numpy(np.sort(np.unique(users * sizes[1] + items, return_index=True)[1]))
        pairs, labels = pairs[first], labels[first] if labels is not None else None
    try:
        return Log(Interactions(*sizes, pairs, user_names, item_names), labels)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def read_features(folder: str | Path, items: int) -> Features:
    """The feature tables beside an MMRec file, one row for each item: ``image_feat.npy`` and ``text_feat.npy``.

    Raises:
        InputError: Neither is there, one is a pickle or not a table of numbers, or its rows are not the items.
    """
    found = {name: Path(folder).expanduser() / file for name, file in FEATURE_FILES.items()}
    features = {name: _table(path) for name, path in found.items() if path.exists()}
    if not features:
        raise InputError(f"{folder}: no features there; expected {' or '.join(FEATURE_FILES.values())}.")
    check_features(features, items)
    return features


def ml_100k_folder() -> Path:
    """Where the installed package `recbole` keeps its copy of MovieLens-100k; the package is not imported.

    Raises:
        InputError: It is not installed.
    """
    found = importlib.util.find_spec(PACKAGE)
    for place in (found.submodule_search_locations or ()) if found else ():
        if (Path(place) / ML_100K / "ml-100k.inter").is_file():
            return Path(place) / ML_100K
    raise InputError(
        "ml-100k is read from the package recbole, which is not installed: pip install --no-deps recbole==1.2.1 (the "
        "ratings are GroupLens's, for research only)."
    )


def ml_100k(*, min_rating: float | None = None) -> Log:
    """MovieLens-100k: 943 users, 1,682 films, 100,000 ratings (research only; not part of this package).

    Raises:
        InputError: The package that holds it is not installed.
    """
    return read_log(ml_100k_folder() / "ml-100k.inter", min_rating=min_rating)


def ml_100k_features(interactions: Interactions, seed: int = 0) -> Features:
    """Stand-ins for the features of films, which ml-100k does not have.

    ``text`` is genres as 0 or 1 and the decade as one of several; ``visual`` is a drawn projection of the genres plus
    noise of unit size, so that there are two modalities of which one is poor.

    Args:
        interactions: Of `ml_100k`, whose items are described.
        seed: Draws the projection and the noise.

    Raises:
        InputError: The package that holds it is not installed.
    """
    path = ml_100k_folder() / "ml-100k.item"
    rows = _read_table(path, "\t")
    about = dict(zip(rows["item_id"], zip(rows["class"], rows["release_year"], strict=True), strict=True))
    chosen = [about[name] for name in interactions.item_names]
    genres = _indicators([classes.split() for classes, _ in chosen])
    decades = _indicators([[year[:3]] if year.isdigit() else [] for _, year in chosen])
    generator = torch.Generator().manual_seed(derive_seed(seed, "visual stand-in"))
    projection = torch.randn(genres.shape[1], VISUAL_SIZE, generator=generator)
    visual = genres @ projection + torch.randn(len(genres), VISUAL_SIZE, generator=generator)
    return {"text": torch.cat([genres, decades], 1), "visual": visual}


def _indicators(words: Sequence[Sequence[str]]) -> Tensor:
    """[n, distinct words] float32, 1 where a row has a word."""
    known = {word: i for i, word in enumerate(sorted({w for row in words for w in row}))}
    table = torch.zeros(len(words), len(known))
    for row, own in enumerate(words):
        table[row, [known[w] for w in own]] = 1.0
    return table


def _columns(file: Path) -> dict[str, Sequence[Any]]:
    """The columns there are of `COLUMNS`, by their names there."""
    suffix = file.suffix.lower()
    if suffix not in (*DELIMITERS, ".parquet"):
        raise InputError(f"{file}: interactions are read from {', '.join(DELIMITERS)} and .parquet files.")
    if not file.is_file():
        raise InputError(f"{file}: no such file.")
    table = _read_parquet(file) if suffix == ".parquet" else _read_table(file, DELIMITERS[suffix])
    plain = {name.lower().replace("_", "").replace("-", ""): name for name in table}
    found = {kind: table[plain[name]] for kind, names in COLUMNS.items() if (name := _first(names, plain)) is not None}
    for kind in ("user", "item"):
        if kind not in found:
            raise InputError(
                f"{file}: no column for the {kind}s; expected one called {', '.join(COLUMNS[kind])}, found "
                f"{', '.join(table) or 'none'}."
            )
    if not len(found["user"]):
        raise InputError(f"{file}: no interactions.")
    return found


def _first(names: Iterable[str], among: Iterable[str]) -> str | None:
    return next((name for name in names if name in among), None)


def _read_table(file: Path, delimiter: str) -> dict[str, Sequence[Any]]:
    """Columns of a delimited file by name; RecBole's ``name:type`` loses its type."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read ({type(error).__name__}).") from None
    stream = io.StringIO(text, newline="")
    if delimiter == ",":
        reader = csv.reader(stream, strict=True)
    else:  # tab-separated values have no quotes: a title may begin with one
        reader = csv.reader(stream, delimiter=delimiter, quoting=csv.QUOTE_NONE, strict=True)
    try:
        rows = [row for row in reader if row]
    except csv.Error as error:
        raise InputError(f"{file}, line {reader.line_num}: not a table ({error}).") from None
    if not rows:
        raise InputError(f"{file}: empty.")
    header, *body = rows
    names = [name.split(":")[0].strip() for name in header]
    if len(set(names)) < len(names):
        raise InputError(f"{file}, line 1: two columns of the header have the same name.")
    for number, row in enumerate(body, 1):
        if len(row) != len(names):
            raise InputError(f"{file}, record {number}: {len(row)} values under {len(names)} columns.")
    return {name: [row[i] for row in body] for i, name in enumerate(names)}


def _read_parquet(file: Path) -> dict[str, Sequence[Any]]:
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise InputError(f"{file}: reading Parquet needs the extra 'data': pip install 'expunge[data]'.") from None
    try:
        table: dict[str, Sequence[Any]] = parquet.read_table(file).to_pydict()
    except Exception as error:  # pyarrow raises many kinds for a broken file
        raise InputError(f"{file}: not a readable Parquet file ({type(error).__name__}).") from None
    return table


def _ids(
    values: Sequence[Any], keep: np.ndarray[Any, Any], file: Path, what: str, fixed: bool
) -> tuple[np.ndarray[Any, Any], tuple[str, ...]]:
    """Ids of the kept rows and the names of all ids; fixed ids are the values themselves and have no names."""
    texts = ["" if value is None else str(value).strip() for value in values]
    if "" in texts:
        raise InputError(f"{file}, record {texts.index('') + 1}: no {what}.")
    if fixed:
        wrong = next((i for i, text in enumerate(texts) if not text.isdecimal()), None)
        if wrong is not None:
            raise InputError(f"{file}, record {wrong + 1}: {what} {texts[wrong]!r} must be a whole number from 0.")
        return np.array([int(text) for text in texts], dtype=np.int64)[keep], ()
    distinct = {text for text, kept in zip(texts, keep, strict=True) if kept}
    numeric = all(text.isdecimal() for text in distinct)
    names = sorted(distinct, key=(lambda text: (int(text), text)) if numeric else None)
    place = {name: i for i, name in enumerate(names)}
    ids = [place[text] for text, kept in zip(texts, keep, strict=True) if kept]
    return np.array(ids, dtype=np.int64), tuple(names)


def _numbers(values: Sequence[Any], file: Path, what: str) -> np.ndarray[Any, Any]:
    found = []
    for number, value in enumerate(values, 1):
        try:
            found.append(float(value))
        except (TypeError, ValueError):
            raise InputError(f"{file}, record {number}: {what} {value!r} is not a number.") from None
    return np.array(found)


def _labels(values: Sequence[Any], file: Path) -> np.ndarray[Any, Any]:
    labels = _numbers(values, file, "x_label")
    wrong = np.flatnonzero(~np.isin(labels, (0, 1, 2)))
    if len(wrong):
        raise InputError(
            f"{file}, record {wrong[0] + 1}: x_label {values[int(wrong[0])]!r}; 0 is training, 1 validation, 2 test."
        )
    return labels.astype(np.int64)


def _table(path: Path) -> Tensor:
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: not a table of numbers that can be read safely ({reason}).") from None
    if values.ndim != 2 or values.dtype.kind not in "fiu":
        raise InputError(f"{path}: expected a table [items, F] of numbers, found {values.dtype} {list(values.shape)}.")
    return torch.from_numpy(values.astype(np.float32))
