"""How a model of the attacked kind is trained: what reference models, proxies and regressors are made by.

A detector that trains models asks a `Learner` for them. `TorchLearner` trains any torch architecture, `SklearnLearner`
any estimator; both are plain data, so that they travel to worker processes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from expunge.errors import InputError, RunError
from expunge.membership.classifier import (
    Classifier,
    Encode,
    Ints,
    Records,
    SklearnClassifier,
    TorchClassifier,
    as_rows,
)

if TYPE_CHECKING:
    import torch


class Learner(Protocol):
    """An architecture with the settings of its training."""

    @property
    def name(self) -> str:
        """All that a trained model depends on beside records and seed, in words; part of the key of its file."""
        ...

    def fit(self, records: Records, seed: int) -> Classifier:
        """Train a classifier; the same records and seed give the same one."""
        ...

    def revive(self, weights: Mapping[str, NDArray[Any]]) -> Classifier | None:
        """A classifier of filed weights; None where none are filed."""
        ...


@dataclass(frozen=True)
class Training:
    """The settings of a training from random weights, without early stopping: a model is meant to fit its data.

    Attributes:
        epochs: Passes over the records.
        lr: Learning rate at the start.
        batch: Records of a step.
        optimizer: ``sgd`` (momentum 0.9, cosine decay), ``adam`` or ``adamw``.
        weight_decay: Of the optimizer.
    """

    epochs: int = 200
    lr: float = 1e-3
    batch: int = 256
    optimizer: Literal["sgd", "adam", "adamw"] = "adam"
    weight_decay: float = 1e-4


@dataclass(frozen=True)
class TorchLearner:
    """A torch architecture.

    Attributes:
        label: Name of the architecture.
        build: Makes an untrained module with that many outputs.
        classes: Number of classes.
        training: See `Training`.
        encode: Texts to a batch; None for records that are numbers.
        device: Where models are trained and evaluated.
    """

    label: str
    build: Callable[[int], torch.nn.Module]
    classes: int
    training: Training = field(default_factory=Training)
    encode: Encode | None = None
    device: str = "cpu"

    @property
    def name(self) -> str:
        """See `Learner`."""
        return f"{self.label}, {self.classes} classes, {self.training}"

    def fit(self, records: Records, seed: int) -> TorchClassifier:
        """See `Learner`.

        Raises:
            InputError: A label beyond the classes.
            RunError: The loss is not finite.
        """
        import torch

        if records.labels.max() >= self.classes:
            raise InputError(f"A record has label {records.labels.max()}; {self.label} knows {self.classes} classes.")
        classifier = self._untrained(seed)
        labels = torch.from_numpy(records.labels).to(self.device)
        train_module(
            classifier.module,
            lambda rows: torch.nn.functional.cross_entropy(classifier.forward(batch_of(classifier, records, rows)),
                                                           labels[torch.from_numpy(rows)]),
            len(records), seed, self.training,
        )  # fmt: skip
        return classifier

    def revive(self, weights: Mapping[str, NDArray[Any]]) -> TorchClassifier:
        """See `Learner`."""
        import torch

        classifier = self._untrained(0)
        classifier.module.load_state_dict({name: torch.from_numpy(np.array(w)) for name, w in weights.items()})
        return classifier

    def _untrained(self, seed: int) -> TorchClassifier:
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed % 2**63)
            module = self.build(self.classes)
        return TorchClassifier(module, classes=self.classes, encode=self.encode, device=self.device)


def batch_of(classifier: TorchClassifier, records: Records, rows: Ints) -> Any:
    """What the module is called with for some of the records."""
    if isinstance(records.inputs, np.ndarray):
        return classifier.tensor(records.inputs[rows])
    return classifier.tensor([records.inputs[i] for i in rows])


def train_module(
    module: torch.nn.Module, loss_of: Callable[[Ints], torch.Tensor], n: int, seed: int, training: Training
) -> None:
    """Train a module in place on n rows.

    Args:
        module: The module; left in evaluation mode.
        loss_of: Mean loss of a batch of rows.
        n: Number of rows.
        seed: Fixes order and dropout.
        training: See `Training`.

    Raises:
        RunError: The loss is not finite.
    """
    import torch

    t, rng = training, np.random.default_rng([seed, 7])
    optimizer = _optimizer(module, t)
    steps = t.epochs * -(-n // t.batch)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps)) if t.optimizer == "sgd" else None
    module.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed % 2**63)
        for _ in range(t.epochs):
            order = rng.permutation(n)
            for start in range(0, n, t.batch):
                optimizer.zero_grad(set_to_none=True)
                loss = loss_of(order[start : start + t.batch])
                loss.backward()
                optimizer.step()
                if decay is not None:
                    decay.step()
            if not bool(torch.isfinite(loss)):
                raise RunError(f"A training ended in a loss that is not finite; lower its learning rate ({t.lr}).")
    module.eval()


def _optimizer(module: torch.nn.Module, t: Training) -> torch.optim.Optimizer:
    import torch

    if t.optimizer == "sgd":
        return torch.optim.SGD(module.parameters(), lr=t.lr, momentum=0.9, weight_decay=t.weight_decay)
    kind = torch.optim.Adam if t.optimizer == "adam" else torch.optim.AdamW
    return kind(module.parameters(), lr=t.lr, weight_decay=t.weight_decay)


@dataclass(frozen=True)
class SklearnLearner:
    """A scikit-learn estimator, or anything else with ``fit``, ``predict_proba`` and ``classes_``.

    Attributes:
        label: Name of the estimator and its settings.
        build: Makes an unfitted estimator for a seed.
        classes: Number of classes.
    """

    label: str
    build: Callable[[int], Any]
    classes: int

    @property
    def name(self) -> str:
        """See `Learner`."""
        return f"{self.label}, {self.classes} classes"

    def fit(self, records: Records, seed: int) -> SklearnClassifier:
        """See `Learner`."""
        if records.kind == "text":
            raise InputError(f"{self.label} takes numbers; the records are texts.")
        estimator = self.build(seed % 2**32)
        estimator.fit(as_rows(records.inputs), records.labels)
        return SklearnClassifier(estimator, self.classes)

    def revive(self, weights: Mapping[str, NDArray[Any]]) -> None:
        """See `Learner`: no weights are filed, so a model is trained again."""


@dataclass(frozen=True, eq=False)
class TrainOn:
    """``train(rows, seed)`` for `train_references`: a learner on some of the records."""

    learner: Learner
    records: Records

    def __call__(self, rows: Ints, seed: int) -> Classifier:
        """Train on these rows."""
        return self.learner.fit(self.records.take(rows), seed)
