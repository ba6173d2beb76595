"""What a benchmark hands to a run: what to train on, what to measure, and how a fact is scored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from expunge.language.data import Record, cluster_ids
from expunge.language.evidence import EvidenceStore
from expunge.language.refusals import REFUSALS
from expunge.language.stop_rule import StopRule
from expunge.language.subject import Subject
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
class Comparing(Protocol):
    """A metric that also measures a model beside the target."""

    def compare(self, model: EvidenceStore, target: EvidenceStore) -> list[Finding]:
        """Findings about one model, such as its change from the target."""
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
        stop_rule: Given the target, what ends unlearning once the forget set reads like unseen text.
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
    stop_rule: Callable[[Subject], StopRule] | None = None


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
    """Divide clusters at random into what the attacker trains on, what tunes the attack, what is scored.

    Args:
        records: The forget records.
        seed: Draws the division.
        share_attacker: Share of clusters for the attacker (T).
        share_dev: Share of clusters for choosing the attack's strength (D).

    Returns:
        Record indices under ``attacker``, ``dev`` and ``scored``; no cluster is in two of them, and each
        gets at least one cluster as long as there are enough.
    """
    ids = np.array(cluster_ids(records))
    count = int(ids.max()) + 1
    order = np.random.default_rng(seed).permutation(count)
    attacker = min(max(1, round(share_attacker * count)), count - 1)  # something is left to score
    dev = max(1, round(share_dev * count)) if share_dev and count - attacker > 1 else 0
    groups = {
        "attacker": order[:attacker],
        "dev": order[attacker : attacker + dev],
        "scored": order[attacker + dev :],
    }
    return {name: np.flatnonzero(np.isin(ids, group)).tolist() for name, group in groups.items()}
