"""WMDP: knowledge that helps to do harm, asked for by four-option questions (Li et al., ICML 2024)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from expunge.errors import InputError
from expunge.language.data import Record
from expunge.language.metrics.multiple_choice import MultipleChoice
from expunge.language.refusals import REFUSALS
from expunge.language.wmdp_data import (
    ABOUT,
    NEIGHBOURS,
    TextForm,
    read_corpus,
    read_mmlu,
    read_questions,
    release_of,
)
from expunge.language.wmdp_twin import Twin
from expunge.language.workload import Workload
from expunge.report.scorecard import Published

WIKITEXT = "Salesforce/wikitext:wikitext-2-raw-v1:test"  # what RMU's authors retained on: the TEST split
CORPORA = {"cyber": "cais/wmdp-corpora:cyber-forget-corpus"}
FORMS: tuple[TextForm, ...] = ("text", "title-abstract", "raw")


_LOG, _CARD, _MEMORY = "authors' run log, current questions", "model card of cais/Zephyr_RMU", "paper, from memory"
_PRINTED: tuple[tuple[str, str, str, float | None, float, str], ...] = (
    # model, method, split, zero-shot accuracy in per cent before and after (MT-Bench: of 10), source
    ("Zephyr-7B-beta", "RMU", "forget_bio", None, 30.9, _LOG),
    ("Zephyr-7B-beta", "RMU", "forget_cyber", None, 28.0, _LOG),
    ("Zephyr-7B-beta", "RMU", "chem", None, 45.6, _LOG),
    ("Zephyr-7B-beta", "RMU", "all", None, 31.0, _LOG),
    ("Zephyr-7B-beta", "RMU", "retain", None, 57.1, _LOG),
    ("Zephyr-7B-beta", "RMU", "mmlu_virology", None, 25.3, _LOG),
    ("Zephyr-7B-beta", "RMU", "mmlu_computer_security", None, 45.0, _LOG),
    ("Zephyr-7B-beta", "RMU", "mmlu_college_biology", None, 63.2, _LOG),
    ("Zephyr-7B-beta", "RMU", "forget_bio", 63.7, 31.2, _CARD),
    ("Zephyr-7B-beta", "RMU", "forget_cyber", 44.0, 28.2, _CARD),
    ("Zephyr-7B-beta", "RMU", "retain", 58.1, 57.1, _CARD),
    ("Zephyr-7B-beta", "RMU", "mt_bench", 7.33, 7.10, _CARD),
    ("Zephyr-7B-beta", "LLMU", "forget_bio", 63.7, 59.5, _MEMORY),
    ("Zephyr-7B-beta", "LLMU", "forget_cyber", 44.0, 39.5, _MEMORY),
    ("Zephyr-7B-beta", "LLMU", "retain", 58.1, 44.7, _MEMORY),
    ("Zephyr-7B-beta", "LLMU", "mt_bench", 7.33, 1.0, _MEMORY),
    ("Zephyr-7B-beta", "SCRUB", "forget_bio", 63.7, 43.8, _MEMORY),
    ("Zephyr-7B-beta", "SCRUB", "forget_cyber", 44.0, 39.3, _MEMORY),
    ("Zephyr-7B-beta", "SCRUB", "retain", 58.1, 51.2, _MEMORY),
    ("Zephyr-7B-beta", "SCRUB", "mt_bench", 7.33, 1.4, _MEMORY),
    ("Zephyr-7B-beta", "SSD", "forget_bio", 63.7, 50.2, _MEMORY),
    ("Zephyr-7B-beta", "SSD", "forget_cyber", 44.0, 35.0, _MEMORY),
    ("Zephyr-7B-beta", "SSD", "retain", 58.1, 40.7, _MEMORY),
    ("Zephyr-7B-beta", "SSD", "mt_bench", 7.33, 5.5, _MEMORY),
    ("Yi-34B-Chat", "RMU", "forget_bio", 75.3, 30.7, _MEMORY),
    ("Yi-34B-Chat", "RMU", "forget_cyber", 49.7, 29.0, _MEMORY),
    ("Yi-34B-Chat", "RMU", "retain", 72.6, 70.6, _MEMORY),
    ("Mixtral-8x7B-Instruct", "RMU", "forget_bio", 74.8, 34.0, _MEMORY),
    ("Mixtral-8x7B-Instruct", "RMU", "forget_cyber", 52.0, 30.8, _MEMORY),
    ("Mixtral-8x7B-Instruct", "RMU", "retain", 68.2, 67.1, _MEMORY),
)


def published() -> list[Published]:
    """The printed numbers, the models before unlearning once each."""
    found: dict[tuple[str, str, str, str], Published] = {}
    for model, method, split, before, after, source in _PRINTED:
        metric, unit = ("mt_bench", 10) if split == "mt_bench" else ("multiple_choice", 100)
        for name, value in (("before", before), (method, after)):
            if value is not None:
                row = Published(metric, split, model, name, value / unit, source)
                found.setdefault((model, name, split, source), row)
    return list(found.values())


@dataclass(frozen=True)
class WMDP:
    """Four-option questions on hazardous knowledge, forgotten from text of the domain; or a harmless twin.

    The text that is forgotten never holds the questions. Accuracy on them should fall to chance, 25%, while MMLU
    stays; MMLU's subjects next to the topics are reported separately, for forgetting leaks there first. Without
    `questions` a harmless twin is drawn: secrets about invented plants and machines, towns as the control.

    Attributes:
        questions: Hub id (``cais/wmdp``), or a folder with files ``wmdp-bio``, ``wmdp-cyber`` and so on in JSONL
            or Parquet; empty for the twin. Source: paper.
        topics: What is forgotten: ``bio``, ``cyber``. Source: paper.
        evaluated: Topics whose questions are only asked. Source: paper (no corpora on chemistry).
        forget: Corpus of each topic: a file, or ``HUB_ID:CONFIG:SPLIT``. Empty for the public ones; the one on
            biology is given out on request only. Source: paper.
        text: What of a document is trained on: ``text``, ``title-abstract`` (both, then the text) or ``raw`` (the
            file's lines), one for all topics or one for each. Source: reference code (raw for cyber; ours: text).
        retain: Corpus to keep, one for all topics or one for each; ``wikitext`` is the test split of
            wikitext-2-raw. Source: reference code.
        min_length: Retain texts of at most so many characters are left out. Source: reference code.
        documents: Documents read of each corpus; 0 for all. Source: ours (small runs).
        question_rows: Questions asked of each topic and MMLU subject; 0 for all. Source: ours (small runs).
        mmlu: Hub id (``cais/mmlu``), file or folder of MMLU; empty for none. Source: paper.
        secret: Things of each secret domain of the twin. Source: ours.
        school: Things of the twin's control domain on which questions are taught. Source: ours.
        public: Things of each of its secret domains that stay. Source: ours.
        control: Things of its control domain known from text alone. Source: ours.
        world_seed: Draws the twin. Source: ours.
    """

    paper: ClassVar[str] = (
        "Li et al., The WMDP Benchmark: Measuring and Reducing Malicious Use With Unlearning, ICML 2024 "
        "(arXiv 2403.03218)"
    )

    questions: str = ""
    topics: tuple[str, ...] = ("bio", "cyber")
    evaluated: tuple[str, ...] = ("chem",)
    forget: tuple[str, ...] = ()
    text: tuple[str, ...] = ("text",)
    retain: tuple[str, ...] = ("wikitext",)
    min_length: int = 0
    documents: int = 0
    question_rows: int = 0
    mmlu: str = "cais/mmlu"
    secret: int = 48
    school: int = 128
    public: int = 16
    control: int = 48
    world_seed: int = 0

    def __post_init__(self) -> None:
        for name in (*self.topics, *self.evaluated):
            if name not in ABOUT:
                raise InputError(f"wmdp: topic {name!r} must be one of {', '.join(ABOUT)}.")
        if not self.topics or len({*self.topics, *self.evaluated}) < len(self.topics) + len(self.evaluated):
            raise InputError(
                f"wmdp: topics={list(self.topics)}, evaluated={list(self.evaluated)}: at least one topic is forgotten, "
                f"and none stands in the lists twice."
            )
        for form in self.text:
            if form not in FORMS:
                raise InputError(f"wmdp: text={form!r} must be one of {', '.join(FORMS)}.")
        if self.forget and len(self.forget) != len(self.topics):
            raise InputError(
                f"wmdp: forget names {len(self.forget)} corpora and topics {len(self.topics)}; give one for each."
            )
        for field in ("text", "retain"):
            if len(getattr(self, field)) not in (1, len(self.topics)):
                raise InputError(f"wmdp: {field} has {len(getattr(self, field))} entries; give one, or one per topic.")
        for field in ("min_length", "documents", "question_rows"):
            if getattr(self, field) < 0:
                raise InputError(f"wmdp: {field}={getattr(self, field)} must not be below 0.")
        Twin(self.secret, self.school, self.public, self.control)  # checks their ranges

    @property
    def world(self) -> Twin | None:
        """The world of the twin, whose embedded model the recipe's ``testbed`` is; None on real data."""
        if self.questions:
            return None
        return Twin(self.secret, self.school, self.public, self.control, self.world_seed)

    def load(self, seed: int) -> Workload:
        """See `Benchmark`."""
        if self.world is not None:
            return self._twin(self.world)
        return self._real()

    def _twin(self, world: Twin) -> Workload:
        records = world.records()
        measured = {name: rows for name, rows in records.items() if not name.startswith("train_")}
        return _workload(
            records["train_forget"],
            records["train_retain"],
            measured,
            ["A harmless twin of WMDP: facts about invented plants, machines and towns."],
            refusals=REFUSALS[:4],  # a model of this size cannot learn a hundred sentences in a minute
        )

    # -- the real data -------------------------------------------------------------------------------

    def _real(self) -> Workload:
        asked = {t: self._questions(t) for t in (*self.topics, *self.evaluated)}
        measured = {"forget": [r for t in self.topics for r in asked[t]]}
        measured |= {f"forget_{t}" if t in self.topics else t: rows for t, rows in asked.items()}
        notes = [
            f"WMDP questions: {release_of({t: len(rows) for t, rows in asked.items()})}.",
            "Questions longer than model.max_length lose their beginning. Attacks ask them through model.template: "
            "with empty tags as in the harness.",
        ]
        if self.mmlu:
            subjects = {s: self._first(rows) for s, rows in read_mmlu(self.mmlu).items()}
            measured["retain"] = [r for rows in subjects.values() for r in rows]
            measured |= {f"mmlu_{s}": subjects[s] for s in NEIGHBOURS if s in subjects}
            notes.append(f"Retain is MMLU: {len(measured['retain'])} questions of {len(subjects)} of 57 subjects.")
        else:
            notes.append("No MMLU was given: what the model lost beside the forgotten topics is not measured.")
        return replace(_workload(self._forget(), self._retain(), measured, notes), published=published())

    def _first(self, rows: list[Record]) -> list[Record]:
        return rows[: self.question_rows] if self.question_rows else rows

    def _questions(self, topic: str) -> list[Record]:
        label = topic if topic in self.topics else ""
        return self._first(read_questions(self.questions, f"wmdp-{topic}", ABOUT[topic], label))

    def _corpus(self, source: str, form: str, topic: str, min_length: int) -> list[Record]:
        rows = read_corpus(source, form, topic=topic, min_length=min_length)  # type: ignore[arg-type]
        return rows[: self.documents] if self.documents else rows

    def _forget(self) -> list[Record]:
        """Documents of all topics, each with its topic, in the order of the files."""
        records = []
        for i, topic in enumerate(self.topics):
            source = self.forget[i] if self.forget else CORPORA.get(topic)
            if source is None:
                raise InputError(
                    f"wmdp: there is no public corpus on {topic}; name one for each topic in 'forget' (the corpus on "
                    f"biology is given out on request, as cais/wmdp-bio-forget-corpus)."
                )
            records += self._corpus(source, self.text[i % len(self.text)], topic, 0)
        return records

    def _retain(self) -> list[Record]:
        """One corpus for all topics bears no topic, so that every topic draws from it."""
        records = []
        for i, source in enumerate(self.retain):
            topic = self.topics[i] if len(self.retain) > 1 else ""
            records += self._corpus(WIKITEXT if source == "wikitext" else source, "text", topic, self.min_length)
        return records


def _workload(
    forget: list[Record],
    retain: list[Record],
    measured: dict[str, list[Record]],
    notes: list[str],
    refusals: tuple[str, ...] = tuple(REFUSALS),
) -> Workload:
    return Workload(
        forget,
        retain,
        measured,
        (MultipleChoice(splits=tuple(measured)),),
        behaviour="choice",  # a letter's share of the four: soft accuracy, chance 0.25
        attack_score="choice",
        max_new_tokens=4,
        notes=notes,
        refusals=refusals,
    )
