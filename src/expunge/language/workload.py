"""What a benchmark hands to a run: what to train on, what to measure, and how a fact is scored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from expunge.language.data import Record, cluster_ids
from expunge.language.evidence import EvidenceStore
from expunge.language.refusals import REFUSALS
from expunge.language.stop_rule import Rule
from expunge.language.subject import Subject
from expunge.report.readings import divide
from expunge.report.scorecard import Finding, Published

# How one fact is scored, always in [0, 1]:
#   exact   greedy decoding reproduces the answer (closed-set answers)
#   choice  p(answer) / (p(answer) + sum of p(false answers)), length-normalised probabilities
#   rouge   ROUGE-L recall of the greedy answer (free-form answers)
#   token   share of tokens predicted exactly under teacher forcing (plain text)
Score = Literal["exact", "choice", "rouge", "token"]


class Metric(Protocol):
    """A measurement of one model; its fields are its settings."""

    paper: ClassVar[str]
    needs_gold: ClassVar[bool]

    def measure(self, model: EvidenceStore, gold: EvidenceStore | None) -> list[Finding]:
        """Findings about one model, beside gold where the metric needs it."""
        ...


@runtime_checkable
class Placing(Protocol):
    """A metric that also says where a model stands between the target and gold."""

    def place(self, model: EvidenceStore, target: EvidenceStore, gold: EvidenceStore) -> list[Finding]:
        """Findings about one model, target and gold included."""
        ...


class CorpusMaker(Protocol):
    """What hands every method a corpus of its own."""

    def __call__(self, job: Any, method: Any, cache: Path | None) -> tuple[Any, Any]:
        """The job (`expunge.language.unlearn.UnlearnJob`) and the method as they are carried out.

        Args:
            job: Its forget records are the request; its subject is the target.
            method: The method asked for.
            cache: Folder for what is made.
        """
        ...


@dataclass(frozen=True)
class Workload:
    """A benchmark's data and what is measured on it.

    Attributes:
        forget: Training records that must go.
        retain: Training records that must stay.
        splits: Named lists of records that are measured.
        metrics: The measurements.
        behaviour: How answers to questions are scored in the behaviour gate of the verdict.
        attack_score: How facts are scored under attack.
        max_new_tokens: Longest generated answer.
        notes: What the reader of the report should know about the data.
        refusals: Sentences the positive control, and methods that teach refusing, draw from.
        published: The benchmark's published numbers, for the report.
        stop_rule: Given the model to be unlearned, what ends its training before all steps are done.
        corpus: Makes what a method trains on, where the target itself writes it.
    """

    forget: list[Record]
    retain: list[Record]
    splits: dict[str, list[Record]]
    metrics: Sequence[Metric]
    behaviour: Score = "exact"
    attack_score: Score = "exact"
    max_new_tokens: int = 64
    notes: list[str] = field(default_factory=list)
    refusals: Sequence[str] = REFUSALS
    published: Sequence[Published] = ()
    stop_rule: Callable[[Subject], Rule] | None = None
    corpus: CorpusMaker | None = None


class Benchmark(Protocol):
    """One paper's data, its metrics and its headline numbers."""

    paper: ClassVar[str]

    def load(self, seed: int) -> Workload:
        """Read or draw the data.

        Raises:
            InputError: Missing or malformed data.
        """
        ...


def cluster_means(values: NDArray[np.float64], records: list[Record]) -> tuple[NDArray[np.float64], list[int]]:
    """Mean value and number of records of each cluster, by first appearance."""
    ids = np.array(cluster_ids(records))
    sizes = np.bincount(ids)
    return np.bincount(ids, weights=values) / sizes, sizes.tolist()


def divide_clusters(records: list[Record], seed: int, share_attacker: float, share_dev: float) -> dict[str, list[int]]:
    """Record indices for the attacker, for tuning the attack and for scoring (see `report.readings.divide`)."""
    return divide(cluster_ids(records), seed, share_attacker, share_dev)
