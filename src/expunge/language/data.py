"""Records of text: reading them from files, and the splits a run works on."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from expunge.errors import InputError

QUESTION_FIELDS = ("question", "prompt", "instruction")
ANSWER_FIELDS = ("answer", "completion", "response", "output")
CLUSTER_FIELDS = ("cluster", "subject", "author", "entity")


@dataclass(frozen=True)
class Record:
    """One thing a model may know.

    Attributes:
        question: What is asked; empty for plain text.
        answer: What is answered, or the text itself.
        cluster: Who or what the record is about, the unit of inference; empty means only itself.
        paraphrased_question: The same question in other words.
        paraphrased_answer: The same answer in other words.
        perturbed_answers: False answers of the same form.
        history: Turns before the question, as (role, content) pairs.
    """

    question: str
    answer: str
    cluster: str = ""
    paraphrased_question: str | None = None
    paraphrased_answer: str | None = None
    perturbed_answers: tuple[str, ...] = ()
    history: tuple[tuple[str, str], ...] = ()

    def asked_otherwise(self) -> Record:
        """The record under its paraphrased question.

        Raises:
            InputError: It has none.
        """
        if self.paraphrased_question is None:
            raise InputError("A paraphrased question was asked for and the record has none.")
        return replace(self, question=self.paraphrased_question, paraphrased_question=None)


Splits = Mapping[str, list[Record]]


def digest(records: Iterable[Record]) -> str:
    """Content hash of records, in order."""
    h = hashlib.blake2b(digest_size=16)
    for record in records:
        h.update(json.dumps(asdict(record), sort_keys=True).encode())
    return h.hexdigest()


def cluster_ids(records: list[Record]) -> list[int]:
    """Cluster number of each record by first appearance; a record without a cluster is one of its own.

    >>> cluster_ids([Record("", "a", "x"), Record("", "b"), Record("", "c", "x")])
    [0, 1, 0]
    """
    seen: dict[str, int] = {}
    return [seen.setdefault(r.cluster or f"\0{i}", len(seen)) for i, r in enumerate(records)]


def require_disjoint(forget: list[Record], other: list[Record], name: str) -> None:
    """Refuse records that stand in both sets.

    Raises:
        InputError: Names how many and the first one's position, never its content.
    """
    known = {(r.question, r.answer) for r in forget}
    shared = [i for i, r in enumerate(other) if (r.question, r.answer) in known]
    if shared:
        raise InputError(
            f"The forget and {name} sets share {len(shared)} records (first: {name} record {shared[0] + 1}). "
            f"Take them out of one of the two."
        )


def read_records(source: str | Path, *, config: str | None = None, split: str = "train") -> list[Record]:
    """Read records from a JSONL, JSON, CSV or Parquet file, or from a hub data set.

    A record is a question with an answer, plain text (field ``text``), or a chat (field ``messages``,
    whose last turn is the answer).

    Args:
        source: File, or hub id if no such file exists.
        config: Hub configuration.
        split: Hub split.

    Raises:
        InputError: Missing or malformed file (names file and line), a record without an answer
            (names file, record and field), no record at all.
    """
    path = Path(source).expanduser()
    if path.suffix.lower() in READERS or path.exists():
        if not path.exists():
            raise InputError(f"{source}: no such file.")
        if path.is_dir():
            raise InputError(f"{source} is a folder; a file with records is needed.")
        reader = READERS.get(path.suffix.lower())
        if reader is None:
            raise InputError(f"{source}: cannot read {path.suffix or 'a file without suffix'}; {', '.join(READERS)}.")
        rows: Iterable[tuple[str, Any]] = reader(path)
    else:
        rows = _read_hub(str(source), config, split)
    records = [to_record(row, where) for where, row in rows]
    if not records:
        raise InputError(f"{source}: no records in it.")
    return records


def to_record(row: Any, where: str) -> Record:
    """Turn one raw row into a record; `where` names it in errors."""
    if not isinstance(row, dict):
        raise InputError(f"{where}: expected an object with fields, found {type(row).__name__}.")
    cluster = _first(row, CLUSTER_FIELDS)
    if "messages" in row:
        return _chat(row["messages"], "" if cluster is None else str(cluster), where)
    if "text" in row and _first(row, ANSWER_FIELDS) is None:
        return Record("", _text(row["text"], "text", where), "" if cluster is None else str(cluster))
    question, answer = _first(row, QUESTION_FIELDS), _first(row, ANSWER_FIELDS)
    if question is None:
        raise InputError(f"{where}: field 'question' is missing (fields: {', '.join(map(str, row)) or 'none'}).")
    if answer is None:
        raise InputError(f"{where}: field 'answer' is missing or empty.")
    wrong = row.get("perturbed_answer", row.get("perturbed_answers")) or ()
    wrong = [wrong] if isinstance(wrong, str) else wrong
    return Record(
        question=_text(question, "question", where),
        answer=_text(answer, "answer", where),
        cluster="" if cluster is None else str(cluster),
        paraphrased_question=_optional(row, "paraphrased_question", where),
        paraphrased_answer=_optional(row, "paraphrased_answer", where),
        perturbed_answers=tuple(_text(w, "perturbed_answer", where) for w in wrong),
    )


def _first(row: dict[str, Any], names: tuple[str, ...]) -> Any:
    return next((row[n] for n in names if row.get(n) not in (None, "")), None)


def _text(value: Any, field: str, where: str) -> str:
    if not isinstance(value, str):
        raise InputError(f"{where}: field {field!r} must be text, found {type(value).__name__}.")
    if not value.strip():
        raise InputError(f"{where}: field {field!r} is empty.")
    return value


def _optional(row: dict[str, Any], field: str, where: str) -> str | None:
    return None if row.get(field) in (None, "") else _text(row[field], field, where)


def _chat(messages: Any, cluster: str, where: str) -> Record:
    if not isinstance(messages, list) or len(messages) < 2:
        raise InputError(f"{where}: field 'messages' must be a list of at least a question and an answer.")
    turns = []
    for i, turn in enumerate(messages):
        if not isinstance(turn, dict) or not isinstance(turn.get("role"), str):
            raise InputError(f"{where}: messages[{i}] needs the fields 'role' and 'content'.")
        turns.append((turn["role"], _text(turn.get("content"), f"messages[{i}].content", where)))
    if turns[-1][0] != "assistant" or turns[-2][0] != "user":
        raise InputError(f"{where}: the last two turns of 'messages' must be the user's and the assistant's.")
    return Record(turns[-2][1], turns[-1][1], cluster, history=tuple(turns[:-2]))


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, line
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start}).") from None


def _read_jsonl(path: Path) -> Iterator[tuple[str, Any]]:
    for number, line in _lines(path):
        try:
            yield f"{path}, line {number}", json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply"
            raise InputError(f"{path}, line {number}: not JSON ({reason}).") from None


def _read_json(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}, line {error.lineno}: not JSON ({error.msg}).") from None
    except (UnicodeDecodeError, RecursionError):
        raise InputError(f"{path}: not readable as JSON in UTF-8.") from None
    if not isinstance(rows, list):
        raise InputError(f"{path}: expected a list of records, found {type(rows).__name__}.")
    return ((f"{path}, record {i}", row) for i, row in enumerate(rows, 1))


def _read_csv(path: Path) -> Iterator[tuple[str, Any]]:
    reader = csv.DictReader(line for _, line in _lines(path))
    try:
        for i, row in enumerate(reader, 1):
            if None in row:
                raise InputError(f"{path}, record {i}: more values than the header has columns.")
            yield f"{path}, record {i}", row
    except csv.Error as error:
        raise InputError(f"{path}, record {reader.line_num}: not CSV ({error}).") from None


def _read_parquet(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise InputError(f"{path}: reading Parquet needs the extra 'data': pip install 'expunge[data]'.") from None
    try:
        rows = parquet.read_table(path).to_pylist()
    except Exception as error:  # pyarrow raises many kinds for a broken file
        raise InputError(f"{path}: not a readable Parquet file ({type(error).__name__}).") from None
    return ((f"{path}, record {i}", row) for i, row in enumerate(rows, 1))


def _read_hub(name: str, config: str | None, split: str) -> Iterator[tuple[str, Any]]:
    try:
        import datasets
    except ImportError:
        raise InputError(
            f"{name}: no such file; to read it as a hub data set install the extra 'data': pip install 'expunge[data]'."
        ) from None
    try:
        rows = datasets.load_dataset(name, config, split=split)
    except Exception as error:  # network, name, config: the library raises a zoo of errors
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{name}: neither a file nor a hub data set that can be loaded ({reason}).") from None
    return ((f"{name} ({config or 'default'}), record {i}", dict(row)) for i, row in enumerate(rows, 1))


READERS = {".jsonl": _read_jsonl, ".json": _read_json, ".csv": _read_csv, ".parquet": _read_parquet}
