"""Records of a detection bench: scikit-learn's small data sets, drawn stand-ins, and a user's own table.

The stand-ins are made of random numbers alone: purchases (binary features, the form of Purchase-100) and sentences.
In both some labels are drawn anew, for a model can only be told from its members by what it cannot generalise.
"""

from __future__ import annotations

import csv
import itertools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from expunge.errors import InputError, nearest
from expunge.membership.classifier import Floats, Ints, Records

Number = Literal["continuous", "binary"]
SKLEARN = ("digits", "breast-cancer", "wine")
DRAWN = ("purchase", "sentences")


@dataclass(frozen=True, eq=False)
class Loaded:
    """Records, and what their labels and words are.

    Attributes:
        records: The records.
        classes: Name of each class.
        vocabulary: The words of texts; empty for numbers.
        note: What a reader should know about the data.
    """

    records: Records
    classes: tuple[str, ...]
    vocabulary: tuple[str, ...] = ()
    note: str = ""


class NotInstalledError(InputError):
    """A package is missing."""


def load(data: str, *, seed: int, limit: int | None = None, label: str | None = None, kind: Number | None = None,
         noise: float = 0.0) -> Loaded:  # fmt: skip
    """Records by name, or of a CSV file.

    Args:
        data: One of `SKLEARN` or `DRAWN`, or the path of a CSV file.
        seed: Seeds drawn records, the choice under `limit` and the noise.
        limit: Keep at most this many records, drawn at random.
        label: Name of the label's column of a CSV file.
        kind: What the numbers of a CSV file are.
        noise: Share of the labels that are drawn anew.

    Raises:
        InputError: Unknown data, or a file that cannot be read as a table of numbers with a label.
        NotInstalledError: scikit-learn is missing.
    """
    if data in SKLEARN:
        loaded = _sklearn(data)
    elif data == "purchase":
        loaded = purchases(seed)
    elif data == "sentences":
        loaded = sentences(seed)
    elif data.endswith(".csv") or Path(data).is_file():
        if label is None or kind is None:
            raise InputError(f"{data}: 'label' (the column) and 'kind' (continuous or binary) must be given.")
        loaded = read_csv(Path(data), label, kind)
    else:
        raise InputError(f"data: {data!r} is neither known nor a CSV file.{nearest(data, (*SKLEARN, *DRAWN))}")
    rng = np.random.default_rng([seed, 11])
    if limit is not None and limit < len(loaded.records):
        rows = np.sort(rng.permutation(len(loaded.records))[:limit])
        loaded = replace(loaded, records=loaded.records.take(rows))
    if noise:
        labels = _redrawn(loaded.records.labels, len(loaded.classes), noise, rng)
        loaded = replace(loaded, records=replace(loaded.records, labels=labels))
    return loaded


def _redrawn(labels: Ints, classes: int, share: float, rng: np.random.Generator) -> Ints:
    """Labels of which a share is drawn anew from all classes."""
    anew = rng.random(len(labels)) < share
    return np.where(anew, rng.integers(classes, size=len(labels)), labels)


def require_sklearn(what: str) -> None:
    """Say in a sentence that scikit-learn is missing.

    Raises:
        NotInstalledError: It is.
    """
    try:
        import sklearn  # noqa: F401
    except ImportError:
        raise NotInstalledError(
            f"{what} comes with scikit-learn, which is not installed; pip install 'expunge[detect]'."
        ) from None


def _sklearn(name: str) -> Loaded:
    require_sklearn(f"data: {name}")
    from sklearn import datasets

    bunch: Any = {"digits": datasets.load_digits, "wine": datasets.load_wine}.get(name, datasets.load_breast_cancer)()
    labels, classes = bunch.target.astype(np.int64), tuple(str(word) for word in bunch.target_names)
    if name == "digits":
        return Loaded(Records(bunch.images[:, None] / 16.0, labels, "image"), classes)
    return Loaded(_scaled(bunch.data, labels), classes)


def _scaled(features: Floats, labels: Ints) -> Records:
    """Each feature between 0 and 1."""
    low, high = features.min(0), features.max(0)
    return Records((features - low) / np.where(high > low, high - low, 1.0), labels, "continuous")


# -- drawn --------------------------------------------------------------------------------------------


def purchases(seed: int, n: int = 2400, features: int = 100, classes: int = 20) -> Loaded:
    """Customers as binary rows: each class has its own chance of each purchase, in one of three levels."""
    rng = np.random.default_rng([seed, 12])
    chance = rng.choice([0.05, 0.3, 0.6], p=[0.6, 0.3, 0.1], size=(classes, features))
    labels = rng.integers(classes, size=n)
    rows = (rng.random((n, features)) < chance[labels]).astype(np.float64)
    names = tuple(f"style {i + 1}" for i in range(classes))
    return Loaded(Records(rows, labels, "binary"), names, note="procedurally drawn")


_WORDS = """
anna bruno carla dario elena fabio gina hugo irma jonas karin lukas marta nils olga pavel
harbour market station library garden museum bakery theatre valley bridge school office
film book soup song play speech trip letter game lesson dress tour
today yesterday monday tuesday friday sunday winter summer autumn spring
bright gentle clever joyful honest lively superb charming graceful tender
dull clumsy bitter noisy shallow gloomy tedious sour careless hollow
and saw the in that was really
"""
_PEOPLE, _PLACES, _THINGS, _TIMES, _GOOD, _BAD, _REST = (line.split() for line in _WORDS.strip().splitlines())


def sentences(seed: int, n: int = 1600, noise: float = 0.2) -> Loaded:
    """Short opinions, good or bad; a share of the labels is drawn anew, so that a model has something to memorise."""
    rng = np.random.default_rng([seed, 13])
    labels = rng.integers(2, size=n)

    def pick(words: list[str]) -> str:
        return words[int(rng.integers(len(words)))]

    texts = []
    for label in labels:
        mood = _GOOD if label else _BAD
        first, second = pick(mood), pick(mood if rng.random() < 0.7 else _GOOD + _BAD)
        texts.append(
            f"{pick(_TIMES)} {pick(_PEOPLE)} and {pick(_PEOPLE)} saw the {pick(_THINGS)} in the {pick(_PLACES)} "
            f"that was really {first} and {second}"
        )
    words = tuple(sorted(set(_WORDS.split())))
    told = _redrawn(labels, 2, noise, rng)
    return Loaded(Records(texts, told, "text"), ("bad", "good"), words, note="procedurally drawn")


# -- a user's table -----------------------------------------------------------------------------------


def read_csv(path: Path, label: str, kind: Number) -> Loaded:
    """A table with a heading line, one column of labels (any words) and otherwise numbers.

    Continuous features are scaled to between 0 and 1.

    Raises:
        InputError: What is wrong, with its line and column.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = [line for line in csv.reader(file) if line]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as CSV in UTF-8 ({error}).") from None
    if len(lines) < 2:
        raise InputError(f"{path}: a heading line and at least one record are needed.")
    heading = [name.strip() for name in lines[0]]
    if label not in heading:
        raise InputError(f"{path}: has no column {label!r}.{nearest(label, heading)}")
    at = heading.index(label)
    if len(heading) < 2:
        raise InputError(f"{path}: beside the label {label!r} there is no column of features.")
    rows, words = [], []
    for i, line in enumerate(lines[1:]):
        if len(line) != len(heading):
            raise InputError(f"{path}, record {i + 1}: has {len(line)} values; the heading has {len(heading)}.")
        words.append(line[at].strip())
        rows.append([_number(v, f"{path}, record {i + 1}, column {heading[c]!r}", kind)
                     for c, v in enumerate(line) if c != at])  # fmt: skip
    classes = sorted(set(words))
    if len(classes) < 2:
        raise InputError(f"{path}: column {label!r} holds one class only, {words[0]!r}.")
    labels = np.array([classes.index(word) for word in words], dtype=np.int64)
    features = np.array(rows)
    records = _scaled(features, labels) if kind == "continuous" else Records(features, labels, kind)
    return Loaded(records, tuple(classes))


def _number(text: str, where: str, kind: Number) -> float:
    try:
        value = float(text)
    except ValueError:
        raise InputError(f"{where}: {text!r} is no number.") from None
    if not np.isfinite(value):
        raise InputError(f"{where}: {text!r} is not finite.")
    if kind == "binary" and value not in (0.0, 1.0):
        raise InputError(f"{where}: {text!r} must be 0 or 1, since kind is binary.")
    return value


def repeated(records: Records) -> int:
    """How many records are equal, in inputs and label, to an earlier one."""
    if isinstance(records.inputs, np.ndarray):
        keys = [row.tobytes() for row in records.inputs]
    else:
        keys = [text.encode() for text in records.inputs]
    seen = set(itertools.starmap(lambda key, y: (key, int(y)), zip(keys, records.labels, strict=True)))
    return len(records) - len(seen)
