"""Classifiers behind one verb, and the records they are asked about.

Every detector sees a model as ``logits(x)``. A fitted scikit-learn estimator and a torch module are wrapped in one
line each:

>>> import torch
>>> module = torch.nn.Linear(2, 3)
>>> TorchClassifier(module, classes=3).logits(np.zeros((4, 2))).shape
(4, 3)

>>> class Fitted:  # anything with `predict_proba` and `classes_`
...     classes_ = np.array([0, 2])
...     def predict_proba(self, x):
...         return np.full((len(x), 2), 0.5)
>>> np.exp(SklearnClassifier(Fitted(), classes=3).logits(np.zeros((1, 2)))).round(2).tolist()
[[0.5, 0.0, 0.5]]

Nothing of torch is imported before a `TorchClassifier` is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expunge.errors import InputError

if TYPE_CHECKING:
    import torch

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]
Inputs: TypeAlias = NDArray[Any] | Sequence[str]
Encode: TypeAlias = Callable[[Sequence[str]], Any]
Kind = Literal["image", "continuous", "binary", "text"]

TINY = 1e-30  # the least probability a classifier that has no logits is believed to give


class Classifier(Protocol):
    """A model that gives every record one score for each class."""

    @property
    def classes(self) -> int:
        """Number of classes C."""
        ...

    def logits(self, x: Inputs) -> Floats:
        """[n, C] scores whose softmax are the class probabilities; evaluated without dropout, in batches.

        Args:
            x: [n, ...] features or images, or n texts.
        """
        ...


@dataclass(frozen=True, eq=False)
class Records:
    """Records with their labels, and what sort of records they are: said by the caller, never guessed.

    Attributes:
        inputs: Images [n, channels, height, width] or features [n, d] as floats; or n texts.
        labels: [n] true class of each, 0 .. C-1.
        kind: ``image``, ``continuous`` or ``binary`` features (0 or 1), or ``text``.
        low: Least value a feature can have; one number, or one for each feature of a record.
        high: Greatest value; both are unused for texts, and 0 and 1 for binary features.
    """

    inputs: Inputs
    labels: Ints
    kind: Kind
    low: float | Floats = 0.0
    high: float | Floats = 1.0

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise InputError(f"Records of kind {self.kind!r}: must be one of {', '.join(get_args(Kind))}.")
        labels = np.asarray(self.labels)
        if labels.ndim != 1 or len(labels) != len(self.inputs) or len(labels) == 0:
            raise InputError(f"{len(self.inputs)} records need one label each; the labels have shape {labels.shape}.")
        if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0:
            raise InputError("The labels of records must be whole numbers from 0.")
        object.__setattr__(self, "labels", labels.astype(np.int64))
        object.__setattr__(self, "inputs", self._texts() if self.kind == "text" else self._numbers())

    def _texts(self) -> tuple[str, ...]:
        for i, text in enumerate(self.inputs):
            if not isinstance(text, str):
                raise InputError(f"Record {i + 1} is no text but {type(text).__name__}.")
        return tuple(self.inputs)

    def _numbers(self) -> Floats:
        inputs = np.asarray(self.inputs, dtype=np.float64)
        wanted = 4 if self.kind == "image" else 2
        if inputs.ndim != wanted:
            shape = "[n, channels, height, width]" if self.kind == "image" else "[n, features]"
            raise InputError(f"Records of kind {self.kind!r} have shape {inputs.shape}; it must be {shape}.")
        rows = inputs.reshape(len(inputs), -1)
        _refuse(~np.isfinite(rows).all(1), "holds a value that is not finite")
        if self.kind == "binary":
            _refuse(~np.isin(rows, (0.0, 1.0)).all(1), "holds a feature that is neither 0 nor 1")
        if not np.all(np.asarray(self.low) <= np.asarray(self.high)):
            raise InputError("The feature range of records has a low end above its high end.")
        return inputs

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: ArrayLike) -> Records:
        """Some of the records, by index or by mask."""
        index = np.arange(len(self))[np.asarray(rows)]
        if isinstance(self.inputs, np.ndarray):
            chosen: Inputs = self.inputs[index]
        else:
            chosen = [self.inputs[i] for i in index]
        return Records(chosen, self.labels[index], self.kind, self.low, self.high)


def _refuse(wrong: ArrayLike, what: str) -> None:
    found = np.flatnonzero(wrong)
    if len(found):
        raise InputError(f"Record {found[0] + 1} {what}.")


class TorchClassifier:
    """Any torch module from inputs to logits.

    The module may take a float tensor (images, features), a tensor of token ids, or, with `encode`, whatever that
    makes of a list of texts: one tensor, or a mapping of keyword arguments. It may return the logits, or an object
    that holds them as ``logits`` (transformers' classifiers do).

    Attributes:
        module: The module itself, for attacks that need gradients.
        classes: Number of classes.
        encode: Texts to a batch; None for records that are numbers.
        batch_size: Records evaluated at a time.
        device: Where they are evaluated; the module is moved there.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        *,
        classes: int,
        encode: Encode | None = None,
        batch_size: int = 512,
        device: str | torch.device = "cpu",
    ) -> None:
        self.module = module.to(device)
        self.classes, self.encode, self.batch_size, self.device = classes, encode, batch_size, device

    def tensor(self, x: Inputs) -> Any:
        """What the module is called with: a tensor on the module's device, or a mapping of such."""
        import torch

        if self.encode is not None:
            batch = self.encode([str(text) for text in x])
        else:
            array = np.asarray(x)
            batch = torch.from_numpy(np.ascontiguousarray(array))
        if isinstance(batch, Mapping):
            return {name: value.to(self.device) for name, value in batch.items()}
        return batch.to(self.device, self._dtype() if batch.is_floating_point() else torch.int64)

    def forward(self, batch: Any) -> torch.Tensor:
        """[n, C] logits of a batch made by `tensor`, with a gradient where torch keeps one."""
        import torch

        out = self.module(**batch) if isinstance(batch, Mapping) else self.module(batch)
        logits: torch.Tensor = out if isinstance(out, torch.Tensor) else out.logits
        return logits

    def logits(self, x: Inputs) -> Floats:
        """See `Classifier`.

        Raises:
            InputError: The module gives another number of classes, or a value that is not finite.
        """
        import torch

        training = self.module.training
        self.module.eval()
        with torch.inference_mode():
            parts = [self.forward(self.tensor(batch)).double().cpu().numpy() for batch in self._batches(x)]
        self.module.train(training)
        return _checked(np.concatenate(parts) if parts else np.zeros((0, self.classes)), len(x), self.classes)

    def _batches(self, x: Inputs) -> Iterator[Inputs]:
        for start in range(0, len(x), self.batch_size):
            yield x[start : start + self.batch_size]

    def _dtype(self) -> torch.dtype:
        import torch

        floating = (p.dtype for p in self.module.parameters() if p.is_floating_point())
        return next(floating, torch.get_default_dtype())


class SklearnClassifier:
    """Anything fitted that has ``predict_proba`` and ``classes_``: scikit-learn, LightGBM, CatBoost, XGBoost.

    Images reach it as rows of numbers.

    Such an estimator gives probabilities only, so its logits are log-probabilities, floored at 1e-30. They saturate:
    where it says 0 or 1 exactly, as trees do, the rescaled logit ends at 69 and ties are common. A class that was
    not among its training labels gets that floor, and the columns are put in the order of `classes`.

    Attributes:
        estimator: The fitted estimator.
        values: The label each class stands for in the estimator.
    """

    def __init__(self, estimator: Any, classes: int | Sequence[Any] | None = None) -> None:
        """Wrap an estimator.

        Args:
            estimator: Fitted.
            classes: Number of classes, for labels 0 .. C-1; or the labels themselves, in the order of the classes.
                None for those the estimator knows, which is right when it has seen every class.

        Raises:
            InputError: It gives no probabilities, or knows a label that is not among the classes.
        """
        known = getattr(estimator, "classes_", None)
        if known is None or not callable(getattr(estimator, "predict_proba", None)):
            raise InputError(f"{type(estimator).__name__} is no fitted classifier with predict_proba and classes_.")
        given = known if classes is None else range(classes) if isinstance(classes, int) else classes
        self.estimator, self.values = estimator, list(given)
        places = {value: column for column, value in enumerate(self.values)}
        unknown = [value for value in known if value not in places]
        if unknown:
            raise InputError(f"{type(estimator).__name__} knows the label {unknown[0]!r}, which is not a class here.")
        self._columns = [places[value] for value in known]

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.values)

    def logits(self, x: Inputs) -> Floats:
        """See `Classifier`; log-probabilities, whose softmax is the estimator's probability."""
        if len(x) == 0:
            return np.zeros((0, self.classes))
        probability = np.zeros((len(x), self.classes))
        probability[:, self._columns] = np.asarray(self.estimator.predict_proba(as_rows(x)), dtype=np.float64)
        return _checked(np.log(np.maximum(probability, TINY)), len(x), self.classes)


def as_rows(x: Inputs) -> Inputs:
    """Images as rows of numbers; anything else as it is."""
    return x.reshape(len(x), -1) if isinstance(x, np.ndarray) and x.ndim > 2 else x


def _checked(logits: NDArray[Any], rows: int, classes: int) -> Floats:
    if logits.shape != (rows, classes):
        raise InputError(f"The model gave logits of shape {logits.shape}; {rows} records need [{rows}, {classes}].")
    _refuse(~np.isfinite(logits).all(1), "gets logits that are not finite")
    return np.asarray(logits, dtype=np.float64)
