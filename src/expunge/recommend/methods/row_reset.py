"""Fresh rows for the users and items that have nothing left."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from expunge.engine.method import Edit, Intention
from expunge.engine.training import derive_seed
from expunge.errors import InputError
from expunge.recommend.methods.fine_tune import FineTune
from expunge.recommend.unlearn import emptied_nodes


@dataclass(frozen=True)
class RowReset(Edit):
    """Drop the forgotten edges, and draw anew the rows of every user and item all of whose interactions went.

    That is where retraining leaves those rows: no gradient of the ranking loss reaches them but as negatives. What is
    shared (projections of features, and what the forgotten interactions taught other rows) stays. For requests that
    leave every user and item something, this is `drop-edges`.

    Attributes:
        epochs: Passes of ordinary training over the retained interactions afterwards, by the job's settings.
            Source: ours (0 to 3 make no difference that could be measured on user requests).
    """

    epochs: int = 0
    paper: ClassVar[str] = "ours: the initial rows that retraining would leave behind"
    intention: ClassVar[Intention] = "removal"

    def __post_init__(self) -> None:
        if self.epochs < 0:
            raise InputError(f"row-reset: epochs={self.epochs}; it must be at least 0.")

    def apply(self, job: Any) -> Any:
        """Return the target over the retain graph with fresh rows."""
        subject = job.dropped()
        subject.model.reset_rows(emptied_nodes(job), derive_seed(job.seed, "row-reset"))
        if not self.epochs:
            return subject
        return job.train(FineTune(), subject, replace(job.training, steps=None, epochs=self.epochs))
