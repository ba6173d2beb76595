"""Retraining from the start without the forgotten images: the gold standard, at its full price."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from expunge.engine.method import Edit, Intention
from expunge.errors import InputError
from expunge.vision.methods.fine_tune import FineTune


@dataclass(frozen=True)
class Retrain(Edit):
    """Train anew on the retained images by the target's own recipe: exact, and the yardstick of all others.

    Every parameter and buffer starts from fresh values (a known repository resets direct children only, so that its
    "retrained" model is warm-started).
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
        return job.train(FineTune(), job.base(), training)
