"""RWKU's probes: ROUGE-L recall of the right answers, by level, by adversarial type, and over all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from expunge.errors import InputError, nearest
from expunge.language.generate import generate
from expunge.language.metrics._common import Floats, direction
from expunge.language.metrics._rouge_package import rouge_package_recall
from expunge.language.metrics.rouge import rouge_l_recall
from expunge.report.scorecard import Finding
from expunge.report.statistics import cluster_bootstrap

if TYPE_CHECKING:
    from expunge.language.data import Record
    from expunge.language.evidence import EvidenceStore

SCORERS: dict[str, Callable[[Sequence[str], Sequence[str]], Floats]] = {
    "rouge": rouge_package_recall,
    "rouge-score": rouge_l_recall,
}
PARTS = ("fb", "qa", "aa")


def part_of(record: Record) -> tuple[str, ...]:
    """What a probe counts towards: its part, and for an adversarial one its type (`Record.topic`).

    >>> from expunge.language.data import Record
    >>> part_of(Record("Who?", "He", topic="aa.role playing"))
    ('aa', 'aa.role_playing')
    """
    part, _, kind = record.topic.partition(".")
    return (part, f"{part}.{kind.replace(' ', '_').replace('-', '_')}") if kind else (part,)


@dataclass(frozen=True)
class RwkuProbes:
    """RWKU's forget and neighbour scores: fill in the blank, question, adversarial probe, and all of them.

    The answer is decoded greedily up to a line break. "All" is the mean over all probes, so that parts count by
    their number of probes, as published. Intervals are over targets. The published numbers come from the package
    ``rouge``, by whose rules "stephen king" has nothing of "Stephen King"; with ``rouge-score`` (lower case, stems)
    every number rises, so the scorer stands in the finding's name.

    Attributes:
        splits: Splits of probes, whose `Record.topic` says what each is. Source: paper.
        scorers: ``rouge``, ``rouge-score`` or both; the first one also scores each type. Source: reference code
            (rouge).
        max_new_tokens: Longest answer. Source: reference code.
    """

    paper: ClassVar[str] = (
        "Jin, Cao, Wang, He, Yuan, Li, Chen, Liu, Zhao, RWKU: Benchmarking Real-World Knowledge Unlearning for Large "
        "Language Models, NeurIPS 2024 (arXiv 2406.10890)"
    )
    needs_gold: ClassVar[bool] = False

    splits: tuple[str, ...] = ("forget", "retain")
    scorers: tuple[str, ...] = ("rouge", "rouge-score")
    max_new_tokens: int = 30

    def __post_init__(self) -> None:
        for name in self.scorers:
            if name not in SCORERS:
                raise InputError(f"rwku-probes: unknown scorer {name!r}.{nearest(name, SCORERS)}")

    def measure(self, model: EvidenceStore, gold: EvidenceStore | None) -> list[Finding]:
        """``rwku.SCORER.PART`` of each split, for the parts ``fb``, ``qa``, ``aa`` and ``all``; types as ``aa.TYPE``.

        Raises:
            InputError: A split is missing or empty, or holds a record that is no probe.
        """
        found = []
        for split in self.splits:
            records = model.records(split)
            if not records:
                raise InputError(f"Split {split!r} has no records, so it has no probes.")
            wrong = next((i for i, r in enumerate(records, 1) if part_of(r)[0] not in PARTS), None)
            if wrong is not None:
                raise InputError(f"Split {split!r}, record {wrong}: no probe of RWKU (its topic is no part).")
            said = generate(model.subject, records, max_new_tokens=self.max_new_tokens, stop="\n")
            for scorer in self.scorers:
                found += self._findings(model, split, scorer, records, said)
        return found

    def _findings(
        self, model: EvidenceStore, split: str, scorer: str, records: list[Record], said: list[str]
    ) -> list[Finding]:
        scores = SCORERS[scorer]([r.answer for r in records], said)
        clusters, parts = model.clusters(split), [part_of(r) for r in records]
        present = {name for names in parts for name in names if "." not in name or scorer == self.scorers[0]}
        found = []
        for name in (*sorted(present, key=lambda n: (PARTS.index(n.split(".")[0]), n)), "all"):
            rows = np.array([name == "all" or name in names for names in parts])
            ends = cluster_bootstrap(scores[rows], clusters[rows])
            label = f"rwku.{scorer.replace('-', '_')}.{name}"
            found.append(Finding(label, split, model.name, *ends, n=int(rows.sum()), direction=direction(split)))
        return found
