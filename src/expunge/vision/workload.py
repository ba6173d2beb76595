"""What a vision benchmark hands to a run: what to train on, and what to measure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from expunge.report.scorecard import Finding, Published
from expunge.vision.data import Images
from expunge.vision.evidence import EvidenceStore
from expunge.vision.forward import Augment
from expunge.vision.subject import Subject


class Metric(Protocol):
    """A measurement of one model; its fields are its settings."""

    paper: ClassVar[str]
    needs_gold: ClassVar[bool]

    def measure(self, model: EvidenceStore, gold: EvidenceStore | None) -> list[Finding]:
        """Findings about one model, beside gold where the metric needs it."""
        ...


@dataclass(frozen=True)
class Workload:
    """A benchmark's images and what is measured on them.

    Attributes:
        forget: Training images that must go.
        retain: Training images that must stay.
        splits: Named lists of images that are measured: ``forget`` and ``retain`` among them; ``holdout`` for the
            attacker's non-members, ``forget_paraphrase`` for other pictures of the forgotten.
        metrics: The measurements.
        classes: Outputs of the classifier.
        augment: Random changes of batches in training.
        notes: What the reader of the report should know about the data.
        published: The benchmark's published numbers, for the report.
        shown: Whether reports may show some of the images: they are drawn, or nobody's.
    """

    forget: Images
    retain: Images
    splits: dict[str, Images]
    metrics: Sequence[Metric]
    classes: int
    augment: Augment | None = None
    notes: list[str] = field(default_factory=list)
    published: Sequence[Published] = ()
    shown: bool = False


class Benchmark(Protocol):
    """One paper's images, its metrics and its headline numbers."""

    paper: ClassVar[str]

    def load(self, seed: int) -> Workload:
        """Read or draw the images.

        Raises:
            InputError: Missing or malformed data.
        """
        ...

    def network(self, seed: int) -> Subject:
        """The untrained classifier of a recipe whose ``model.source`` is ``testbed``."""
        ...
