"""When a text counts as forgotten: both its readings under those of text the model has never seen.

The stop rule of Jang et al. (ACL 2023): unlearning goes on until, at one and the same evaluation, the mean
extraction likelihood and the mean memorisation accuracy of the forget set are below thresholds, then ends; how
many epochs that took, and what utility is left, are the result.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import nn

from expunge.engine.loop import TrainLog
from expunge.errors import InputError
from expunge.language.data import Record
from expunge.language.metrics.extraction_likelihood import measured
from expunge.language.subject import Subject

EL, MA = "extraction_likelihood", "memorization_accuracy"


@dataclass(frozen=True)
class Thresholds:
    """What text that was never seen reads.

    Attributes:
        el: Mean EL_n.
        ma: Mean MA.
        source: Where the two come from.
    """

    el: float
    ma: float
    source: str = ""

    def __post_init__(self) -> None:
        for name in ("el", "ma"):
            value = getattr(self, name)
            if not 0 < value <= 1:
                raise InputError(f"tdec: the threshold {name}={value} must lie above 0 and not above 1.")


def thresholds_of(subject: Subject, unseen: list[Record], n: int = 10) -> Thresholds:
    """The mean readings of unseen text under the model to be unlearned, before it is.

    Args:
        subject: The model.
        unseen: Text it was not trained on.
        n: Length of the n-grams.

    Raises:
        InputError: No text; one of n tokens or fewer; a mean of 0, below which nothing can fall.
    """
    if not unseen:
        raise InputError("tdec: thresholds need unseen text and there is none; name a file with holdout.")
    el, ma = measured(subject, unseen, n, where="holdout")
    if not el.mean() > 0 or not ma.mean() > 0:
        raise InputError(
            f"tdec: the {len(unseen)} unseen texts read EL={el.mean():g} and MA={ma.mean():g}, and nothing falls "
            f"below 0; take more of them or a smaller n than {n}."
        )
    return Thresholds(float(el.mean()), float(ma.mean()), f"{len(unseen)} unseen texts")


@dataclass(frozen=True)
class StopRule:
    """Ends a training once the forget set reads like unseen text. `probe` and `stop` are for `Observers`.

    Attributes:
        subject: Feeds the model: tokenizer, template, maximum length.
        forget: What must go.
        thresholds: Both readings must be below these.
        n: Length of the n-grams.
    """

    subject: Subject
    forget: list[Record]
    thresholds: Thresholds
    n: int = 10

    def probe(self, model: nn.Module) -> dict[str, float]:
        """Mean EL_n and MA of the forget set under a model."""
        el, ma = measured(self.subject.with_model(model), self.forget, self.n, where="forget")
        return {EL: float(el.mean()), MA: float(ma.mean())}

    def stop(self, values: dict[str, float]) -> str | None:
        """Why the training ends here; None while either reading is not below its threshold."""
        el, ma, limits = values[EL], values[MA], self.thresholds
        if not (el < limits.el and ma < limits.ma):
            return None
        return f"forgotten: EL {el:.4f} < {limits.el:.4f} and MA {ma:.4f} < {limits.ma:.4f}, as unseen text reads"


def epochs_used(log: TrainLog, rows: int, batch_size: int) -> float:
    """Passes over the forget set that a training took.

    Args:
        log: Its log.
        rows: Size of the forget set.
        batch_size: Rows per optimiser step.

    >>> epochs_used(TrainLog(steps=[{}] * 6), rows=32, batch_size=16)
    3.0
    """
    return len(log.steps) / math.ceil(rows / batch_size)
