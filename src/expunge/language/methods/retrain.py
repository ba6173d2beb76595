"""Retraining from scratch without the forget set: the gold standard, at its price."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from expunge.engine.method import Edit, Intention
from expunge.errors import InputError
from expunge.language.methods.fine_tune import FineTune
from expunge.language.subject import Subject
from expunge.language.unlearn import UnlearnJob


@dataclass(frozen=True)
class Retrain(Edit):
    """Retraining: take the model as it was before training, and train it on the retain set alone.

    The recipe is the one that made the target, with as many passes over the smaller set; the method's own
    training settings are not used.
    """

    paper: ClassVar[str] = (
        "Bourtoule et al., Machine Unlearning, IEEE S&P 2021 (arXiv 1912.03817), naive retraining; as in TOFU "
        "(Maini et al., COLM 2024, arXiv 2401.06121)"
    )
    intention: ClassVar[Intention] = "removal"

    def apply(self, job: UnlearnJob) -> Subject:
        """Return the retrained model.

        Raises:
            InputError: Nothing says what the target was trained from or how, or there is no retain set.
        """
        if job.base is None or job.base_training is None:
            raise InputError(
                "retrain: it is not known what the target was trained from, and how; a recipe says so under "
                "'target.train'."
            )
        training = job.base_training.for_share(len(job.retain), len(job.forget) + len(job.retain))
        return job.train(FineTune(), job.base(), training, part="retrain", quiet=True)
