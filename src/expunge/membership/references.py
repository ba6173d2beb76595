"""A signal of reference models on the audited records, and which of them were trained on which record.

>>> r = References(np.array([[1.0, 5.0], [3.0, 1.0]]), np.array([[True, False], [False, True]]), paired=True)
>>> r.outside.median.tolist(), r.both[0].median.tolist()
([3.0, 5.0], [1.0, 1.0])
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expunge.errors import InputError

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
BLOCK = 4_000_000  # numbers sorted at a time


class Side(NamedTuple):
    """The reference models that were (or were not) trained on a record, summed up record by record.

    Attributes:
        models: [n] how many.
        median: [n] of their values.
        mean: [n].
        deviation: [n] standard deviation over models (divided by the count, as in the published code).
        spread: One standard deviation over the values of all records.
    """

    models: NDArray[np.int64]
    median: Floats
    mean: Floats
    deviation: Floats
    spread: float


class StandIn(NamedTuple):
    """A reference model in the place of the target: its training data is known, so attacks on it can be tuned.

    Attributes:
        model: Which one.
        values: [n] its signal.
        inside: [n] whether it was trained on the record.
        others: The models left to attack it with: all, or all but its partner where models are paired, because what
            the partner was trained on says what this one was not.
    """

    model: int
    values: Floats
    inside: Bools
    others: References


@dataclass(frozen=True, eq=False)
class References:
    """Values of one signal under M reference models.

    Attributes:
        values: [M, n] the signal of record i under model m; finite.
        inside: [M, n] whether record i was among the training data of model m.
        paired: Whether models 2k and 2k + 1 were trained on complementary halves.
    """

    values: Floats
    inside: Bools
    paired: bool = False

    def __post_init__(self) -> None:
        values, inside = np.asarray(self.values, dtype=np.float64), np.asarray(self.inside)
        if values.ndim != 2 or 0 in values.shape:
            raise InputError(f"Values of reference models have shape {values.shape}; they must be [models, records].")
        if inside.shape != values.shape or inside.dtype != np.bool_:
            raise InputError(
                f"The training masks of reference models must be booleans of shape {values.shape}; "
                f"found {inside.dtype} of shape {inside.shape}."
            )
        if not np.isfinite(values).all():
            m, i = (int(k) + 1 for k in np.argwhere(~np.isfinite(values))[0])
            raise InputError(f"Reference model {m} gives record {i} the value {values[m - 1, i - 1]}: not finite.")
        if self.paired and len(values) % 2:
            raise InputError(f"{len(values)} reference models cannot be paired: the number must be even.")
        if self.paired:
            twice = inside[::2] & inside[1::2]
            if twice.any():
                k, i = (int(j) for j in np.argwhere(twice)[0])
                raise InputError(f"Reference models {2 * k + 1} and {2 * k + 2} are no pair: both have record {i + 1}.")
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "inside", inside)

    def __len__(self) -> int:
        """M."""
        return len(self.values)

    @property
    def records(self) -> int:
        """The number of records, n."""
        return int(self.values.shape[1])

    @cached_property
    def outside(self) -> Side:
        """The models that were not trained on a record, *all* of them, found by the mask.

        Raises:
            InputError: A record without such a model.
        """
        missing = self.inside.all(0)
        if missing.any():
            raise InputError(f"Record {_first(missing)} has no OUT model: all {len(self)} were trained on it.")
        return _side(self.values, ~self.inside)

    @cached_property
    def both(self) -> tuple[Side, Side]:
        """The models that were trained on a record, and those that were not.

        Raises:
            InputError: A record without one or the other, as in offline data.
        """
        missing = ~self.inside.any(0)
        if missing.any():
            raise InputError(
                f"Record {_first(missing)} has no IN model among {len(self)}: this is offline data, and an online "
                f"method needs models trained on each record."
            )
        return _side(self.values, self.inside), self.outside

    @property
    def online(self) -> bool:
        """Whether each record has a model of either kind."""
        return bool(self.inside.any(0).all() and not self.inside.all(0).any())

    def without(self, *models: int) -> References:
        """The other models, no longer counted as pairs unless whole pairs are left out."""
        kept = np.setdiff1d(np.arange(len(self)), models)
        pairs = {m // 2 for m in models}
        return References(self.values[kept], self.inside[kept], self.paired and len(kept) == len(self) - 2 * len(pairs))

    def take(self, records: ArrayLike) -> References:
        """Some of the records, by index or by mask."""
        chosen = np.asarray(records)
        return References(self.values[:, chosen], self.inside[:, chosen], self.paired)

    def target(self, values: ArrayLike) -> Floats:
        """[n] values of the model under attack on the same records, checked.

        Raises:
            InputError: Another number of records, or a value that is not finite.
        """
        found = np.asarray(values, dtype=np.float64)
        if found.shape != (self.records,):
            raise InputError(
                f"The target has values of shape {found.shape}; its references have {self.records} records."
            )
        if not np.isfinite(found).all():
            raise InputError(f"The target's value of record {_first(~np.isfinite(found))} is not finite.")
        return found

    def stand_ins(self, count: int | None = None) -> Iterator[StandIn]:
        """Reference models in the place of the target, the first of each pair first.

        Args:
            count: How many; None for all M.

        Raises:
            InputError: Too few models to spare one: 2, or 4 in pairs.
        """
        least = 4 if self.paired else 2
        if len(self) < least:
            raise InputError(f"{len(self)} reference models: a stand-in for the target needs at least {least}.")
        order = [*range(0, len(self), 2), *range(1, len(self), 2)] if self.paired else [*range(len(self))]
        for m in order[:count]:
            spared = (m, m ^ 1) if self.paired else (m,)
            yield StandIn(m, self.values[m], self.inside[m], self.without(*spared))


def _side(values: Floats, chosen: Bools) -> Side:
    """Sorted before they are summed, so that equal lists give equal numbers to the last bit."""
    width = max(1, BLOCK // len(values))
    blocks = [_block(values[:, s : s + width], chosen[:, s : s + width]) for s in range(0, values.shape[1], width)]
    count, median, mean, deviation = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    grand = (count * mean).sum() / count.sum()
    spread = np.sqrt((count * (deviation**2 + (mean - grand) ** 2)).sum() / count.sum())
    return Side(count.astype(np.int64), median, mean, deviation, float(spread))


def _block(values: Floats, chosen: Bools) -> tuple[Floats, ...]:
    ordered = np.sort(np.where(chosen, values, np.inf), axis=0)
    count = chosen.sum(0)
    counted = np.arange(len(values))[:, None] < count
    middle = np.stack([(count - 1) // 2, count // 2])
    median = np.take_along_axis(ordered, middle, axis=0).mean(0)
    mean = np.where(counted, ordered, 0.0).sum(0) / count
    deviation = np.sqrt((np.where(counted, ordered - mean, 0.0) ** 2).sum(0) / count)
    return count.astype(np.float64), median, mean, deviation


def _first(bad: ArrayLike) -> int:
    return int(np.argmax(bad)) + 1
