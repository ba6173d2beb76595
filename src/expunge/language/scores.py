"""Per-token scores of answers under teacher forcing: what every likelihood metric reads.

One batched forward pass fills an `AnswerScores`; probability, truth ratio, extraction strength, exact
memorisation and all likelihood-based membership attacks are pure functions of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class AnswerScores:
    """Ragged per-token signals of n answers, stored flat; row i owns ``offsets[i]:offsets[i + 1]``.

    Attributes:
        offsets: [n + 1] int64; row i has ``offsets[i + 1] - offsets[i]`` labelled tokens (EOS included
            when the record has one).
        logprob: [T] log p(label) in nats.
        hit: [T] bool; whether the arg-max prediction equals the label.
        mean: [T] sum_v p_v log p_v, the mean log-probability under the model (min-k++ mu).
        variance: [T] sum_v p_v (log p_v)^2 - mean^2 (min-k++ sigma squared).
        has_eos: [n] bool; whether the row's last labelled token is the end-of-sequence token (a row cut
            at the maximum length has none). One value stands for all rows.
    """

    offsets: NDArray[np.int64]
    logprob: Floats
    hit: NDArray[np.bool_]
    mean: Floats
    variance: Floats
    has_eos: NDArray[np.bool_] | bool

    def __post_init__(self) -> None:
        object.__setattr__(self, "has_eos", np.broadcast_to(np.asarray(self.has_eos, dtype=bool), (len(self),)))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """[n] labelled tokens per row."""
        return np.diff(self.offsets)

    @property
    def nll_sum(self) -> Floats:
        """[n] summed negative log-likelihood in nats."""
        # An empty row's sum is its successor's first value, which may be infinite: left out, not multiplied by 0.
        sums = np.add.reduceat(np.append(self.logprob, 0.0), self.offsets[:-1])
        return np.where(self.lengths > 0, -sums, 0.0)

    @property
    def nll(self) -> Floats:
        """[n] mean token negative log-likelihood in nats; NaN for a row without labelled tokens."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.nll_sum / self.lengths

    @property
    def exact(self) -> NDArray[np.bool_]:
        """[n] whether greedy decoding reproduces the whole answer (arg-max hits at every label)."""
        misses = np.add.reduceat(np.append(~self.hit, False).astype(np.int64), self.offsets[:-1])
        return np.asarray((misses == 0) & (self.lengths > 0))

    def without_eos(self) -> AnswerScores:
        """The same scores without the end-of-sequence label of the rows that have one."""
        ended = np.asarray(self.has_eos) & (self.lengths > 0)
        keep = np.ones(len(self.logprob), dtype=bool)
        keep[self.offsets[1:][ended] - 1] = False
        offsets = np.concatenate([[0], np.cumsum(self.lengths - ended)]).astype(np.int64)
        return AnswerScores(
            offsets, self.logprob[keep], self.hit[keep], self.mean[keep], self.variance[keep], has_eos=False
        )

    def select(self, rows: NDArray[np.int64]) -> AnswerScores:
        """The scores of some rows, in the given order."""
        pieces = [np.arange(self.offsets[i], self.offsets[i + 1]) for i in rows]
        index = np.concatenate(pieces) if pieces else np.zeros(0, dtype=np.int64)
        offsets = np.concatenate([[0], np.cumsum(self.lengths[rows])]).astype(np.int64)
        return AnswerScores(
            offsets,
            self.logprob[index],
            self.hit[index],
            self.mean[index],
            self.variance[index],
            np.asarray(self.has_eos)[rows],
        )
