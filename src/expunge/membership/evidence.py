"""What several detectors read of one case: gathered once, its cost measured once and charged to every reader."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from expunge.errors import InputError
from expunge.membership.case import Case, ReferenceModels
from expunge.membership.classifier import Floats, Ints
from expunge.membership.costs import Cost, Meter
from expunge.membership.references import References
from expunge.membership.shadows import Bools
from expunge.membership.signals import Signals


class Taught(NamedTuple):
    """Reference model 0 on the records it or its partner was trained on."""

    signals: Signals
    inside: Bools


@dataclass
class Evidence:
    """Named pieces of evidence of a case.

    ``answers``: the target's `Signals` on the audited records. ``population answers``: the same on the population.
    ``phi``: `References` of the rescaled logit of the audited records. ``population phi``: the same of the population.
    ``taught``: see `Taught`.

    Attributes:
        case: The case.
    """

    case: Case

    def __post_init__(self) -> None:
        self._store: dict[str, tuple[Any, Cost]] = {}

    def __getitem__(self, name: str) -> Any:
        """A piece that was gathered."""
        return self._store[name][0]

    def gather(self, name: str) -> Cost:
        """Gather a piece unless it is there; what it cost in either case."""
        if name not in self._store:
            with Meter() as meter:
                value = {
                    "answers": self._answers, "population answers": self._population_answers, "phi": self._phi,
                    "population phi": self._population_phi, "taught": self._taught,
                }[name](meter)  # fmt: skip
            self._store[name] = value, meter.cost
        return self._store[name][1]

    def _answers(self, meter: Meter) -> Signals:
        return self._asked(meter, self.case.audited)

    def _population_answers(self, meter: Meter) -> Signals:
        return self._asked(meter, self.case.population)

    def _asked(self, meter: Meter, rows: Ints) -> Signals:
        records = self.case.data.take(rows)
        return Signals(meter.counted(self.case.target).logits(records.inputs), records.labels)

    def _phi(self, meter: Meter) -> References:
        return self._references(meter, self.case.references, self.case.audited)

    def _population_phi(self, meter: Meter) -> References:
        models = self.case.population_references or self.case.references
        return self._references(meter, models, self.case.population)

    def _references(self, meter: Meter, models: ReferenceModels, rows: Ints) -> References:
        if len(models) == 0:
            raise InputError("There are no reference models.")
        labels = self.case.data.labels[rows]
        values = np.stack([Signals(models.logits(m)[rows], labels).rescaled for m in range(len(models))])
        meter.charge(models_cost(models.seconds, len(models) * len(rows)))
        inside = models.inside[:, rows]
        return References(values, inside, paired=not (inside[::2] & inside[1::2]).any() and len(models) % 2 == 0)

    def _taught(self, meter: Meter) -> Taught:
        case = self.case
        pool = case.pool
        meter.charge(models_cost(case.references.seconds[:1], len(pool)))
        return Taught(
            Signals(case.references.logits(0)[pool], case.data.labels[pool]), case.references.inside[0, pool]
        )  # fmt: skip


def models_cost(seconds: Floats, asked: int) -> Cost:
    """What having trained some models, and asking them, comes to; unknown times count as nothing."""
    return Cost(other_queries=asked, trainings=len(seconds), training_seconds=float(np.nansum(seconds)))


def confidence(phi: Floats) -> Floats:
    """p_y = 1 / (1 + exp(-phi))."""
    return np.asarray(np.exp(-np.logaddexp(0.0, -phi)), dtype=np.float64)


def cross_entropy(phi: Floats) -> Floats:
    """-log p_y = log(1 + exp(-phi)), nats."""
    return np.asarray(np.logaddexp(0.0, -phi), dtype=np.float64)


def of_references(references: References, change: Any) -> References:
    """The same models and masks with another signal, made of phi."""
    return References(change(references.values), references.inside, references.paired)
