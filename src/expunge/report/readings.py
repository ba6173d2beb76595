"""What attacks report, for every wing, and how forgotten subjects are divided between attacker and judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from expunge.report.assemble import ChannelReading

Floats = NDArray[np.float64]

# The attacker's and the dev share of the forget clusters; the rest is scored.
ATTACKER_SHARE, DEV_SHARE = 0.4, 0.1


@dataclass(frozen=True)
class Reading:
    """Scores of some facts after an attack of one strength.

    Attributes:
        channel: The evidence channel it belongs to.
        budget: The attack's strength in words.
        strength: The attack's strength as a number, for plots and ordering.
        rows: Indices of the scored records in the split `split`.
        scores: [seeds, len(rows)] score of each fact in [0, 1].
        dev_score: Mean score on the clusters kept for choosing the strength; None without such clusters.
        split: The split the rows belong to.
    """

    channel: str
    budget: str
    strength: float
    rows: list[int]
    scores: Floats
    dev_score: float | None = None
    split: str = "forget"

    def plain(self, clusters: NDArray[np.int64]) -> ChannelReading:
        """Without its records: mean score of each row over the attack seeds, and its cluster.

        Args:
            clusters: [n] cluster number of each record of the split.
        """
        return ChannelReading(
            channel=self.channel,
            budget=self.budget,
            strength=self.strength,
            clusters=clusters[self.rows].tolist(),
            scores=self.scores.mean(0).tolist(),
            dev_score=self.dev_score,
            seeds=len(self.scores),
        )


def divide(clusters: Sequence[int], seed: int, share_attacker: float, share_dev: float) -> dict[str, list[int]]:
    """Divide clusters at random into what the attacker trains on, what tunes the attack, what is scored.

    Args:
        clusters: [n] cluster number of each forget record, from 0.
        seed: Draws the division.
        share_attacker: Share of clusters for the attacker (T).
        share_dev: Share of clusters for choosing the attack's strength (D).

    Returns:
        Record indices under ``attacker``, ``dev`` and ``scored``; no cluster is in two of them, and each
        gets at least one cluster as long as there are enough.
    """
    ids = np.array(clusters)
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
