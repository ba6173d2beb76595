"""What the metrics of inserted texts share: texts as a whole, whatever part of them a record asks for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from expunge.language.data import Record
from expunge.language.metrics._common import Floats
from expunge.report.scorecard import Finding
from expunge.report.statistics import Interval, cluster_bootstrap

if TYPE_CHECKING:
    from expunge.language.evidence import EvidenceStore


def text_of(record: Record) -> str:
    """The text a record was made of: question and answer without anything between."""
    return record.question + record.answer


def whole(store: EvidenceStore, splits: Iterable[str]) -> EvidenceStore:
    """The same model on records that are plain texts; filed under their content."""
    from expunge.language.evidence import EvidenceStore

    texts = {
        split: [replace(r, question="", answer=text_of(r), perturbed_answers=()) for r in store.records(split)]
        for split in splits
    }
    return EvidenceStore(store.name, lambda: store.subject, texts, store.folder, batch_tokens=store.batch_tokens)


def matched(metric: str, split: str, store: EvidenceStore, found: Interval, n: int) -> Finding:
    """A finding whose ideal is gold's value."""
    return Finding(metric, split, store.name, *found, n=n, direction="match-gold")


def mean_matched(metric: str, split: str, store: EvidenceStore, values: Floats, clusters: NDArray[np.int64]) -> Finding:
    """The mean of a value per text, with its interval over resampled clusters."""
    return matched(metric, split, store, cluster_bootstrap(values, clusters), len(values))
