"""When a training counts as finished: the forget set reads like unseen text, or as little of it is known as by gold.

The stop rule of Jang et al. (ACL 2023): unlearning goes on until, at one and the same evaluation, the mean
extraction likelihood and the mean memorisation accuracy of the forget set are below thresholds, then ends; how
many epochs that took, and what utility is left, are the result. That of MUSE (Shi et al., ICLR 2025): the first
checkpoint whose KnowMem on the forget set is not above gold's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torch import nn

from expunge.engine.loop import TrainLog
from expunge.errors import InputError
from expunge.language.data import Record
from expunge.language.metrics.extraction_likelihood import measured
from expunge.language.metrics.knowledge_memorization import Space, knowledge_memorization
from expunge.language.subject import Subject

EL, MA = "extraction_likelihood", "memorization_accuracy"
KNOWMEM = "muse.knowmem"


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
class Rule:
    """What ends a training: readings of the forget set, and what they have to be. For `Observers`.

    Attributes:
        subject: Feeds the model: tokenizer, template, maximum length.
        forget: What must go.
    """

    subject: Subject
    forget: list[Record]

    def beside(self, gold: Callable[[], Subject] | None) -> Rule:
        """The rule once it is known whether there is a gold model.

        Args:
            gold: Loads it; None where there is none.

        Raises:
            InputError: The rule compares with gold and there is none.
        """
        return self

    def probe(self, model: nn.Module) -> dict[str, float]:
        """The readings under a model."""
        raise NotImplementedError

    def stop(self, values: dict[str, float]) -> str | None:
        """Why the training ends here; None while it goes on."""
        raise NotImplementedError


@dataclass(frozen=True)
class StopRule(Rule):
    """Ends a training once the forget set reads like unseen text.

    Attributes:
        thresholds: Both readings must be below these.
        n: Length of the n-grams.
    """

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


def first_at_most(values: Sequence[float], level: float) -> int:
    """Which of several checkpoints, in their order, MUSE takes: the first not above a level, else the last.

    >>> first_at_most([0.6, 0.4, 0.33, 0.2], 0.331), first_at_most([0.6, 0.4], 0.331)
    (2, 1)

    Raises:
        InputError: There is none, or a value is no number.
    """
    if not values or any(math.isnan(v) for v in values):
        raise InputError("There is nothing to choose from: no checkpoint, or one whose reading is no number.")
    return next((i for i, value in enumerate(values) if value <= level), len(values) - 1)


@dataclass(frozen=True)
class KnowledgeRule(Rule):
    """Ends a training at the first probe at which KnowMem on the forget set is not above gold's.

    Attributes:
        level: Gold's value; None until `beside` measures it.
        max_new_tokens: As in the metric.
        space: As in the metric.
    """

    level: float | None = None
    max_new_tokens: int = 32
    space: Space = "prompt"

    def beside(self, gold: Callable[[], Subject] | None) -> KnowledgeRule:
        """See `Rule`; a level that is known already needs no gold model."""
        if self.level is not None:
            return self
        if gold is None:
            raise InputError(
                "muse: the stopping rule compares with the gold model and there is none: give one (gold.source), "
                "take the published value (benchmark.reference=news or books), or train without the rule "
                "(benchmark.stop=none)."
            )
        return replace(self, level=self._mean(gold()))

    def probe(self, model: nn.Module) -> dict[str, float]:
        """Mean KnowMem of the forget set under a model."""
        return {KNOWMEM: self._mean(self.subject.with_model(model))}

    def stop(self, values: dict[str, float]) -> str | None:
        """Why the training ends here; None while more is known than gold knows."""
        value, level = values[KNOWMEM], self.level
        if level is None or first_at_most([value, -math.inf], level):
            return None
        return f"forgotten: KnowMem {value:.4f} is not above {level:.4f}, gold's"

    def _mean(self, subject: Subject) -> float:
        return float(knowledge_memorization(subject, self.forget, self.max_new_tokens, self.space).mean())


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
