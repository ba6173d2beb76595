"""What a search may look at, and what is judged: no forget answer is both.

The subjects (people, authors, books) of the forget split are divided once for the whole bench. A search sees the
trained wordings of one part. Judged are the others: their direct answers and their paraphrases; membership and
relearning are judged on all, for no search measures them. The subjects of the retain split are divided in the same
way: one part tells a search what was kept, the others tell the judge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from expunge.engine.training import derive_seed
from expunge.errors import InputError
from expunge.wing import Rows, Wing


@dataclass(frozen=True)
class Separation:
    """The division of one workload.

    Attributes:
        forget: Forget rows a search looks at.
        retain: Retain rows a search looks at.
        judged: Forget split to the numbers of the clusters whose answers are judged.
        kept: Retain rows that are judged.
        overlap: Whether those are the ones a search looks at, because they cannot be divided.
    """

    forget: Rows
    retain: Rows
    judged: Mapping[str, frozenset[int]]
    kept: Rows
    overlap: bool = False


def separate(wing: Wing, workload: Any, share: float, rows: int, seed: int) -> Separation:
    """Divide a workload.

    Args:
        wing: The modality.
        workload: The benchmark's data.
        share: Share of the subjects a search looks at.
        rows: Largest number of rows of each side to probe.
        seed: Draws the division.

    Raises:
        InputError: The forget split has fewer than two subjects, or there is nothing to retain.
    """
    asked, kept = workload.splits["forget"], wing.kept(workload)
    if not len(kept):
        raise InputError(f"A bench needs retain {wing.records}: methods are compared at equal utility.")
    tuned, held = _drawn(wing.subjects(asked), share, seed), _drawn(wing.subjects(kept), share, seed)
    if not tuned:
        raise InputError(
            f"A bench needs forget {wing.records} about at least two subjects: one to tune on, one to judge."
        )
    judged = {
        split: frozenset(n for n, s in zip(wing.clusters(found), wing.subjects(found), strict=True) if s not in tuned)
        for split, found in workload.splits.items()
        if split.startswith("forget")
    }
    mine = [i for i, s in enumerate(wing.subjects(kept)) if s in held]
    others = [i for i, s in enumerate(wing.subjects(kept)) if s not in held]
    return Separation(
        forget=wing.take(asked, _thin([i for i, s in enumerate(wing.subjects(asked)) if s in tuned], rows)),
        retain=wing.take(kept, _thin(mine or others, rows)),
        judged=judged,
        kept=wing.take(kept, others),
        overlap=not held,
    )


def _drawn(subjects: list[str], share: float, seed: int) -> set[str]:
    """A share of the subjects; none where there is only one."""
    names = list(dict.fromkeys(subjects))
    order = np.random.default_rng(derive_seed(seed, "bench separation")).permutation(len(names))
    count = min(max(1, round(share * len(names))), len(names) - 1)
    return {names[i] for i in order[:count]}


def _thin(indices: Sequence[int], rows: int) -> Sequence[int]:
    return indices[:: -(-len(indices) // rows)]


def retention(wing: Wing, subject: Any, separation: Separation, workload: Any) -> float:
    """The judged utility: mean score of the retain rows no search looked at."""
    return float(wing.score(subject, separation.kept, workload).mean())


def probe(wing: Wing, subject: Any, separation: Separation, workload: Any) -> dict[str, float]:
    """Mean score of the rows a search looks at, on either side."""
    sides = {"forget": separation.forget, "retain": separation.retain}
    return {name: float(wing.score(subject, rows, workload).mean()) for name, rows in sides.items()}
