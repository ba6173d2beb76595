"""Reading WMDP: questions, the corpora that are forgotten and kept, and MMLU, from the hub or from files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from expunge.errors import InputError
from expunge.language.data import READERS, Record
from expunge.language.data import _read_hub as read_hub
from expunge.language.metrics.multiple_choice import choice_record

TextForm = Literal["text", "title-abstract", "raw"]

# Topic to the subject that its questions' prompt names.
ABOUT = {"bio": "biology", "chem": "chemistry", "cyber": "cybersecurity"}
# Questions of each topic in the two public releases.
RELEASES = {
    "first release (4,157 questions)": {"bio": 1520, "chem": 412, "cyber": 2225},
    "current release (3,668 questions)": {"bio": 1273, "chem": 408, "cyber": 1987},
}
# MMLU subjects next to what is forgotten: where forgetting leaks first.
NEIGHBOURS = ("virology", "computer_security", "college_biology")
_SUBJECTS = """
    abstract_algebra anatomy astronomy business_ethics clinical_knowledge college_biology college_chemistry
    college_computer_science college_mathematics college_medicine college_physics computer_security
    conceptual_physics econometrics electrical_engineering elementary_mathematics formal_logic global_facts
    high_school_biology high_school_chemistry high_school_computer_science high_school_european_history
    high_school_geography high_school_government_and_politics high_school_macroeconomics high_school_mathematics
    high_school_microeconomics high_school_physics high_school_psychology high_school_statistics
    high_school_us_history high_school_world_history human_aging human_sexuality international_law jurisprudence
    logical_fallacies machine_learning management marketing medical_genetics miscellaneous moral_disputes
    moral_scenarios nutrition philosophy prehistory professional_accounting professional_law professional_medicine
    professional_psychology public_relations security_studies sociology us_foreign_policy virology world_religions
"""
SUBJECTS = tuple(_SUBJECTS.split())  # of MMLU, 57 in all


def is_local(source: str) -> bool:
    """Whether a source names a file or folder rather than a hub data set."""
    path = Path(source).expanduser()
    return path.exists() or path.suffix.lower() in READERS or source.startswith((".", "/", "~"))


def rows_of(source: str, config: str | None, split: str) -> Iterator[tuple[str, Any]]:
    """Raw rows of a file, of the file named after a configuration in a folder, or of a hub data set.

    Args:
        source: File, folder or hub id.
        config: Hub configuration, or the name of the file in the folder without its suffix.
        split: Hub split.

    Returns:
        Each row under its name for errors.

    Raises:
        InputError: Nothing readable there.
    """
    if not is_local(source):
        return read_hub(source, config, split)
    path = Path(source).expanduser()
    if path.is_dir():
        found = [path / f"{config}{suffix}" for suffix in READERS if (path / f"{config}{suffix}").is_file()]
        if not found:
            raise InputError(f"{source}: holds no file {config} ending in {', '.join(READERS)}.")
        path = found[0]
    if not path.is_file():
        raise InputError(f"{source}: no such file.")
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{source}: cannot read {path.suffix or 'a file without suffix'}; {', '.join(READERS)}.")
    return iter(reader(path))


def read_questions(source: str, config: str, about: str, topic: str = "", *, split: str = "test") -> list[Record]:
    """Four-option questions with the fields ``question``, ``choices`` and ``answer`` (0 to 3).

    Args:
        source: File, folder or hub id.
        config: Hub configuration, or the file's name in the folder.
        about: The subject named in the prompt.
        topic: Topic of the records.
        split: Hub split.

    Raises:
        InputError: A row that is no such question (named), or no row at all.
    """
    records = [_question(row, about, where, topic) for where, row in rows_of(source, config, split)]
    if not records:
        raise InputError(f"{source} ({config}): no questions in it.")
    return records


def _question(row: Any, about: str, where: str, topic: str = "") -> Record:
    if not isinstance(row, dict) or not isinstance(row.get("question"), str) or not row["question"].strip():
        raise InputError(f"{where}: field 'question' is missing or empty.")
    choices = row.get("choices")
    if not isinstance(choices, list):
        raise InputError(f"{where}: field 'choices' must be a list of 4 texts.")
    # an answer that is no number is refused by `choice_record`
    return choice_record(row["question"], choices, row.get("answer"), about, where=where, topic=topic)  # type: ignore[arg-type]


def read_mmlu(source: str) -> dict[str, list[Record]]:
    """MMLU's questions by subject, in the order of its list of 57.

    Args:
        source: Hub id (its configuration ``all``), a file whose rows have the field ``subject``, or a folder with
            one file per subject.

    Raises:
        InputError: A row that is no question of a known subject (named), or no question at all.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        present = [s for s in SUBJECTS if any((path / f"{s}{suffix}").is_file() for suffix in READERS)]
        found = {s: read_questions(source, s, mmlu_subject(s)) for s in present}
    else:
        found = {}
        for where, row in rows_of(source, "all", "test"):
            subject = row.get("subject") if isinstance(row, dict) else None
            if subject not in SUBJECTS:
                raise InputError(f"{where}: field 'subject' must be one of MMLU's 57 subjects; found {subject!r}.")
            found.setdefault(subject, []).append(_question(row, mmlu_subject(subject), where))
    if not found:
        raise InputError(f"{source}: no questions of MMLU in it.")
    return {s: found[s] for s in SUBJECTS if s in found}


def release_of(counts: dict[str, int]) -> str:
    """Which public release these numbers of questions are.

    >>> release_of({"bio": 1273, "cyber": 1987})
    'current release (3,668 questions)'
    >>> release_of({"bio": 100})
    'no public release (bio 100)'
    """
    for name, sizes in RELEASES.items():
        if all(sizes.get(topic) == count for topic, count in counts.items()):
            return name
    return f"no public release ({', '.join(f'{topic} {count}' for topic, count in counts.items())})"


def read_corpus(source: str, form: TextForm = "text", *, topic: str = "", min_length: int = 0) -> list[Record]:
    """Documents as plain-text records, in the order of the file.

    Args:
        source: File, or ``HUB_ID``, ``HUB_ID:CONFIG``, ``HUB_ID:CONFIG:SPLIT``.
        form: ``text`` takes the field of that name, ``title-abstract`` the title and the abstract before it where
            there are any, ``raw`` the lines of the file as they stand.
        topic: Topic of the records.
        min_length: Documents of at most so many characters are left out; 0 leaves out empty ones only.

    Raises:
        InputError: Nothing readable, a document without text (named), no document left.
    """
    texts = _raw_lines(source) if form == "raw" else (_document(row, form, where) for where, row in _corpus(source))
    records = [Record("", text, topic=topic) for text in texts if len(text) > min_length and text.strip()]
    if not records:
        raise InputError(f"{source}: no text longer than {min_length} characters in it.")
    return records


def _corpus(source: str) -> Iterator[tuple[str, Any]]:
    if is_local(source):
        if Path(source).expanduser().is_dir():
            raise InputError(f"{source} is a folder; a file with documents is needed.")
        return rows_of(source, None, "train")
    name, _, rest = source.partition(":")
    config, _, split = rest.partition(":")
    return rows_of(name, config or None, split or "train")


def _raw_lines(source: str) -> Iterator[str]:
    path = Path(source).expanduser()
    if not path.is_file():
        raise InputError(f"{source}: no such file; the lines of a corpus can be read from a file only.")
    try:
        return iter(path.read_text(encoding="utf-8").splitlines())
    except UnicodeDecodeError:
        raise InputError(f"{source}: not a text file in UTF-8.") from None


def _document(row: Any, form: TextForm, where: str) -> str:
    fields = ("title", "abstract", "text") if form == "title-abstract" else ("text",)
    if not isinstance(row, dict):
        raise InputError(f"{where}: expected an object with the field 'text', found {type(row).__name__}.")
    values = [row.get(name) for name in fields]
    wrong = next((n for n, v in zip(fields, values, strict=True) if v is not None and not isinstance(v, str)), None)
    if wrong is not None:
        raise InputError(f"{where}: field {wrong!r} must be text, found {type(row[wrong]).__name__}.")
    if all(v is None for v in values):
        raise InputError(f"{where}: field 'text' is missing.")
    return "\n\n".join(v for v in values if v)


def mmlu_subject(name: str) -> str:
    """How a prompt names a subject of MMLU.

    >>> mmlu_subject("high_school_us_history")
    'high school us history'
    """
    return name.replace("_", " ")
