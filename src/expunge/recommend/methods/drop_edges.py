"""Dropping the forgotten edges from the graph and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from expunge.engine.method import Edit, Intention


@dataclass(frozen=True)
class DropEdges(Edit):
    """Keep the weights and propagate over the retained interactions: what any deletion does, at no cost.

    For a model without propagation nothing changes. On random interactions it is hard to beat: collaborative filtering
    infers them again from the rest, in the retrained model too.
    """

    paper: ClassVar[str] = "ours: deletion alone, the baseline every method has to beat"
    intention: ClassVar[Intention] = "removal"

    def apply(self, job: Any) -> Any:
        """Return the target over the retain graph."""
        return job.dropped()
