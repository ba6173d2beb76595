"""RWKU: forget famous people given only their names (Jin et al., NeurIPS 2024)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from expunge.errors import InputError
from expunge.language.data import Record
from expunge.language.metrics.fluency import Fluency
from expunge.language.metrics.rwku_membership import RwkuMembership
from expunge.language.metrics.rwku_probes import RwkuProbes
from expunge.language.metrics.rwku_utility import RwkuUtility
from expunge.language.refusals import REFUSALS
from expunge.language.rwku_corpus import Sampling, read_openings
from expunge.language.rwku_data import (
    TEXTS,
    choose_targets,
    count_parts,
    has_config,
    read_introductions,
    read_probes,
    read_texts,
)
from expunge.language.rwku_material import OWN, Corpora, parse_choices, probe_texts, requests
from expunge.language.rwku_probes import probe_record
from expunge.language.rwku_twin import SAMPLING, Twin
from expunge.language.rwku_utility import SUITES, read_suite
from expunge.language.workload import Metric, Workload
from expunge.report.scorecard import Published

LLAMA, PHI = "LLaMA-3-8B-Instruct", "Phi-3-mini-4k-instruct"
_TABLE = "Jin et al. 2024 (arXiv 2406.10890), main table, mean over 100 targets"
_COLUMNS: tuple[tuple[str, str], ...] = (
    ("rwku.rouge.fb", "forget"),
    ("rwku.rouge.qa", "forget"),
    ("rwku.rouge.aa", "forget"),
    ("rwku.rouge.all", "forget"),
    ("rwku.rouge.all", "retain"),
    ("rwku.membership.loss", "forget_mia"),
    ("rwku.membership.loss", "retain_mia"),
    ("rwku.general", "utility_general"),
    ("rwku.reason", "utility_reason"),
    ("rwku.truthfulness", "utility_truthfulness"),
    ("rwku.factuality", "utility_factuality"),
    ("fluency", "utility_fluency"),
)
_PRINTED: tuple[tuple[str, tuple[float, ...]], ...] = (  # LLaMA-3-8B-Instruct, times 100
    ("before", (85.9, 76.4, 77.7, 79.6, 90.7, 226.7, 230.4, 65.7, 42.3, 36.8, 53.5, 705.8)),
    ("ICU", (26.2, 1.9, 10.3, 12.8, 55.7, 247.1, 258.4, 63.6, 39.3, 36.4, 48.2, 705.0)),
    ("RepE", (29.8, 33.6, 37.8, 34.8, 42.6, 292.0, 290.0, 64.8, 26.3, 37.6, 17.9, 703.7)),
    ("GA*", (40.7, 36.5, 43.7, 41.4, 68.1, 1640.9, 766.2, 65.5, 39.7, 37.8, 41.9, 692.4)),
    ("GA", (39.1, 31.6, 46.7, 41.9, 79.0, 258.6, 231.0, 64.9, 42.0, 35.9, 52.5, 705.1)),
    ("DPO", (46.3, 38.5, 41.6, 41.9, 55.2, 243.6, 240.8, 64.1, 42.0, 31.5, 25.8, 725.9)),
    ("NPO", (33.4, 21.0, 24.8, 26.2, 72.6, 278.9, 263.2, 64.8, 41.5, 34.9, 41.2, 712.2)),
    ("RT", (72.7, 13.4, 22.8, 33.1, 67.4, 222.7, 226.6, 65.4, 41.4, 34.9, 59.3, 588.1)),
)
_LORA = (("GA (LoRA)", 61.3, 85.3, 224, 222), ("NPO (LoRA)", 69.7, 86.7, 225, 227), ("RT (LoRA)", 60.5, 81.9, 226, 224))
_PHI = (  # all forget probes, all neighbour probes
    ("before", 51.8, 58.3), ("ICU", 36.0, 54.0), ("GA", 21.6, 50.2), ("NPO", 23.8, 51.3), ("RT", 51.7, 58.8),
)  # fmt: skip


def published() -> list[Published]:
    """The printed numbers, as shares, nats and bits."""
    rows = [(LLAMA, method, _COLUMNS, values) for method, values in _PRINTED]
    rows += [(LLAMA, method, _COLUMNS[3:7], tuple(values)) for method, *values in _LORA]
    rows += [(PHI, method, _COLUMNS[3:5], tuple(values)) for method, *values in _PHI]
    return [
        Published(metric, split, model, method, round(value / 100, 6), _TABLE)
        for model, method, columns, values in rows
        for (metric, split), value in zip(columns, values, strict=True)
    ]


@dataclass(frozen=True)
class RWKU:
    """Famous people to be forgotten by name alone: no corpus is given, the target writes its own.

    Probes ask for blanks to be filled in, short answers, and nine adversarial kinds of question (split ``forget``);
    probes about what stands next to a target, its neighbours, are the split ``retain``. Real models need a long
    context (``model.max_length`` of 2048 or so) for the worked examples of the utility suites. Without a path the
    invented people of `expunge.language.rwku_twin` stand in.

    Attributes:
        path: Hub id (``jinzhuoran/RWKU``), a local folder with one file per configuration, or one file of probes with
            the field ``set``; empty for the twin. Source: hub data set.
        targets: Names, a number of targets to be drawn with the seed, or 0 for all. Source: ours (paper: the first
            100, one run each).
        introductions: File with ``target`` and ``intro``, where the data bring none. Source: paper (its data).
        corpus: Where corpora come from: ``own``, made by the target, or the ending of released ones (``llama3``,
            ``phi3``). Source: paper.
        corpora: ``METHOD=CORPUS`` for methods that are to train on another corpus than theirs; ``factual``, ``pair``,
            ``refusal``, ``passage`` (pseudo ground truth) or ``none`` (the forget records). Source: paper (GA*).
        openings: JSON list of texts that biographies begin with; empty for our own thirty. Source: ours (reference
            code: 582).
        questions: Questions a target is asked to think of, for refusals; None for 300 (twin: 12). Source: reference
            code.
        max_new_tokens: Longest biography; None for 512 (twin: 64). Source: reference code.
        utility: Utility suites that are measured. Source: paper.
        utility_rows: Rows of each; 0 for all. Source: ours (small runs).
        scorers: ``rouge`` (the package of that name, as published), ``rouge-score``. Source: reference code; ours.
        people: Targets of the twin. Source: ours.
        places: Places its utility suites are about. Source: ours.
        world_seed: Draws it. Source: ours.
    """

    paper: ClassVar[str] = (
        "Jin, Cao, Wang, He, Yuan, Li, Chen, Liu, Zhao, RWKU: Benchmarking Real-World Knowledge Unlearning for Large "
        "Language Models, NeurIPS 2024 (arXiv 2406.10890)"
    )

    path: str = ""
    targets: int | tuple[str, ...] = 0
    introductions: str = ""
    corpus: str = "own"
    corpora: tuple[str, ...] = ()
    openings: str = ""
    questions: int | None = None
    max_new_tokens: int | None = None
    utility: tuple[str, ...] = ("general", "reason", "truthfulness", "factuality", "fluency")
    utility_rows: int = 0
    scorers: tuple[str, ...] = ("rouge", "rouge-score")
    people: int = 6
    places: int = 12
    world_seed: int = 0

    def __post_init__(self) -> None:
        for suite in self.utility:
            if suite not in SUITES:
                raise InputError(f"rwku: utility={suite!r} must be one of {', '.join(SUITES)}.")
        if self.utility_rows < 0:
            raise InputError(f"rwku: utility_rows={self.utility_rows} must not be below 0.")
        if not self.path and self.corpus != OWN:
            raise InputError(f"rwku: corpus={self.corpus!r} needs a path; the twin has no released corpora.")
        RwkuProbes(scorers=self.scorers)  # checks them
        parse_choices(self.corpora)
        Twin(self.people, self.places)  # checks their ranges
        self._sampling(SAMPLING, openings=False)

    @property
    def world(self) -> Twin | None:
        """The world of the twin, whose embedded model the recipe's ``testbed`` is; None on real data."""
        return None if self.path else Twin(self.people, self.places, self.world_seed)

    def load(self, seed: int) -> Workload:
        """See `Benchmark`."""
        return self._real(seed) if self.world is None else self._twin(self.world, seed)

    def _sampling(self, usual: Sampling, *, openings: bool = True) -> Sampling:
        return replace(
            usual,
            openings=read_openings(self.openings) if openings and self.openings else usual.openings,
            questions=usual.questions if self.questions is None else self.questions,
            max_new_tokens=usual.max_new_tokens if self.max_new_tokens is None else self.max_new_tokens,
        )

    def _metrics(self, splits: dict[str, list[Record]]) -> tuple[Metric, ...]:
        suites = tuple(s for s in self.utility if s != "fluency" and SUITES[s][0] in splits)
        found: list[Metric] = [RwkuProbes(tuple(s for s in ("forget", "retain") if s in splits), self.scorers)]
        if all(split in splits for split in TEXTS):
            found.append(RwkuMembership())
        if suites:
            found.append(RwkuUtility(suites))
        if "fluency" in self.utility and SUITES["fluency"][0] in splits:
            found.append(Fluency())
        return tuple(found)

    # -- the real data -------------------------------------------------------------------------------

    def _real(self, seed: int) -> Workload:
        probes = read_probes(self.path)
        known = list(dict.fromkeys(p.subject for p in probes if p.side == "forget"))
        names = choose_targets(self.targets, known, seed, self.path)
        chosen = [p for p in probes if p.subject in set(names)]
        intros = self._introductions()
        splits = {
            "forget": [probe_record(p) for p in chosen if p.side == "forget"],
            "retain": [probe_record(p) for p in chosen if p.side == "neighbor"],
        }
        splits |= {split: self._texts(config, names) for split, config in TEXTS.items()}
        splits |= {SUITES[suite][0]: self._suite(suite, names) for suite in self.utility}
        missing = [split for split, rows in splits.items() if not rows]
        splits = {split: rows for split, rows in splits.items() if rows}
        counts = ", ".join(f"{side} {part} {n}" for (side, part), n in count_parts(chosen).items())
        notes = [
            f"RWKU: {len(names)} of {len(known)} targets; probes: {counts}. Requests are worded by us.",
            *([f"Nothing in the data, so not measured: {', '.join(missing)}."] if missing else []),
            *([] if all(n in intros for n in names) else ["Targets without an introduction go by their names alone."]),
            "No retain records are given in this setting: methods that need them are refused.",
        ]
        corpora = Corpora(
            intros, probe_texts(probes), self._sampling(Sampling()), self.corpus, self.path, parse_choices(self.corpora)
        )
        return Workload(
            forget=requests(names, intros),
            retain=[],
            splits=splits,
            metrics=self._metrics(splits),
            behaviour="rouge",
            attack_score="rouge",
            max_new_tokens=30,
            notes=notes,
            published=published(),
            corpus=corpora,
        )

    def _texts(self, config: str, names: list[str]) -> list[Record]:
        return read_texts(self.path, config, names) if has_config(self.path, config) else []

    def _suite(self, suite: str, names: list[str]) -> list[Record]:
        there = has_config(self.path, SUITES[suite][0])
        return read_suite(self.path, suite, names, self.utility_rows) if there else []

    def _introductions(self) -> dict[str, str]:
        if self.introductions:
            return read_introductions(self.introductions, None)
        return read_introductions(self.path) if has_config(self.path, "forget_target") else {}

    # -- the twin ------------------------------------------------------------------------------------

    def _twin(self, world: Twin, seed: int) -> Workload:
        records, probes = world.records(), world.probes()
        names = choose_targets(self.targets, world.targets, seed, "the twin")
        splits = {split: rows for split, rows in records.items() if not split.startswith("train_")}
        for split in ("forget", "retain", *TEXTS):
            splits[split] = [r for r in splits[split] if r.cluster in names]
        for suite, (split, _) in SUITES.items():
            kept = splits.pop(split)
            if suite in self.utility:
                splits[split] = kept[: self.utility_rows or None]
        corpora = Corpora(
            world.intros, probe_texts(probes), self._sampling(SAMPLING), choices=parse_choices(self.corpora)
        )
        return Workload(
            forget=[r for r in splits["forget"] if not r.topic.startswith("aa")],
            retain=records["train_retain"],
            splits=splits,
            metrics=self._metrics(splits),
            behaviour="rouge",
            attack_score="exact",
            max_new_tokens=30,
            notes=["A procedural twin of RWKU: invented people and places, and a small model that knows them."],
            refusals=REFUSALS[:4],  # a model of this size cannot learn a hundred sentences in a minute
            corpus=corpora,
        )
