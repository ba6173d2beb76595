"""What one classifier says about labelled records: every quantity the detectors read, in float64.

Everything is computed from logits in ways that do not saturate: for a record that the model is certain of, the
probabilities round to 0 and 1 while the cross entropy and the rescaled logit still tell it from the next.

>>> s = Signals(np.log([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]]), np.array([0, 1]))
>>> s.confidence.round(3).tolist(), s.entropy.round(3).tolist(), s.correct.tolist()
([0.5, 0.2], [1.5, 1.157], [True, False])
>>> s.rescaled.round(4).tolist()  # log(0.5 / 0.5), log(0.2 / 0.8)
[0.0, -1.3863]
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expunge.errors import InputError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
FLOOR = 1e-30  # least probability of a class, where only probabilities are given


@dataclass(frozen=True, eq=False)
class Signals:
    """The outputs of one model on n labelled records; what is read is computed once.

    Attributes:
        logits: [n, C] scores whose softmax are the class probabilities; finite, C at least 2.
        labels: [n] true class of each record, 0 .. C-1.
    """

    logits: Floats
    labels: Ints

    def __post_init__(self) -> None:
        logits = np.asarray(self.logits, dtype=np.float64)
        if logits.ndim != 2 or len(logits) == 0 or logits.shape[1] < 2:
            raise InputError(f"Logits have shape {logits.shape}; they must be [records, classes], at least 2 classes.")
        labels = np.asarray(self.labels)
        if labels.shape != (len(logits),):
            raise InputError(f"{len(logits)} rows of logits but labels of shape {labels.shape}.")
        bad = ~np.isfinite(logits).all(1)
        if bad.any():
            raise InputError(f"The logits of row {_first(bad)} are not finite.")
        if not np.issubdtype(labels.dtype, np.integer):
            raise InputError(f"Labels are whole numbers from 0; found {labels.dtype}.")
        bad = (labels < 0) | (labels >= logits.shape[1])
        if bad.any():
            row = _first(bad)
            raise InputError(f"The label of row {row} is {labels[row - 1]}; it must lie in 0 .. {logits.shape[1] - 1}.")
        object.__setattr__(self, "logits", logits)
        object.__setattr__(self, "labels", labels.astype(np.int64))

    @classmethod
    def from_probabilities(cls, probabilities: ArrayLike, labels: ArrayLike, floor: float = FLOOR) -> Signals:
        """Signals of a classifier that gives probabilities only.

        They are floored and taken as exp(logits), so rows are normalised. 1 - p_y is the sum of the other classes,
        not a difference, so only what the classifier itself rounded is lost: where it says exactly 0 or 1, as
        trees do, the cross entropy ends at 69 nats, the rescaled logit at 69 either way, and ties are common.

        Args:
            probabilities: [n, C], rows summing to 1 within 1e-3.
            labels: [n] true classes.
            floor: Least probability of a class (1e-30 as in the reference code of TDDBench).

        Raises:
            InputError: As for `Signals`; a probability outside [0, 1], or a row that does not sum to 1.
        """
        p = np.asarray(probabilities, dtype=np.float64)
        if p.ndim == 2:
            bad = ~((p >= 0) & (p <= 1 + 1e-6)).all(1)  # NaN fails this too
            if bad.any():
                raise InputError(
                    f"Row {_first(bad)} holds a probability outside [0, 1]: {p[_first(bad) - 1].tolist()}."
                )
            bad = np.abs(p.sum(1) - 1) > 1e-3
            if bad.any():
                raise InputError(
                    f"The probabilities of row {_first(bad)} sum to {p[_first(bad) - 1].sum():.6g}, not 1."
                )
        return cls(np.log(np.maximum(p, floor)), np.asarray(labels))

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def log_probabilities(self) -> Floats:
        """[n, C] log softmax, nats."""
        return self.logits - _logsumexp(self.logits)[:, None]

    @cached_property
    def probabilities(self) -> Floats:
        """[n, C] softmax."""
        return np.exp(self.log_probabilities)

    @cached_property
    def rescaled(self) -> Floats:
        """[n] phi = z_y - logsumexp_{j != y} z_j = log p_y - log(1 - p_y), the rescaled logit of LiRA."""
        rows = np.arange(len(self))
        return self.logits[rows, self.labels] - _logsumexp(_without(self.logits, self.labels))

    @cached_property
    def ce(self) -> Floats:
        """[n] cross entropy -log p_y = log(1 + exp(-phi)), nats; positive however certain the model is."""
        return np.logaddexp(0.0, -self.rescaled)

    @cached_property
    def confidence(self) -> Floats:
        """[n] p_y, the probability of the true class; 1 from about 37 nats of phi on."""
        return np.exp(-self.ce)

    @cached_property
    def predicted(self) -> Ints:
        """[n] class with the largest logit, the first of equals."""
        return np.asarray(self.logits.argmax(1), dtype=np.int64)

    @cached_property
    def correct(self) -> Bools:
        """[n] whether the predicted class is the true one."""
        return np.asarray(self.predicted == self.labels)

    @cached_property
    def entropy(self) -> Floats:
        """[n] H(p) = -sum_i p_i log2 p_i, bits."""
        bits = -(self.probabilities * self.log_probabilities).sum(1) / np.log(2)
        return np.asarray(np.maximum(bits, 0.0))

    @cached_property
    def mentr(self) -> Floats:
        """[n] modified entropy -(1 - p_y) log p_y - sum_{i != y} p_i log(1 - p_i), nats (Song and Mittal 2021)."""
        rows, p = np.arange(len(self)), self.probabilities
        top = self.predicted
        rest = _logsumexp(_without(self.logits, top)) - _logsumexp(self.logits)  # log(1 - p) of the likeliest class
        log_rest = np.log1p(-np.where(np.arange(p.shape[1]) == top[:, None], 0.0, p))
        log_rest[rows, top] = rest
        others = p * log_rest
        others[rows, self.labels] = 0.0
        unsure = np.exp(-np.logaddexp(0.0, self.rescaled))  # 1 - p_y
        return np.asarray(unsure * self.ce - others.sum(1))


def _without(logits: Floats, column: Ints) -> Floats:
    """[n, C] with one logit of each row masked out."""
    masked = logits.copy()
    masked[np.arange(len(logits)), column] = -np.inf
    return masked


def _logsumexp(logits: Floats) -> Floats:
    """[n] over classes; at least one logit of each row is finite."""
    top = logits.max(1)
    return np.asarray(top + np.log(np.exp(logits - top[:, None]).sum(1)), dtype=np.float64)


def _first(bad: ArrayLike) -> int:
    """The first row, counted from 1."""
    return int(np.argmax(bad)) + 1
