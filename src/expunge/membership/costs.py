"""What a detector costs, as measured: time, memory, questions put to models, models trained.

>>> with Meter() as meter:
...     model = meter.counted(_Uniform())
...     _ = model.logits(np.zeros((5, 2)))
>>> meter.cost.queries, meter.cost.trainings
(5, 0)
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from expunge.membership.classifier import Classifier, Floats, Inputs, TorchClassifier

if TYPE_CHECKING:
    import torch

MIB = 2**20


@dataclass(frozen=True)
class Cost:
    """What was spent.

    Attributes:
        seconds: Wall time of the detector itself.
        peak_mib: Most memory of this process above what it held at the start, in MiB.
        queries: Records put to the model under attack.
        other_queries: Records put to reference models.
        gradients: Records run forward and backward through reference models.
        trainings: Models trained, reference models among them.
        training_seconds: What training the reference models took, as measured when they were made.
    """

    seconds: float = 0.0
    peak_mib: float = 0.0
    queries: int = 0
    other_queries: int = 0
    gradients: int = 0
    trainings: int = 0
    training_seconds: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        """Both together; of memory the larger part."""
        sums = {name: getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__}
        return Cost(**{**sums, "peak_mib": max(self.peak_mib, other.peak_mib)})


class Meter:
    """Measures what is done inside a ``with``; questions are counted of models that were passed through `counted`."""

    def __init__(self) -> None:
        """Nothing is counted yet."""
        self.cost = Cost()
        self._handles: list[Any] = []

    def __enter__(self) -> Self:
        self._memory = _reset_peak()
        self._started = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        peak = max(0.0, (_peak() - self._memory) / MIB)
        self.charge(Cost(seconds=time.perf_counter() - self._started, peak_mib=peak))

    def charge(self, cost: Cost) -> None:
        """Add what was spent elsewhere for this detector too: shared evidence, reference models."""
        self.cost = self.cost + cost

    def counted(self, classifier: Classifier, *, attacked: bool = True) -> Classifier:
        """The same model, each of whose answers is counted while the meter runs.

        Args:
            classifier: A model. Of a `TorchClassifier` the rows that reach its module are counted, those that a
                gradient is kept of as gradients.
            attacked: Whether it is the model under attack, or a reference model.
        """
        if isinstance(classifier, TorchClassifier):

            def count(module: torch.nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
                import torch

                first = next(value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor))
                self._count(len(first), attacked, gradient=torch.is_grad_enabled())

            self._handles.append(classifier.module.register_forward_pre_hook(count, with_kwargs=True))
            return classifier
        return _Counted(classifier, lambda rows: self._count(rows, attacked, gradient=False))

    def _count(self, rows: int, attacked: bool, *, gradient: bool) -> None:
        name = "gradients" if gradient else "queries" if attacked else "other_queries"
        self.cost = replace(self.cost, **{name: getattr(self.cost, name) + rows})


class _Counted:
    """A classifier that tells of every question."""

    def __init__(self, classifier: Classifier, tell: Any) -> None:
        self.inner, self.tell = classifier, tell

    @property
    def classes(self) -> int:
        return self.inner.classes

    def logits(self, x: Inputs) -> Floats:
        self.tell(len(x))
        return self.inner.logits(x)


class _Uniform:
    classes = 2

    def logits(self, x: Inputs) -> Floats:
        return np.zeros((len(x), 2))


# Linux keeps the highest resident size of a process since it was last reset; elsewhere the highest since its start is
# known, and what stays below an earlier peak measures 0.


def _reset_peak() -> float:
    """Forget the peak where the system can; bytes from which the next one counts."""
    try:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
            file.write("5")
    except OSError:
        return _peak()
    return _status("VmRSS")


def _peak() -> float:
    """Highest resident size in bytes."""
    try:
        return _status("VmHWM")
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


def _status(name: str) -> float:
    with open("/proc/self/status", encoding="ascii") as file:
        line = next(line for line in file if line.startswith(f"{name}:"))
    return float(line.split()[1]) * 1024
