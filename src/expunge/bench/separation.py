"""What a search may look at, and what is judged: no forget answer is both.

The subjects (people, authors, books) of the forget split are divided once for the whole bench. A search sees the
trained wordings of one part. Judged are the others: their direct answers and their paraphrases; membership and
relearning are judged on all, for no search measures them. The subjects of the retain split are divided in the same
way: one part tells a search what was kept, the others tell the judge.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from expunge.engine.training import derive_seed
from expunge.errors import InputError
from expunge.language.attacks._common import fact_scores
from expunge.language.data import Record, cluster_ids
from expunge.language.subject import Subject
from expunge.language.workload import Workload


@dataclass(frozen=True)
class Separation:
    """The division of one workload.

    Attributes:
        forget: Forget records a search looks at.
        retain: Retain records a search looks at.
        judged: Forget split to the numbers of the clusters whose answers are judged.
        kept: Retain records that are judged.
        overlap: Whether those are the ones a search looks at, because they cannot be divided.
    """

    forget: list[Record]
    retain: list[Record]
    judged: Mapping[str, frozenset[int]]
    kept: list[Record]
    overlap: bool = False


def separate(workload: Workload, share: float, rows: int, seed: int) -> Separation:
    """Divide a workload.

    Args:
        workload: The benchmark's data.
        share: Share of the subjects a search looks at.
        rows: Largest number of records of each side to probe.
        seed: Draws the division.

    Raises:
        InputError: The forget split has fewer than two subjects, or there is no retain record.
    """
    asked, kept = workload.splits["forget"], workload.splits.get("retain") or workload.retain
    if not kept:
        raise InputError("A bench needs retain records: methods are compared at equal utility.")
    tuned, held = _drawn(asked, share, seed), _drawn(kept, share, seed)
    if not tuned:
        raise InputError("A bench needs forget records about at least two subjects: one to tune on, one to judge.")
    judged = {
        split: frozenset(n for n, s in zip(cluster_ids(records), _subjects(records), strict=True) if s not in tuned)
        for split, records in workload.splits.items()
        if split.startswith("forget")
    }
    return Separation(
        forget=_thin(_about(asked, tuned), rows),
        retain=_thin(_about(kept, held) if held else kept, rows),
        judged=judged,
        kept=[r for r, s in zip(kept, _subjects(kept), strict=True) if s not in held],
        overlap=not held,
    )


def _drawn(records: list[Record], share: float, seed: int) -> set[str]:
    """A share of the subjects of some records; none where there is only one."""
    names = list(dict.fromkeys(_subjects(records)))
    order = np.random.default_rng(derive_seed(seed, "bench separation")).permutation(len(names))
    count = min(max(1, round(share * len(names))), len(names) - 1)
    return {names[i] for i in order[:count]}


def _about(records: list[Record], subjects: set[str]) -> list[Record]:
    return [r for r, subject in zip(records, _subjects(records), strict=True) if subject in subjects]


def _subjects(records: list[Record]) -> list[str]:
    """Who each record is about; one without a subject is its own, known by its place."""
    return [r.cluster or f"\0{i}" for i, r in enumerate(records)]


def _thin(records: list[Record], rows: int) -> list[Record]:
    return records[:: -(-len(records) // rows)]


def retention(subject: Subject, separation: Separation, workload: Workload) -> float:
    """The judged utility: mean score of the retain records no search looked at."""
    return float(fact_scores(subject, separation.kept, workload.behaviour, workload.max_new_tokens).mean())


def probe(subject: Subject, separation: Separation, workload: Workload) -> dict[str, float]:
    """Mean score of the records a search looks at, on either side."""
    sides = {"forget": separation.forget, "retain": separation.retain}
    kind, tokens = workload.behaviour, workload.max_new_tokens
    return {name: float(fact_scores(subject, rows, kind, tokens).mean()) for name, rows in sides.items()}
