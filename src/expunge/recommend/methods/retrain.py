"""Retraining from the start without the forgotten interactions: the gold standard, at its full price."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from expunge.engine.method import Edit, Intention
from expunge.errors import InputError
from expunge.recommend.methods.fine_tune import FineTune


@dataclass(frozen=True)
class Retrain(Edit):
    """Train anew on the retained interactions by the target's own recipe: exact, and the yardstick of all others.

    The same seed gives the same initial values, so that users and items left without interactions keep theirs. Items
    whose erasure was asked for are no negatives any more unless the request keeps them in the catalogue: where they
    stay, retraining pushes them down, and a method that leaves them in peace looks worse than it is.
    """

    paper: ClassVar[str] = "the definition of exact unlearning (Cao and Yang, IEEE S&P 2015)"
    intention: ClassVar[Intention] = "removal"

    def apply(self, job: Any) -> Any:
        """Return the retrained subject.

        Raises:
            InputError: Nothing says how the target was trained.
        """
        if job.base is None or job.base_training is None:
            raise InputError("retrain: nothing says how the target was trained (target.train in the recipe).")
        everything = len(job.retain) + len(job.forget)
        training = job.base_training.for_share(len(job.retain), everything)
        return job.train(FineTune(), job.dropped(job.base()), training)
