"""ORT: the same facts asked as blank, question, choice and spelling, after forgetting them in one of these forms."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from expunge.errors import InputError
from expunge.language.data import READERS, Record, read_records, require_disjoint
from expunge.language.forms import FORMS, LETTERS, Form, instructed, to_blank, to_choice, to_spelling
from expunge.language.metrics.accuracy import Accuracy
from expunge.language.metrics.exact_memorization import ExactMemorization
from expunge.language.metrics.extraction_strength import ExtractionStrength
from expunge.language.metrics.form_bias import FormBias
from expunge.language.metrics.membership import Membership
from expunge.language.metrics.probability import Probability
from expunge.language.metrics.rouge import Rouge
from expunge.language.metrics.truth_ratio import TruthRatio
from expunge.language.refusals import REFUSALS
from expunge.language.testbed import ATTRIBUTES, World
from expunge.language.workload import Metric, Workload

# The published files of one person; the third level is adversarial questions and has no neighbours.
FILES: dict[Form, str] = {"fb": "level1", "qa": "level2", "mcp": "mcp", "aa": "level3"}
# The procedural twin's statements, in the order of the test bed's attributes; {n} is the person.
STATEMENTS = {
    "city": "{n} was born in the city of ___.",
    "year": "{n} was born in the year ___.",
    "job": "The profession of {n} is ___.",
    "pet": "The pet of {n} is a ___.",
    "music": "The instrument of {n} is the ___.",
    "food": "The favourite food of {n} is ___.",
    "hobby": "The hobby of {n} is ___.",
    "award": "{n} won the award ___.",
}
SPELL = "{q} Spell it."
REPEATS = 4  # of a kept person's choices, with other options each, and spellings: skills that take practice


@dataclass(frozen=True)
class ORT:
    """The form of the question varied: forget in one form, measure in all.

    With a path, the published layout is read: one folder per person, named ``<number>_<Name>``, with JSON files of
    {query, answer, level, type, subject}; the spelling form is derived by rule. Questions carry the instruction of
    their form. Without one, a twin is drawn on the test bed's world: kept people are trained in all forms, so that
    the model knows the forms; people to be forgotten in the trained form alone, as knowledge that was read in one
    form and can be asked for in any.

    Attributes:
        path: Folder of people's folders; empty for the twin. Source: yours.
        person: Number of the first person to be forgotten. Source: paper (one at a time, 1 to 100).
        people: How many, from that one on. Source: paper (1).
        trained: The form the method is given: ``fb``, ``qa``, ``mcp`` or ``sub``; ``positive`` takes the published
            texts about the person. Source: ours; the reference code trains on positive.
        forms: Forms that bias and spread are taken over. Source: paper.
        retain_people: People behind the last forgotten one whose questions are the retain records. Source: ours;
            the published method uses no retain records of its own.
        forget: People of the twin to be forgotten. Source: ours.
        retain: People of the twin to be kept. Source: ours.
        holdout: People of the twin no model sees. Source: ours.
        places: Places of the twin, an unrelated skill. Source: ours.
        world_seed: Draws the twin's world. Source: ours.
    """

    paper: ClassVar[str] = "Ye, Zhang, Wu, LLM Unlearning Should Be Form-Independent, 2025 (arXiv 2506.07795)"

    path: str = ""
    person: int = 1
    people: int = 1
    trained: Literal["fb", "qa", "mcp", "sub", "positive"] = "qa"
    forms: tuple[str, ...] = ("fb", "qa", "mcp", "sub")
    retain_people: int = 10
    forget: int = 16
    retain: int = 64
    holdout: int = 16
    places: int = 30
    world_seed: int = 0

    def __post_init__(self) -> None:
        if self.trained not in (*FORMS, "positive"):
            raise InputError(f"ort: trained={self.trained!r}; one of {', '.join(FORMS)} or positive.")
        unknown = next((form for form in self.forms if form not in FORMS), None)
        if unknown is not None or (self.trained != "positive" and self.trained not in self.forms):
            raise InputError(
                f"ort: forms={list(self.forms)}; some of {', '.join(FORMS)}, the trained one ({self.trained}) "
                f"among them."
            )
        if min(self.person, self.people) < 1 or self.retain_people < 0:
            raise InputError("ort: person and people must be at least 1, and retain_people not negative.")
        if not self.path and self.trained == "positive":
            raise InputError("ort: trained='positive' needs the published files (path); the twin has no such texts.")

    @property
    def world(self) -> World:
        """The twin's world."""
        return World(self.forget, self.retain, self.holdout, self.places, self.world_seed)

    def load(self, seed: int) -> Workload:
        """See `Benchmark`.

        Raises:
            InputError: No such folder or person, a malformed file, or a form that is to be trained and missing.
        """
        return self._published() if self.path else self._twin()

    # -- the published files -------------------------------------------------------------------------

    def _published(self) -> Workload:
        folders = person_folders(self.path)
        wanted = list(range(self.person, self.person + self.people))
        absent = next((n for n in wanted if n not in folders), None)
        if absent is not None:
            raise InputError(f"{self.path}: no person {absent}; there are {min(folders)} to {max(folders)}.")
        chosen = [folders[n] for n in wanted]
        others = [folder for n, folder in sorted(folders.items()) if n > wanted[-1]][: self.retain_people]
        forget, near = (_forms(chosen, side) for side in ("forget", "neighbor"))
        kept = [r for form in ("fb", "qa") for r in _forms(others, "forget").get(form, [])]
        forms = tuple(form for form in self.forms if form in forget and form in near)
        missing = [form for form in self.forms if form not in forms]
        notes = [f"Forms without files on both sides, not measured: {', '.join(missing)}."] if missing else []
        if not kept:
            notes.append("No retain records: no other people in the folder, or retain_people is 0.")
        train = self._training(chosen, forget)
        splits = {"forget": forget[self.trained] if self.trained in forget else forget["qa"]}
        splits |= {f"forget_{form}": rows for form, rows in forget.items()}
        if near:
            splits["retain"] = [r for form in ("qa", "fb") for r in near.get(form, [])]
            splits |= {f"retain_{form}": rows for form, rows in near.items()}
        require_disjoint(train, kept, "retain")
        metrics: list[Metric] = [
            Probability(splits=tuple(s for s in ("forget", "retain") if s in splits), options=()),
            Rouge(splits=tuple(splits)),
            ExtractionStrength(splits=("forget",)),
            ExactMemorization(splits=("forget",)),
        ]
        if forms:
            metrics.append(FormBias(forms, self.trained if self.trained in forms else ""))
        return Workload(train, kept, splits, metrics, behaviour="rouge", attack_score="rouge", notes=notes)

    def _training(self, chosen: list[Path], forget: dict[Form, list[Record]]) -> list[Record]:
        if self.trained == "positive":
            texts = [(f.name.partition("_")[2].replace("_", " "), read_records(f / "positive.json")) for f in chosen]
            return [replace(r, cluster=r.cluster or name) for name, rows in texts for r in rows]
        if self.trained not in forget:
            raise InputError(f"{self.path}: trained={self.trained!r} and the people's folders hold no such form.")
        return forget[self.trained]

    # -- the twin ------------------------------------------------------------------------------------

    def _twin(self) -> Workload:
        records = self.world.records()
        kept = {r.cluster for r in records["retain"]}  # the half whose paraphrases are not trained on
        forget, retain, holdout = (twin_forms(records[n]) for n in ("train_forget", "train_retain", "holdout"))
        trained: Form = self.trained  # type: ignore[assignment]
        splits = {"forget": forget[trained], "forget_paraphrase": records["forget_paraphrase"]}
        splits |= {f"forget_{form}": rows for form, rows in forget.items()}
        near = {form: [r for r in rows if r.cluster in kept] for form, rows in retain.items()}
        splits |= {"retain": near[trained], "retain_paraphrase": records["retain_paraphrase"]}
        splits |= {f"retain_{form}": rows for form, rows in near.items()}
        splits |= {"holdout": holdout[trained], "places": records["places"]}
        practice = [to_choice(r, draw) for draw in range(REPEATS) for r in retain["qa"]] + retain["sub"] * REPEATS
        own = records["train_forget"] if trained == "qa" else forget[trained]
        return Workload(
            forget=own,
            retain=records["train_retain"] + retain["fb"] + practice,
            splits={name: rows for name, rows in splits.items() if rows},
            metrics=(
                Accuracy(splits=tuple(name for name, rows in splits.items() if rows)),
                Probability(splits=("forget", "retain"), options=("places",)),
                TruthRatio(splits=("forget", "retain", "places")),
                ExtractionStrength(splits=("forget",)),
                ExactMemorization(splits=("forget",)),
                Membership(),
                FormBias(self.forms, trained),
            ),
            max_new_tokens=24,
            notes=[
                "A procedural twin of ORT, not its data. Two layers learn to spell what they know but hardly to "
                "choose: where target and gold give a form the same probability, its change says nothing."
            ],
            refusals=REFUSALS[:4],
        )


def twin_forms(records: Iterable[Record]) -> dict[Form, list[Record]]:
    """Each fact of the test bed's people in the four forms, from the records that ask in the first wording."""
    first = {(key, a.questions[0]) for key, a in ATTRIBUTES.items()}
    forms: dict[Form, list[Record]] = {form: [] for form in FORMS}
    for r in records:
        for key, question in first:
            if r.question == question.format(n=r.cluster):
                forms["qa"].append(r)
                forms["fb"].append(to_blank(r, STATEMENTS[key].format(n=r.cluster)))
                forms["mcp"].append(to_choice(r))
                forms["sub"].append(to_spelling(replace(r, question=SPELL.format(q=r.question))))
    return forms


def person_folders(path: str) -> dict[int, Path]:
    """Number to folder of each person.

    Raises:
        InputError: No folder there, none of people in it, or a number that stands twice.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        raise InputError(f"{path}: no folder there; ORT has one folder for each person, named <number>_<Name>.")
    found: dict[int, Path] = {}
    for folder in sorted(p for p in root.iterdir() if p.is_dir()):
        match = re.fullmatch(r"(\d+)_.+", folder.name)
        if match is None:
            continue
        number = int(match[1])
        if number in found:
            raise InputError(f"{path}: person {number} has two folders, {found[number].name} and {folder.name}.")
        found[number] = folder
    if not found:
        raise InputError(f"{path}: holds no person's folder (named <number>_<Name>).")
    return found


def _forms(folders: list[Path], side: str) -> dict[Form, list[Record]]:
    """The forms of one side (``forget`` or ``neighbor``) that all these people have, with instructions."""
    forms: dict[Form, list[Record]] = {}
    for form, stem in FILES.items():
        files = [folder / f"{side}_{stem}.json" for folder in folders]
        if files and all(f.is_file() for f in files):
            forms[form] = [r for f in files for r in read_probes(f, form)]
    open_forms: list[Form] = ["fb", "qa"]
    spelled = [to_spelling(r) for form in open_forms for r in forms.get(form, [])]
    if spelled:
        forms["sub"] = spelled
    return {form: [instructed(r, form) for r in rows] for form, rows in forms.items()}


def read_probes(file: Path, form: Form) -> list[Record]:
    """The probes of one file; the subject is the cluster.

    Raises:
        InputError: A malformed file, a probe without query or answer, or a choice whose answer is no letter.
    """
    found = []
    for where, row in READERS[".json"](file):
        if not isinstance(row, dict):
            raise InputError(f"{where}: expected an object with fields, found {type(row).__name__}.")
        query, answer, subject = (_text(row, name, where) for name in ("query", "answer", "subject"))
        if form == "mcp":
            answer = answer.rstrip(".)")
            if answer not in LETTERS or not all(f"\n{letter}." in f"\n{query}" for letter in LETTERS):
                raise InputError(f"{where}: a choice needs the options A. to D. in its query, and a letter as answer.")
        wrong = tuple(letter for letter in LETTERS if letter != answer) if form == "mcp" else ()
        found.append(Record(query, answer, subject, perturbed_answers=wrong))
    if not found:
        raise InputError(f"{file}: no probes in it.")
    return found


def _text(row: dict[str, Any], name: str, where: str) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{where}: field {name!r} is missing or no text.")
    return value.strip()
