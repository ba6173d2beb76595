"""The terms of UnlearnRec's loss beside the base model's own: unlearning, preserving, contrast."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from expunge.errors import InputError


def unlearning(scores: Tensor, version: Literal["v1", "v2"] = "v1") -> Tensor:
    """L_u over the scores of all forgotten pairs.

    v1 = mean softplus(s), which is -log sigmoid(-s) and never below 0; v2 = mean s, which has no lower bound.

    Args:
        scores: s', [m], one or more.
        version: Which.

    >>> round(float(unlearning(torch.zeros(3))), 4)
    0.6931
    """
    return F.softplus(scores).mean() if version == "v1" else scores.mean()


def log_shares(scores: Tensor, temperature: float, kernel: Literal["exp", "softplus"] = "exp") -> Tensor:
    """[b] log of each positive's share among the positives of its batch, for its user.

    exp: s_kk/t - logsumexp_l(s_kl/t), which does not change when a constant is added to a row; softplus takes the
    place of exp in the third published variant. Both are computed through logarithms: raw sums of exp overflow.

    Args:
        scores: [b, b], user of row k with item of column l; the positives are on the diagonal.
        temperature: t.
        kernel: What turns scores into shares.
    """
    scaled = scores / temperature
    if kernel == "softplus":
        # log softplus(x) = x + o(1) for very negative x, where softplus itself underflows
        floor = scaled.new_tensor(-20.0)
        scaled = torch.where(scaled > floor, F.softplus(scaled.maximum(floor)).log(), scaled)
    return scaled.diagonal() - scaled.logsumexp(1)


def preserving(
    scores: Tensor, original: Tensor, temperature: float, kernel: Literal["exp", "softplus"] = "exp"
) -> Tensor:
    """L_p: squared distance of the log shares from the original model's, summed over the batch.

    Args:
        scores: [b, b] under the unlearned model; see `log_shares`.
        original: The same under the original model, without gradient.
        temperature: t.
        kernel: See `log_shares`.
    """
    return (log_shares(scores, temperature, kernel) - log_shares(original, temperature, kernel)).square().sum()


def contrast(anchors: Tensor, views: Tensor, temperature: float = 1.0) -> Tensor:
    """InfoNCE: mean over rows of -log(exp(a_k v_k / t) / sum_l exp(a_k v_l / t)), with unit rows.

    The other rows of the set are the negatives. A row of zeros (a node no forgotten edge touches) stays one.

    Args:
        anchors: a, [m, d], m >= 2.
        views: v, [m, d].
        temperature: t.

    Raises:
        InputError: A single row: it has no negatives.
    """
    if len(anchors) < 2:
        raise InputError(f"contrast: {len(anchors)} row; InfoNCE needs at least two, or there are no negatives.")
    a, v = F.normalize(anchors, dim=1, eps=1e-6), F.normalize(views, dim=1, eps=1e-6)
    return F.cross_entropy(a @ v.T / temperature, torch.arange(len(a), device=a.device))
