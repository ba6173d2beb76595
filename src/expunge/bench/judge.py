"""What one audited model is worth: its distance to gold on the judged records, read from its run folder."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from expunge.report.assemble import ModelAudit
from expunge.report.scorecard import Scorecard

# What distance to gold is made of: name in the files, heading, meaning.
DISTANCES = {
    "forget": ("forget", "right answers about the forgotten subjects that no search looked at"),
    "paraphrase": ("reworded", "the same in wordings that were never trained on"),
    "membership": ("member AUC", "how well a loss threshold tells forgotten from never-seen records"),
    "inside": ("inside", "right answers about them read from the model's features by a fresh head"),
    "relearned": ("relearned", "right answers on held-out forgotten records after relearning the others"),
}


def values_of(
    folder: Path,
    name: str,
    judged: Mapping[str, Any],
    card: Scorecard,
    retain: float,
    show: Sequence[str] = (),
) -> dict[str, float]:
    """The judged values of one model of a run; what was not measured is left out.

    Args:
        folder: The run folder.
        name: The model.
        judged: Split to the numbers of the clusters that count.
        card: The run's scorecard.
        retain: The model's score on the judged retain records.
        show: Further findings, as metric and split with an @ between; they are not judged.
    """
    audit = ModelAudit.load(folder / "audit" / f"{name}.json")
    found = {
        "forget": _mean(audit, "direct", judged["forget"]),
        "paraphrase": _mean(audit, "paraphrase", judged.get("forget_paraphrase", ())),
        "membership": card.value(_membership(card), "forget", name),
        "inside": _mean(audit, "inside", judged["forget"]),
        "relearned": card.value("relearning.held_out_accuracy", "forget", name),
        "retain": retain,
        **{key: card.value(metric, split, name) for key in show for metric, split in [key.split("@")]},
    }
    return {key: round(value, 6) for key, value in found.items() if value is not None and math.isfinite(value)}


def _membership(card: Scorecard) -> str:
    """The membership attack of the run's summary: every wing has one that needs a single look."""
    names = [metric for _, metric, _ in card.run.get("columns", ()) if metric.startswith("membership.")]
    return names[0] if names else "membership.loss.auroc"


def _mean(audit: ModelAudit, channel: str, clusters: Any) -> float | None:
    reading = audit.reading(channel)
    if reading is None:
        return None
    wanted = set(clusters)
    scores = [s for s, c in zip(reading.scores, reading.clusters, strict=True) if c in wanted]
    return sum(scores) / len(scores) if scores else None


def excess_of(values: Mapping[str, float], gold: Mapping[str, float]) -> dict[str, float]:
    """Signed distance to gold, value by value: above 0 knowledge is left, below 0 it was over-forgotten."""
    return {key: round(values[key] - gold[key], 6) for key in DISTANCES if key in values and key in gold}


def distance_of(excess: Mapping[str, float]) -> float:
    """Mean size of the excess over what was measured.

    >>> distance_of({"forget": 0.1, "paraphrase": -0.3})
    0.2
    """
    return round(sum(abs(v) for v in excess.values()) / len(excess), 6) if excess else math.nan
