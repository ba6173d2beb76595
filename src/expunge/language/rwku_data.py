"""Reading RWKU: targets, probes, texts and corpora, from the hub, a folder of its layout, or one file of probes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from expunge.errors import InputError
from expunge.language.data import READERS, Record
from expunge.language.wmdp_data import is_local, rows_of

Side = Literal["forget", "neighbor"]

HUB = "jinzhuoran/RWKU"
SPLITS = {"forget_target": "train"}  # the corpora too; everything else is "test"
PROBES = {
    "forget": ("forget_level1", "forget_level2", "forget_level3"),
    "neighbor": ("neighbor_level1", "neighbor_level2"),
}
TEXTS = {"forget_mia": "mia_forget", "retain_mia": "mia_retain"}  # split of ours, configuration of theirs
CORPORA = ("positive", "negative", "pair", "refusal")
PASSAGES = "train_original_passage"

PARTS = {"1": "fb", "2": "qa", "3": "aa"}  # fill in the blank, question and answer, adversarial attack
ADVERSARIAL = (
    "prefix injection",
    "affirmative suffix",
    "role playing",
    "multiple choice",
    "reverse query",
    "synonym manipulation",
    "context hint",
    "in-context learning",
    "cross lingual",
)
OTHER_NAMES = {"background hint": "context hint"}
COUNTS = {"fb": 3268, "qa": 2879, "aa": 6984}  # forget probes of the 200 targets


@dataclass(frozen=True)
class Probe:
    """One probe.

    Attributes:
        side: ``forget`` or ``neighbor``.
        part: ``fb``, ``qa`` or ``aa``.
        kind: One of the nine adversarial types; empty for the other parts.
        query: What is asked.
        answer: The right answer.
        subject: The target.
    """

    side: Side
    part: str
    kind: str
    query: str
    answer: str
    subject: str


# -- rows ---------------------------------------------------------------------------------------------


def config_rows(path: str, config: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of one configuration, each under its name for errors.

    Raises:
        InputError: Nothing readable there, or a row that is no object.
    """
    split = SPLITS.get(config, "train" if config.startswith("train_") else "test")
    for where, row in rows_of(path, config, split):
        if not isinstance(row, dict):
            raise InputError(f"{where}: expected an object with fields, found {type(row).__name__}.")
        yield where, row


def has_config(path: str, config: str) -> bool:
    """Whether a configuration is there to be read; the hub has them all."""
    folder = Path(path).expanduser()
    return not is_local(path) or any((folder / f"{config}{suffix}").is_file() for suffix in READERS)


def text_of(row: dict[str, Any], field: str, where: str) -> str:
    """A field that must hold text.

    Raises:
        InputError: It does not.
    """
    value = row.get(field)
    if not isinstance(value, str) or not value.strip():
        found = "is missing or empty" if value is None or value == "" else f"must be text, found {value!r}"
        raise InputError(f"{where}: field {field!r} {found}.")
    return value


def _probe(row: dict[str, Any], side: str, where: str, level: str = "") -> Probe:
    """One probe, checked; `level` is the one its file holds, if it holds one."""
    subject = text_of(row, "subject", where)
    found = str(row.get("level"))
    if found not in PARTS or (side == "neighbor" and found == "3"):
        allowed = "1 or 2" if side == "neighbor" else "1, 2 or 3"
        raise InputError(f"{where}: field 'level' must be {allowed}; found {row.get('level')!r}.")
    if level and found != level:
        raise InputError(f"{where}: field 'level' must be {level} in this file; found {row['level']!r}.")
    kind = adversarial_kind(row.get("type"), where) if found == "3" else ""
    query, answer = text_of(row, "query", where), text_of(row, "answer", where)
    return Probe("forget" if side == "forget" else "neighbor", PARTS[found], kind, query, answer, subject)


def adversarial_kind(value: Any, where: str) -> str:
    """One of the nine types, by any of the spellings in use (``incontext learning``, ``background hint``).

    Raises:
        InputError: Another one.
    """
    known = {_letters(name): name for name in ADVERSARIAL}
    known |= {_letters(name): meant for name, meant in OTHER_NAMES.items()}
    name = known.get(_letters(value))
    if name is None:
        raise InputError(
            f"{where}: field 'type' must be one of the nine adversarial types ({', '.join(ADVERSARIAL)}); found "
            f"{value!r}."
        )
    return name


def _letters(value: Any) -> str:
    return "".join(c for c in str(value).lower() if c.isalpha())


# -- probes and targets -------------------------------------------------------------------------------


def read_probes(path: str) -> list[Probe]:
    """All probes of the hub data set, of a folder with one file per configuration, or of one file.

    Rows of a single file say in their field ``set`` whether they are ``forget`` or ``neighbor`` probes.

    Raises:
        InputError: Nothing readable, a row that is no probe (named), or no forget probe at all.
    """
    if is_local(path) and not Path(path).expanduser().is_dir():
        probes = [_probe(_row(row, where), _side(row, where), where) for where, row in rows_of(path, None, "test")]
    else:
        probes = [
            _probe(row, side, where, config[-1])
            for side, configs in PROBES.items()
            for config in configs
            for where, row in config_rows(path, config)
        ]
    if not any(p.side == "forget" for p in probes):
        raise InputError(f"{path}: no forget probes in it.")
    return probes


def _row(row: Any, where: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise InputError(f"{where}: expected an object with fields, found {type(row).__name__}.")
    return row


def _side(row: Any, where: str) -> str:
    if not isinstance(row, dict) or row.get("set") not in PROBES:
        found = row.get("set") if isinstance(row, dict) else row
        raise InputError(f"{where}: field 'set' must be 'forget' or 'neighbor'; found {found!r}.")
    return str(row["set"])


def count_parts(probes: Iterable[Probe]) -> dict[tuple[str, str], int]:
    """How many probes there are of each side and part."""
    return dict(Counter((p.side, p.part) for p in probes))


def read_introductions(path: str, config: str | None = "forget_target") -> dict[str, str]:
    """Target to its one-sentence introduction, in the order of the file.

    Args:
        path: Hub id, folder, or with `config` None a file.
        config: Their configuration.

    Raises:
        InputError: A row without both (named), or a target that stands there twice.
    """
    found: dict[str, str] = {}
    rows = rows_of(path, None, "train") if config is None else config_rows(path, config)
    for where, raw in rows:
        row = _row(raw, where)
        name = text_of(row, "target", where)
        if name in found:
            raise InputError(f"{where}: the target {name!r} stands in the file twice.")
        found[name] = text_of(row, "intro", where)
    return found


def choose_targets(wanted: int | tuple[str, ...], known: list[str], seed: int, path: str) -> list[str]:
    """The targets asked for: names, a number drawn with the seed, or 0 for all, in the order of the data.

    Raises:
        InputError: A name nothing is known about (the nearest names are offered), one twice, or too many.
    """
    if isinstance(wanted, int):
        if not 0 <= wanted <= len(known):
            raise InputError(
                f"rwku: targets={wanted} must lie between 0 (all) and {len(known)}, as many as {path} has."
            )
        if wanted == 0:
            return known
        import numpy as np

        picked = set(np.random.default_rng([seed, len(known)]).permutation(len(known))[:wanted].tolist())
        return [name for i, name in enumerate(known) if i in picked]
    for name in wanted:
        if name not in known:
            raise InputError(f"rwku: {path} holds no probes about the target {name!r}.{_similar(name, known)}")
        if wanted.count(name) > 1:
            raise InputError(f"rwku: targets={list(wanted)}: {name!r} stands in the list twice.")
    if not wanted:
        raise InputError("rwku: targets=[] names nobody; 0 stands for all.")
    return [name for name in known if name in wanted]


def _similar(name: str, known: list[str], count: int = 3) -> str:
    """The names nearest to a misspelt one, whatever their case."""
    import difflib

    folded = {k.casefold(): k for k in known}
    close = [folded[k] for k in difflib.get_close_matches(name.casefold(), folded, n=count, cutoff=0.5)]
    return f" Did you mean {' or '.join(repr(k) for k in close)}?" if close else f" The first is {known[0]!r}."


# -- texts and corpora --------------------------------------------------------------------------------


def read_texts(path: str, config: str, targets: list[str]) -> list[Record]:
    """Plain texts about some targets (field ``text``): the membership sets and the passages.

    Raises:
        InputError: A row without its target or its text (named).
    """
    wanted = set(targets)
    found = []
    for where, row in config_rows(path, config):
        if text_of(row, "subject", where) in wanted:
            found.append(Record("", text_of(row, "text", where), row["subject"]))
    return found


def read_pairs(path: str, config: str, targets: list[str]) -> list[tuple[Record, str]]:
    """Preference pairs (``prompt``, ``response``: counterfactual, factual): the factual record, and the other text.

    Raises:
        InputError: A row that is no such pair (named).
    """
    wanted, found = set(targets), []
    for where, row in config_rows(path, config):
        both = row.get("response")
        if not isinstance(both, list) or len(both) != 2 or not all(isinstance(t, str) and t.strip() for t in both):
            raise InputError(f"{where}: field 'response' must hold two texts, the counterfactual and the factual one.")
        if text_of(row, "subject", where) in wanted:
            found.append((Record(text_of(row, "prompt", where), both[1], row["subject"]), both[0]))
    return found


def read_refusals(path: str, config: str, targets: list[str]) -> list[Record]:
    """Questions with refusals (``instruction``, ``output``).

    Raises:
        InputError: A row without them (named).
    """
    wanted, found = set(targets), []
    for where, row in config_rows(path, config):
        if text_of(row, "subject", where) in wanted:
            question, answer = text_of(row, "instruction", where), text_of(row, "output", where)
            found.append(Record(question, answer, row["subject"]))
    return found
