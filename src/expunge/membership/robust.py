"""RMIA (Zarifzadeh et al. 2024, arXiv 2312.03262): a record against many population records, one at a time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expunge.errors import InputError
from expunge.membership.curves import auroc
from expunge.membership.references import Floats, References

PUBLISHED_A: Mapping[str, float] = MappingProxyType(
    {"cifar10": 0.3, "cinic10": 0.3, "cifar100": 0.6, "imagenet": 1.0, "purchase100": 0.2, "other": 0.4}
)
GRID = tuple(round(0.1 * k, 1) for k in range(11))


@dataclass(frozen=True, eq=False)
class Population:
    """Records z the target was not trained on.

    Attributes:
        target: [z] P(z) = p_y under the target.
        references: P(z) under reference models with the models' own masks over z; they need not be the models that
            judge the audited records.
        rows: [z] what identifies each record (its row in the whole data, a hash), to refuse audited ones.
    """

    target: Floats
    references: References
    rows: NDArray[np.generic]

    def __post_init__(self) -> None:
        target = self.references.target(self.target)
        _probabilities(target, "population record", "the target")
        rows = np.asarray(self.rows)
        if rows.shape != target.shape:
            raise InputError(f"{len(target)} population records but row numbers of shape {rows.shape}.")
        object.__setattr__(self, "target", target)
        object.__setattr__(self, "rows", rows)

    def take(self, records: ArrayLike) -> Population:
        """Some of the records, by index or by mask."""
        chosen = np.asarray(records)
        return Population(self.target[chosen], self.references.take(chosen), self.rows[chosen])


class ChosenA(NamedTuple):
    """The constant of offline RMIA that attacks the stand-ins best, and its mean AUROC for each value tried."""

    a: float
    auroc: dict[float, float]


def model_robust(
    p: ArrayLike,
    references: References,
    population: Population,
    rows: ArrayLike,
    *,
    mode: Literal["online", "offline"] = "online",
    a: float | None = None,
    gamma: float = 2.0,
) -> Floats:
    """Share of population records z that x beats: mean_z 1[r(x) / r(z) > gamma], r = P_target / P.

    ``online``: P = (mean_in P + mean_out P) / 2 over reference models. ``offline``: P = ((1 + a) mean_out P + 1 - a)
    / 2, because mean_in is about a mean_out + 1 - a. The population's own P is the online one where each z has IN and
    OUT models, as in TDDBench, whose z come from the data other models were trained on; otherwise it is the offline
    one, of *all* OUT models. (A known implementation keeps the largest half of them, which pulls r(z) down.)

    Published `a`: 0.3 for CIFAR-10 and CINIC-10, 0.6 for CIFAR-100, 1 for ImageNet, 0.2 for Purchase-100, 0.4 else
    (`PUBLISHED_A`); `choose_a` finds one without touching the target. gamma is 2 in TDDBench, 1 in Privacy Meter.

    z are sorted once, so the table of all pairs is never made. Where P(x) = 0 under target and references r is 1, the
    limit of a vanishing floor.

    Args:
        p: [n] P(x) = p_y under the target, or any non-negative likelihood.
        references: P(x) under the reference models; an OUT model for each record, online also an IN model.
        population: Records the target has not seen.
        rows: [n] what identifies the audited records, as in `Population.rows`.
        mode: See above.
        a: In [0, 1]; needed offline, and online where z have no IN models.
        gamma: Above 0.

    Returns:
        [n] scores in [0, 1], multiples of 1/z.

    Raises:
        InputError: A population record is among the audited ones, a negative P, no `a` where it is needed, or
            references without the models that the mode needs.
    """
    x = references.target(p)
    _probabilities(x, "record", "the target")
    _disjoint(np.asarray(rows), population.rows, len(x))
    if not 0 < gamma < np.inf:
        raise InputError(f"RMIA: gamma={gamma} must be above 0 and finite.")
    if mode not in ("online", "offline"):
        raise InputError(f"RMIA: mode {mode!r}; it must be 'online' or 'offline'.")
    ratio_x = _ratio(x, _average(references, online=mode == "online", a=a))
    ratio_z = _ratio(population.target, _average(population.references, online=population.references.online, a=a))
    beaten = np.searchsorted(np.sort(gamma * ratio_z), ratio_x, side="left")  # how many gamma r(z) < r(x)
    return np.asarray(beaten / len(ratio_z), dtype=np.float64)


def choose_a(
    references: References,
    population: References,
    rows: ArrayLike,
    population_rows: ArrayLike,
    *,
    gamma: float = 2.0,
    grid: Iterable[float] = GRID,
    stand_ins: int | None = None,
) -> ChosenA:
    """The `a` of offline RMIA that attacks reference models best; the target and its members are never looked at.

    Each reference model stands in for the target in turn and is attacked offline with the others, its partner left
    out; population records it was trained on are left out too. The mean AUROC decides, the smaller `a` at equal ones.

    Args:
        references: P of records that reference models were trained on: for offline audits those of the shadow part.
        population: [M, z] P of population records under the *same* models.
        rows: [n] what identifies the former.
        population_rows: [z] what identifies the latter.
        gamma: See `model_robust`.
        grid: Values tried, each in [0, 1].
        stand_ins: How many models are attacked; None for all.

    Returns:
        The choice.

    Raises:
        InputError: As `model_robust`; references that are not paired, other models for the population, or a stand-in
            that was trained on all records or on none.
    """
    if not references.paired:
        raise InputError("RMIA: `a` is chosen by attacking paired reference models; these are not said to be paired.")
    if len(population) != len(references):
        raise InputError(f"RMIA: {len(references)} models for the records but {len(population)} for the population.")
    tried: dict[float, list[float]] = {float(a): [] for a in grid}
    if not tried:
        raise InputError("RMIA: no value of `a` to try.")
    every = np.asarray(population_rows)
    for model, values, inside, others in references.stand_ins(stand_ins):
        unseen = ~population.inside[model]
        if inside.all() or not inside.any() or not unseen.any():
            raise InputError(f"RMIA: reference model {model + 1} cannot stand in for the target: one side is empty.")
        left = population.without(model, model ^ 1).take(unseen)
        z = Population(population.values[model, unseen], left, every[unseen])
        for a, found in tried.items():
            scores = model_robust(values, others, z, rows, mode="offline", a=a, gamma=gamma)
            found.append(auroc(scores[inside], scores[~inside]))
    means = {a: float(np.mean(found)) for a, found in sorted(tried.items())}
    return ChosenA(max(means, key=means.__getitem__), means)


def _average(references: References, *, online: bool, a: float | None) -> Floats:
    """[n] P(x), the probability under models whether or not they were trained on x."""
    _probabilities(references.values.ravel(), "value", "a reference model")
    if online:
        inside, outside = references.both
        return (inside.mean + outside.mean) / 2
    if a is None or not 0 <= a <= 1:
        raise InputError(f"RMIA: a={a}; without IN models it is needed and must lie in [0, 1].")
    return ((1 + a) * references.outside.mean + 1 - a) / 2


def _ratio(target: Floats, average: Floats) -> Floats:
    empty = average == 0
    with np.errstate(over="ignore"):
        ratio = target / np.where(empty, 1.0, average)
    return np.where(empty, np.where(target == 0, 1.0, np.inf), ratio)


def _disjoint(rows: NDArray[np.generic], population: NDArray[np.generic], n: int) -> None:
    if rows.shape != (n,):
        raise InputError(f"{n} audited records but row numbers of shape {rows.shape}.")
    shared = np.intersect1d(rows, population)
    if len(shared):
        raise InputError(f"{len(shared)} population records are among the audited ones, the first is row {shared[0]}.")


def _probabilities(values: Floats, what: str, model: str) -> None:
    if values.min() < 0:
        raise InputError(
            f"RMIA: {model} gives {what} {int(values.argmin()) + 1} the negative likelihood {values.min()}."
        )
