"""Modality removal: the right to an item's pictures or texts has lapsed, the right to show the item has not."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from expunge.engine.method import Intention
from expunge.errors import InputError
from expunge.recommend.methods.fine_tune import FineTune
from expunge.recommend.modality import Fill, remove_modality
from expunge.recommend.unlearn import FeatureEdit, erased_items


@dataclass(frozen=True)
class ModalityRemoval(FeatureEdit):
    """Replace the banned features of the items of a request, and fine-tune so that the rest settles.

    The items are those the request names, or else all items of its interactions. Interactions, items and graph stay;
    no score depends on the banned rows any more, exactly. What shared projections learnt from them in training fades
    with fine-tuning on everything and is gone only after retraining.

    Attributes:
        modality: Which, such as ``visual``; None for all that the recommender reads. Source: paper (title).
        fill: What the rows become: the ``mean`` of all other items' rows, or ``zero``. Source: ours.
    """

    paper: ClassVar[str] = (
        "Sinha, Mandal, Kankanhalli, Multi-Modal Recommendation Unlearning for Legal, Licensing, and Modality "
        "Constraints, 2024 (arXiv 2405.15328); the procedure is ours"
    )
    intention: ClassVar[Intention] = "removal"

    modality: str | None = None
    fill: Fill = "mean"

    def __post_init__(self) -> None:
        if self.fill not in ("mean", "zero"):
            raise InputError(f"modality-removal: fill={self.fill!r} must be one of mean, zero.")

    def apply(self, job: Any) -> Any:
        """Return the subject without the features.

        Raises:
            InputError: The recommender reads no features, or not these.
        """
        named = erased_items(job.forget)
        items = named if len(named) else job.forget.pairs[:, 1].unique()
        remove_modality(job.subject.model, items, self.modality, self.fill)
        served = job.subject.served
        nothing = served.take(torch.zeros(0, dtype=torch.long))
        tuning = replace(job, forget=nothing, retain=served)
        if job.training.total_steps(len(served)):
            tuning.train(FineTune(), job.subject)
        return job.subject
