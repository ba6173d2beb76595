"""What a recommender benchmark hands to a run: what to train on, and what to measure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from expunge.recommend.data import Features, Interactions
from expunge.recommend.evidence import EvidenceStore
from expunge.recommend.subject import Subject
from expunge.report.scorecard import Finding, Published


class Metric(Protocol):
    """A measurement of one model; its fields are its settings."""

    paper: ClassVar[str]
    needs_gold: ClassVar[bool]

    def measure(self, model: EvidenceStore, gold: EvidenceStore | None) -> list[Finding]:
        """Findings about one model, beside gold where the metric needs it."""
        ...


@dataclass(frozen=True)
class Workload:
    """A benchmark's interactions and what is measured on them.

    Attributes:
        forget: Training interactions that must go.
        retain: Training interactions that must stay.
        valid: Interactions on which training is watched, of what stays.
        test: Interactions that show utility, of what stays.
        splits: Named lists that are measured: the four above; ``holdout``, unseen interactions of those who are
            forgotten; ``non_interactions``, random pairs that never were.
        metrics: The measurements.
        k: Recommendations a user is shown.
        keep_as_negatives: Whether forgotten items stay in the catalogue, as negatives in training and as candidates.
        features: Modality to features of the items; empty without.
        notes: What the reader of the report should know about the data.
        published: The benchmark's published numbers, for the report.
    """

    forget: Interactions
    retain: Interactions
    valid: Interactions
    test: Interactions
    splits: dict[str, Interactions]
    metrics: Sequence[Metric]
    k: int = 20
    keep_as_negatives: bool = True
    features: Features = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    published: Sequence[Published] = ()


class Benchmark(Protocol):
    """One paper's interactions, its metrics and its headline numbers."""

    paper: ClassVar[str]

    def load(self, seed: int) -> Workload:
        """Read or draw the interactions.

        Raises:
            InputError: Missing or malformed data.
        """
        ...

    def network(self, seed: int) -> Subject:
        """The untrained recommender of a recipe whose ``model.source`` is ``testbed``."""
        ...
