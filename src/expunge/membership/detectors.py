"""Likelihood detectors: scores of how much a row looks like training data, higher = more like a member.

Per-token signals come ragged: flat arrays of T tokens, row i owning ``offsets[i]:offsets[i + 1]``. Which
tokens count is the caller's choice; the public text protocol (locuslab/open-unlearning) takes all labelled
tokens for loss, zlib and reference, and leaves the end-of-sequence token out for the Min-K family. There the
scores have the opposite sign, with the same AUROC.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from expunge.errors import InputError

Floats = NDArray[np.float64]
Offsets = NDArray[np.int64]


def loss(logprob: Floats, offsets: Offsets) -> Floats:
    """Mean token log-probability, the negative loss (Yeom et al. 2018, arXiv 1709.01604).

    >>> loss(np.log([0.5, 0.5, 0.25]), np.array([0, 2, 3])).round(4).tolist()
    [-0.6931, -1.3863]

    Args:
        logprob: [T] log p(token) in nats.
        offsets: [n + 1].

    Returns:
        [n] scores.

    Raises:
        InputError: A row without tokens.
    """
    row, lengths = _rows(offsets)
    return np.bincount(row, weights=logprob, minlength=len(lengths)) / lengths


def zlib_ratio(loss_score: Floats, compressed: NDArray[np.int64]) -> Floats:
    """Loss per compressed byte (Carlini et al. 2021, arXiv 2012.07805): minus mean NLL / bytes.

    Args:
        loss_score: [n] from `loss`.
        compressed: [n] from `compressed_bytes`.

    Returns:
        [n] scores.
    """
    return loss_score / compressed


def compressed_bytes(texts: Sequence[str]) -> NDArray[np.int64]:
    """[n] length of each text after zlib compression of its UTF-8 bytes, at the default level."""
    return np.array([len(zlib.compress(text.encode("utf-8"))) for text in texts], dtype=np.int64)


def min_k(logprob: Floats, offsets: Offsets, k: float = 0.4) -> Floats:
    """Min-K% Prob (Shi et al. 2024, arXiv 2310.16789): mean of a row's lowest token log-probabilities.

    The lowest max(1, floor(k * n)) of n tokens count, so that a short row never averages nothing.

    Args:
        logprob: [T] log p(token) in nats.
        offsets: [n + 1].
        k: Share of tokens in (0, 1]; 1 gives `loss`.

    Returns:
        [n] scores; the order of tokens in a row does not matter.

    Raises:
        InputError: A row without tokens, or a `k` outside (0, 1].
    """
    if not 0 < k <= 1:
        raise InputError(f"min-k: k={k}; it must lie in (0, 1].")
    row, lengths = _rows(offsets)
    kept = np.maximum(1, np.floor(k * lengths)).astype(np.int64)
    ascending = logprob[np.lexsort((logprob, row))]  # rows stay in place, tokens are sorted within them
    lowest = np.arange(len(row)) - offsets[row] < kept[row]
    total = np.bincount(row[lowest], weights=ascending[lowest], minlength=len(lengths))
    return np.asarray(total / kept, dtype=np.float64)


def min_k_plus_plus(logprob: Floats, mean: Floats, variance: Floats, offsets: Offsets, k: float = 0.4) -> Floats:
    """Min-K%++ (Zhang et al. 2025, arXiv 2404.02936): Min-K% of the standardised log-probabilities.

    z_t = (log p_t - mu_t) / sqrt(var_t), mu_t = sum_v p_v log p_v, var_t = sum_v p_v (log p_v)^2 - mu_t^2.

    Args:
        logprob: [T] log p(token) in nats.
        mean: [T] mu_t.
        variance: [T] var_t, clamped from below at 1e-6 (a uniform prediction has none).
        offsets: [n + 1].
        k: Share of tokens in (0, 1].

    Returns:
        [n] scores.

    Raises:
        InputError: As `min_k`.
    """
    return min_k((logprob - mean) / np.sqrt(np.maximum(variance, 1e-6)), offsets, k)


def reference(loss_score: Floats, reference_loss_score: Floats) -> Floats:
    """Loss calibrated by a model that has not seen the row (Carlini et al. 2021): NLL_reference - NLL.

    Args:
        loss_score: [n] `loss` under the model attacked.
        reference_loss_score: [n] `loss` of the same rows under the reference model.

    Returns:
        [n] scores; all 0 for the reference model itself, whose AUROC is therefore 0.5.
    """
    return loss_score - reference_loss_score


def _rows(offsets: Offsets) -> tuple[Offsets, Offsets]:
    """[T] row of each token and [n] tokens of each row."""
    lengths = np.diff(offsets)
    if len(lengths) and lengths.min() < 1:
        raise InputError(f"Row {int(lengths.argmin()) + 1} has no tokens, so it has no membership score.")
    return np.repeat(np.arange(len(lengths)), lengths), lengths
