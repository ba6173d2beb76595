"""What the metrics share: the direction of a split, and findings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from expunge.errors import InputError
from expunge.report.scorecard import Direction, Finding
from expunge.report.statistics import cluster_bootstrap

if TYPE_CHECKING:
    from expunge.vision.evidence import EvidenceStore

Floats = NDArray[np.float64]


def direction(split: str) -> Direction:
    """Gold's value is the ideal on what must go and on what no model saw; elsewhere more is better.

    >>> direction("forget_test"), direction("holdout"), direction("test")
    ('match-gold', 'match-gold', 'higher')
    """
    return "match-gold" if split.startswith(("forget", "holdout")) else "higher"


def mean_finding(metric: str, split: str, store: EvidenceStore, values: Floats) -> Finding:
    """The mean of a value per image, with its interval over resampled identities.

    Raises:
        InputError: The split is empty.
    """
    if len(values) == 0:
        raise InputError(f"Split {split!r} has no images, so there is no {metric}.")
    found = cluster_bootstrap(values, store.clusters(split))
    return Finding(metric, split, store.name, *found, n=len(values), direction=direction(split))
