"""Records of text: reading them from files, and the splits a run works on."""

from __future__ import annotations

import codecs
import csv
import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from expunge.errors import InputError

QUESTION_FIELDS = ("question", "prompt", "instruction")
ANSWER_FIELDS = ("answer", "completion", "response", "output")
CLUSTER_FIELDS = ("cluster", "subject", "author", "entity")
PERTURBED_FIELDS = ("perturbed_answer", "perturbed_answers")


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
        topic: Which of several things to be forgotten it belongs to, for methods that tell them apart.
        prefill: What the assistant's turn begins with, already written; the answer goes on from it.
    """

    question: str
    answer: str
    cluster: str = ""
    paraphrased_question: str | None = None
    paraphrased_answer: str | None = None
    perturbed_answers: tuple[str, ...] = ()
    history: tuple[tuple[str, str], ...] = ()
    topic: str = ""
    prefill: str = ""

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
        fields = {name: value for name, value in vars(record).items() if name != "prefill" or value}
        h.update(json.dumps(fields, sort_keys=True).encode())
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
    try:
        path = Path(source).expanduser()
        exists = path.exists()
    except (OSError, RuntimeError, ValueError) as error:  # a name too long, an unknown ~user, a NUL byte
        raise InputError(f"{source}: not a usable file name ({type(error).__name__}).") from None
    if path.suffix.lower() in READERS or exists:
        if not exists:
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
    cluster = _cluster(row, where)
    if "messages" in row:
        return _chat(row["messages"], cluster, where)
    question, answer = _first(row, QUESTION_FIELDS), _first(row, ANSWER_FIELDS)
    if "text" in row and answer is None:
        return Record("", _text(row["text"], "text", where), cluster, topic=_optional(row, "topic", where) or "")
    # The fields found are not listed: in a CSV file without a header they are the first record.
    if question is None:
        allowed = ", ".join(QUESTION_FIELDS)
        raise InputError(f"{where}: field 'question' is missing or empty (one of {allowed}, or 'text', or 'messages').")
    if answer is None:
        raise InputError(f"{where}: field 'answer' is missing or empty (one of {', '.join(ANSWER_FIELDS)}).")
    return Record(
        question=_text(question, "question", where),
        answer=_text(answer, "answer", where),
        cluster=cluster,
        paraphrased_question=_optional(row, "paraphrased_question", where),
        paraphrased_answer=_optional(row, "paraphrased_answer", where),
        perturbed_answers=_perturbed(row, where),
        topic=_optional(row, "topic", where) or "",
    )


def _cluster(row: dict[str, Any], where: str) -> str:
    value = _first(row, CLUSTER_FIELDS)
    if value is None:
        return ""
    if isinstance(value, int) and not isinstance(value, bool):  # authors are often numbered
        return str(value)
    return _text(value, "cluster", where)


def _perturbed(row: dict[str, Any], where: str) -> tuple[str, ...]:
    value = _first(row, PERTURBED_FIELDS)
    if value is None:
        return ()
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list):
        raise InputError(f"{where}: field 'perturbed_answer' must be a list of texts, found {type(value).__name__}.")
    return tuple(_text(v, f"perturbed_answer[{i}]", where) for i, v in enumerate(value))


def _first(row: dict[str, Any], names: tuple[str, ...]) -> Any:
    return next((row[n] for n in names if row.get(n) not in (None, "")), None)


def _text(value: Any, field: str, where: str) -> str:
    if not isinstance(value, str):
        raise InputError(f"{where}: field {field!r} must be text, found {type(value).__name__}.")
    if not value.strip():
        raise InputError(f"{where}: field {field!r} is empty.")
    if any("\ud800" <= c <= "\udfff" for c in value):
        raise InputError(f"{where}: field {field!r} holds half a surrogate pair, which is no character.")
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
        turns.append(
            (
                _text(turn["role"], f"messages[{i}].role", where),
                _text(turn.get("content"), f"messages[{i}].content", where),
            )
        )
    if turns[-1][0] != "assistant" or turns[-2][0] != "user":
        raise InputError(f"{where}: the last two turns of 'messages' must be the user's and the assistant's.")
    return Record(turns[-2][1], turns[-1][1], cluster, history=tuple(turns[:-2]))


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes().removeprefix(codecs.BOM_UTF8)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}).") from None


def _decode(raw: bytes, where: str) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not UTF-8 text ({error.reason} at byte {error.start + 1}).") from None


def _parse(text: str, where: str) -> Any:
    """JSON without the silent choices of the standard parser."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) < len(pairs):
            raise InputError(f"{where}: a field stands twice in one object.")
        return dict(pairs)

    def constant(name: str) -> Any:
        raise InputError(f"{where}: {name} is not JSON.")

    try:
        return json.loads(text, object_pairs_hook=unique, parse_constant=constant)
    except json.JSONDecodeError as error:
        at = f", line {error.lineno}" if "\n" in text else ""
        raise InputError(f"{where}{at}: not JSON ({error.msg}).") from None
    except RecursionError:
        raise InputError(f"{where}: not JSON (nested too deeply).") from None
    except ValueError:
        raise InputError(f"{where}: not JSON (a number with too many digits).") from None


def _read_jsonl(path: Path) -> Iterator[tuple[str, Any]]:
    for number, raw in enumerate(_bytes(path).split(b"\n"), 1):
        where = f"{path}, line {number}"
        line = _decode(raw, where).strip()
        if line:
            yield where, _parse(line, where)


def _read_json(path: Path) -> Iterator[tuple[str, Any]]:
    rows = _parse(_decode(_bytes(path), str(path)), str(path))
    if not isinstance(rows, list):
        raise InputError(f"{path}: expected a list of records, found {type(rows).__name__}.")
    return ((f"{path}, record {i}", row) for i, row in enumerate(rows, 1))


def _read_csv(path: Path) -> Iterator[tuple[str, Any]]:
    text = _decode(_bytes(path), str(path))
    # strict: a quote that is never closed would otherwise swallow the rest of the file in silence
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        names = reader.fieldnames or ()
        if len(set(names)) < len(names):
            raise InputError(f"{path}, line 1: two columns of the header have the same name.")
        for i, row in enumerate(reader, 1):
            if None in row:
                raise InputError(f"{path}, record {i}: more values than the header has columns.")
            yield f"{path}, record {i}", row
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.reader.line_num}: not CSV ({error}).") from None


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
