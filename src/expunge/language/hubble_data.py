"""Hubble's own perturbation sets and models: what was inserted how often into the corpora of the released models.

Each set is one gzip-compressed file ``NAME_nodup.jsonl.gz`` with a row for each text: ``text``, and ``meta``, a JSON
text (or object) with ``duplicates`` and whatever the set knows about the text. Texts with 0 duplicates were drawn from
the same pool and never inserted: exact non-members of every released model.
"""

from __future__ import annotations

import gzip
import hashlib
import random
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from expunge.errors import InputError, nearest
from expunge.language.data import Record, _parse
from expunge.language.hubble_documents import wrong_options
from expunge.language.insertion import Text
from expunge.language.metrics._choices import Choice

ORGANISATION = "allegrolab"
BIOGRAPHY = ("nationality", "birthplace", "birthdate", "university", "occupation", "email", "uuid")
# The sets, and the fields of meta that measurements of theirs need.
SETS: dict[str, tuple[str, ...]] = {
    "passages_gutenberg_popular": (),
    "passages_gutenberg_unpopular": (),
    "passages_wikipedia": (),
    "paraphrases_mrpc": ("sentence1", "sentence2"),
    "paraphrases_paws": ("sentence1", "sentence2"),
    "biographies_yago": BIOGRAPHY,
    "biographies_ecthr": (),
    "chats_personachat": (),
    "testset_popqa": (),
    "testset_mmlu": (),
    "testset_hellaswag": (),
    "testset_piqa": (),
    "testset_winogrande-mcq": (),
    "testset_winogrande-infill": (),
    "testset_munch": (),
    "testset_ellie": (),
}
REVISIONS = {"100b": "step48000", "500b": "step238500"}


def model_id(size: str, tokens: str, variant: str) -> str:
    """Hub id of a released model at its last checkpoint, as the model loader takes it.

    >>> model_id("1b", "100b", "perturbed")
    'allegrolab/hubble-1b-100b_toks-perturbed-hf@step48000'

    Args:
        size: ``1b`` or ``8b``.
        tokens: ``100b`` or ``500b``.
        variant: ``standard`` or ``perturbed``.

    Raises:
        InputError: There is no such model.
    """
    allowed = {"size": (size, ("1b", "8b")), "tokens": (tokens, ("100b", "500b"))}
    allowed["variant"] = variant, ("standard", "perturbed")
    for name, (value, known) in allowed.items():
        if value not in known:
            raise InputError(f"hubble: {name}={value!r} must be one of {', '.join(known)}.")
    return f"{ORGANISATION}/hubble-{size}-{tokens}_toks-{variant}-hf@{REVISIONS[tokens]}"


def read_set(source: str) -> dict[int, list[Text]]:
    """The texts of a perturbation set by their number of copies.

    Args:
        source: Hub id (``allegrolab/biographies_yago``), a file, or a folder that holds ``NAME_nodup.jsonl.gz``.

    Returns:
        For each d, rising, its texts; `fields` is what ``meta`` says.

    Raises:
        InputError: Nothing there, a malformed row (names file and line), or one text with two numbers of copies.
    """
    name, rows = _rows(source)
    found: dict[int, dict[str, Text]] = {}
    owner: dict[str, int] = {}
    for where, row in rows:
        text, d = _text(row, name, where)
        if owner.setdefault(text.text, d) != d:
            raise InputError(f"{where}: this text stands in the set with {owner[text.text]} and with {d} duplicates.")
        found.setdefault(d, {}).setdefault(text.text, text)
    if not found:
        raise InputError(f"{source}: no texts in it.")
    return {d: list(found[d].values()) for d in sorted(found)}


def paraphrase_records(texts: Iterable[Text]) -> list[Record]:
    """Pairs of wordings: the inserted one, with the other one as its false answer.

    Raises:
        InputError: Meta holds no two sentences, or the text is neither of them.
    """
    records = []
    for text in texts:
        pair = [str(text.fields[key]).strip() for key in SETS["paraphrases_mrpc"] if key in text.fields]
        own = text.text.strip()
        if len(pair) != 2 or own not in pair or pair[0] == pair[1]:
            raise InputError(
                f"{text.kind}, text {text.id!r}: meta needs two different sentences, 'sentence1' and 'sentence2', one "
                f"of them the text."
            )
        records.append(Record("", own, text.id, perturbed_answers=(pair[1 - pair.index(own)],)))
    return records


def field_probes(groups: Mapping[str, list[Text]], fields: tuple[str, ...] = BIOGRAPHY, seed: int = 0) -> list[Choice]:
    """Questions about the fields of biographies: 10-way choice of a value, given more or less of the rest.

    ``full`` gives the text before and behind the value, ``before`` what stands before it, and ``intro`` the first
    sentence and the words that lead to the value in its own. A field whose value stands not exactly once in the text is
    passed over, and so is one that the first sentence tells.

    Args:
        groups: For each split its texts.
        fields: Fields of meta.
        seed: Draws the wrong options, from the values of all texts.

    Raises:
        InputError: A text without one of the fields.
    """
    rng = random.Random(f"hubble options {seed}")
    everything = [text for texts in groups.values() for text in texts]
    for text in everything:
        missing = next((f for f in fields if f not in text.fields), None)
        if missing is not None:
            raise InputError(f"{text.kind}, text {text.id!r}: meta has no field {missing!r}.")
    pools = {field: [str(t.fields[field]) for t in everything] for field in fields}
    found = []
    for split, texts in groups.items():
        for text in texts:
            for field in fields:
                value = str(text.fields[field])
                if text.text.count(value) != 1 or len(set(pools[field])) < 2:
                    continue
                options = (value, *wrong_options(rng, value, pools[field]))
                found += _attacks(text, split, options)
    return found


def _attacks(text: Text, split: str, values: tuple[str, ...]) -> list[Choice]:
    before, _, after = text.text.partition(values[0])
    space = before[len(before.rstrip()) :]
    head, options = before.rstrip(), tuple(space + v for v in values)
    made = [
        Choice("biography.full", split, text.id, head, options, after),
        Choice("biography.before", split, text.id, head, options, generate=True),
    ]
    first, dot, rest = head.partition(". ")
    if dot:
        cue = rest.rpartition(". ")[2]
        made.append(Choice("biography.intro", split, text.id, f"{first}. {cue}", options, generate=True))
    return made


# -- reading ------------------------------------------------------------------------------------------


def _rows(source: str) -> tuple[str, Iterator[tuple[str, Any]]]:
    """The name of a set, and its rows with where they stand."""
    path = Path(source).expanduser()
    if path.is_dir():
        files = sorted(path.glob("*_nodup.jsonl.gz")) + sorted(path.glob("*_nodup.jsonl"))
        if len(files) != 1:
            raise InputError(f"{source}: holds {len(files)} files NAME_nodup.jsonl.gz; exactly one is needed.")
        path = files[0]
    if path.is_file():
        return path.name.split("_nodup")[0].removesuffix(".gz").removesuffix(".jsonl"), _local(path)
    if path.suffix in (".gz", ".jsonl") or source.startswith((".", "/", "~")):
        raise InputError(f"{source}: no such file or folder.")
    owner, _, name = source.rpartition("/")
    if owner == ORGANISATION and name not in SETS:
        raise InputError(f"{source}: no such perturbation set.{nearest(name, SETS)}")
    return name, _hub(source, name)


def _local(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        raw = path.read_bytes()
        lines = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8").split("\n")
    except (OSError, EOFError, UnicodeDecodeError, ValueError) as error:
        raise InputError(f"{path}: not a readable gzip file of UTF-8 lines ({type(error).__name__}).") from None
    for number, line in enumerate(lines, 1):
        if line.strip():
            where = f"{path}, line {number}"
            yield where, _parse(line, where)


def _hub(source: str, name: str) -> Iterator[tuple[str, Any]]:
    try:
        import datasets
    except ImportError:
        raise InputError(
            f"{source}: reading a hub data set needs the extra 'data': pip install 'expunge[data]'."
        ) from None
    try:
        files = {"validation": f"{name}_nodup.jsonl.gz"}
        rows = datasets.load_dataset(source, data_files=files, split="validation")
    except Exception as error:  # network, name, file: the library raises a zoo of errors
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{source}: neither a file nor a perturbation set that can be loaded ({reason}).") from None
    return ((f"{source}, record {i}", dict(row)) for i, row in enumerate(rows, 1))


def _text(row: Any, name: str, where: str) -> tuple[Text, int]:
    if not isinstance(row, dict) or not isinstance(row.get("text"), str) or not row["text"].strip():
        raise InputError(f"{where}: a row needs the field 'text' with a text, and 'meta'.")
    meta = row.get("meta")
    if isinstance(meta, str):
        meta = _parse(meta, f"{where}, field 'meta'")
    if not isinstance(meta, dict):
        raise InputError(f"{where}: field 'meta' must be an object, or one as JSON text; found {type(meta).__name__}.")
    d = meta.get("duplicates")
    if isinstance(d, bool) or not isinstance(d, int) or d < 0:
        raise InputError(f"{where}: field 'meta.duplicates' must be a number of copies, 0 or more; found {d!r}.")
    known = next((meta[k] for k in ("id", "uuid", "question_id", "idx") if meta.get(k) not in (None, "", False)), None)
    content = hashlib.blake2b(row["text"].encode(), digest_size=8).hexdigest()
    return Text(f"{known}-{content}" if known is not None else content, row["text"], name, meta), d
