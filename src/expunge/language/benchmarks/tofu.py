"""TOFU: invented authors, one of them (or ten) to be forgotten (Maini et al., COLM 2024)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

from expunge.errors import InputError
from expunge.language.data import Record, read_records
from expunge.language.metrics.exact_memorization import ExactMemorization
from expunge.language.metrics.extraction_strength import ExtractionStrength
from expunge.language.metrics.forget_quality import ForgetQuality
from expunge.language.metrics.gradient_norm import GradientNorm
from expunge.language.metrics.membership import Membership
from expunge.language.metrics.model_utility import ModelUtility
from expunge.language.metrics.open_unlearning_scores import OpenUnlearningScores
from expunge.language.metrics.probability import Probability
from expunge.language.metrics.rouge import Rouge
from expunge.language.metrics.truth_ratio import TruthRatio
from expunge.language.workload import Metric, Workload
from expunge.report.scorecard import Published

ROWS_PER_AUTHOR = 20
RETAIN_OF = {"forget01": "retain99", "forget05": "retain95", "forget10": "retain90"}

_PAPER_LOGS = "OpenUnlearning results table, 10 epochs, untuned"
_PRINTED = (  # forget10: model, method, forget quality (p), model utility, forget truth ratio
    ("Llama-2-7b-chat", "before", 4.35e-25, 0.63, 0.52),
    ("Llama-2-7b-chat", "gold", 1.0, 0.61, 0.68),
    ("Llama-2-7b-chat", "GradAscent", 1.06e-239, 0.0, 2e-32),
    ("Llama-2-7b-chat", "GradDiff", 1.8e-229, 0.58, 1e-7),
    ("Llama-2-7b-chat", "IdkDPO", 5.4e-13, 0.04, 0.64),
    ("Llama-2-7b-chat", "NPO", 0.42, 0.54, 0.73),
    ("Llama-2-7b-chat", "SimNPO", 1.5e-198, 0.60, 3e-4),
    ("Llama-2-7b-chat", "RMU", 6.9e-21, 0.03, 0.81),
    ("Llama-3.2-1B-Instruct", "before", 1.66e-21, 0.60, 0.48),
    ("Llama-3.2-1B-Instruct", "gold", 1.0, 0.59, 0.63),
    ("Llama-3.2-1B-Instruct", "GradAscent", 1.06e-239, 0.0, 2e-18),
    ("Llama-3.2-1B-Instruct", "GradDiff", 1.06e-239, 0.49, 4e-27),
    ("Llama-3.2-1B-Instruct", "IdkDPO", 4.6e-12, 0.23, 0.60),
    ("Llama-3.2-1B-Instruct", "NPO", 0.02, 0.46, 0.70),
    ("Llama-3.2-1B-Instruct", "SimNPO", 2.5e-203, 0.54, 1e-5),
    ("Llama-3.2-1B-Instruct", "RMU", 3.2e-15, 0.59, 0.76),
)
_NPO = (  # NPO on the smaller forget sets: model, split, forget quality, model utility
    ("Llama-2-7b-chat", "forget05", 0.09, 0.53),
    ("Llama-2-7b-chat", "forget01", 0.40, 0.58),
    ("Llama-3.2-1B-Instruct", "forget05", 0.14, 0.45),
    ("Llama-3.2-1B-Instruct", "forget01", 0.92, 0.56),
)


def published(forget_split: str) -> list[Published]:
    """The printed numbers for one of the three forget sets."""
    rows = [(model, method, values) for model, method, *values in (_PRINTED if forget_split == "forget10" else ())] + [
        (model, "NPO", values) for model, split, *values in _NPO if split == forget_split
    ]
    where = (("forget_quality", "forget"), ("model_utility", "all"), ("truth_ratio", "forget"))
    return [
        Published(metric, split, model, method, value, _PAPER_LOGS)
        for model, method, values in rows
        for (metric, split), value in zip(where, values, strict=False)
    ]


@dataclass(frozen=True)
class TOFU:
    """Question-answer pairs about invented authors: forget some of them, keep the others.

    Attributes:
        path: Hub id, or a local folder with one JSONL file per configuration. Source: hub data set.
        forget_split: ``forget01``, ``forget05`` or ``forget10``, with the matching retain split. Source: paper.
        authors: Authors in all, the forgotten ones included; 0 for all 200. Source: ours (small runs).
        forget_authors: Authors forgotten when `authors` is given. Source: ours (small runs).
        holdout_authors: Authors kept out of all training as non-members. Source: ours: the hub's holdout
            configurations serve when `authors` is 0.
        world_rows: Rows of real_authors and world_facts measured; 0 for all. Source: ours (small runs).
        retain_rows: Rows of the retain set measured; 0 for all. Source: ours (small runs).
        rows_per_author: Questions used per author; 0 for all 20. Source: ours (small runs).
        gradient_norm: Also measure membership by gradient norms, a backward pass for each record. Source: ours.
    """

    paper: ClassVar[str] = (
        "Maini, Feng, Schwarzschild, Lipton, Kolter, TOFU: A Task of Fictitious Unlearning for LLMs, "
        "COLM 2024 (arXiv 2401.06121)"
    )

    path: str = "locuslab/TOFU"
    forget_split: Literal["forget01", "forget05", "forget10"] = "forget10"
    authors: int = 0
    forget_authors: int = 2
    holdout_authors: int = 2
    world_rows: int = 0
    retain_rows: int = 0
    rows_per_author: int = 0
    gradient_norm: bool = False

    def __post_init__(self) -> None:
        if self.forget_split not in RETAIN_OF:
            raise InputError(f"tofu: forget_split={self.forget_split!r}; one of {', '.join(RETAIN_OF)}.")
        if self.authors and not 0 < self.forget_authors < self.authors:
            raise InputError(f"tofu: forget_authors={self.forget_authors} must lie between 1 and authors - 1.")

    def load(self, seed: int) -> Workload:
        """See `Benchmark`."""
        return self._small() if self.authors else self._full()

    # -- reading -------------------------------------------------------------------------------------

    def _read(self, config: str) -> list[Record]:
        folder = Path(self.path).expanduser()
        if folder.is_dir():
            return read_records(folder / f"{config}.jsonl")
        if folder.exists() or self.path.startswith((".", "/", "~")):
            raise InputError(f"{self.path}: not a folder with TOFU's JSONL files.")
        return read_records(self.path, config=config)

    def _world(self, name: str) -> list[Record]:
        records = self._read(f"{name}_perturbed")
        return records[: self.world_rows] if self.world_rows else records

    def _full(self) -> Workload:
        """The published splits: rows in file order, 20 consecutive rows per author."""
        retain_split = RETAIN_OF[self.forget_split]
        forget, retain = self._read(self.forget_split), self._read(retain_split)
        measured = {
            "forget": by_author(self._read(f"{self.forget_split}_perturbed")),
            "retain": by_author(self._read("retain_perturbed")),
        }
        notes = []
        try:
            measured["holdout"] = by_author(self._read(self.forget_split.replace("forget", "holdout")))
        except InputError as error:
            notes.append(f"No holdout split, so no membership attack: {error}")
        return self._workload(by_author(forget), by_author(retain), measured, notes)

    def _small(self) -> Workload:
        """A few authors: the last of forget10 are forgotten, the first of retain_perturbed are kept."""
        last, first = by_author(self._read("forget10_perturbed")), by_author(self._read("retain_perturbed"))
        keep = self.authors - self.forget_authors
        forget = last[-self.forget_authors * ROWS_PER_AUTHOR :]
        holdout = last[: self.holdout_authors * ROWS_PER_AUTHOR]
        retain = first[: keep * ROWS_PER_AUTHOR]
        if len(retain) < keep * ROWS_PER_AUTHOR or (self.holdout_authors + self.forget_authors) * ROWS_PER_AUTHOR > len(
            last
        ):
            raise InputError(f"tofu: authors={self.authors}: the perturbed files hold 20 authors on each side.")
        forget, retain, holdout = (self._thin(part) for part in (forget, retain, holdout))
        measured = {"forget": forget, "retain": retain[: self.retain_rows] if self.retain_rows else retain}
        if holdout:
            measured["holdout"] = holdout
        return self._workload(forget, retain, measured, [])

    def _thin(self, records: list[Record]) -> list[Record]:
        if not self.rows_per_author:
            return records
        return [r for i, r in enumerate(records) if i % ROWS_PER_AUTHOR < self.rows_per_author]

    def _workload(
        self, forget: list[Record], retain: list[Record], measured: dict[str, list[Record]], notes: list[str]
    ) -> Workload:
        measured["forget_paraphrase"] = [r.asked_otherwise() for r in measured["forget"]]
        measured["real_authors"], measured["world_facts"] = (
            self._world("real_authors"),
            self._world("world_facts"),
        )
        world = ("real_authors", "world_facts")
        metrics: list[Metric] = [
            Probability(splits=("forget", "retain", "forget_paraphrase"), options=world),
            Rouge(splits=("forget", "forget_paraphrase", "retain", *world)),
            TruthRatio(splits=("forget", "retain", *world)),
            ForgetQuality(),
            ModelUtility(splits=("retain", *world)),
            ExtractionStrength(splits=("forget",)),
            ExactMemorization(splits=("forget",)),
            OpenUnlearningScores(stays=("retain", *world)),
        ]
        if "holdout" in measured:
            metrics += [Membership(), *([GradientNorm()] if self.gradient_norm else [])]
        return Workload(
            forget,
            retain,
            measured,
            metrics,
            behaviour="rouge",
            attack_score="choice",
            max_new_tokens=64,
            notes=notes,
            published=published(self.forget_split),
        )


def by_author(records: list[Record]) -> list[Record]:
    """Number the authors: TOFU keeps each author's rows together, 20 of them."""
    return [replace(r, cluster=f"author {i // ROWS_PER_AUTHOR + 1}") for i, r in enumerate(records)]
