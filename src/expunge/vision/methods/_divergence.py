"""Divergences between the predictions of two classifiers, for one class an image and for several labels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def kl_divergence(p_logits: Tensor, q_logits: Tensor, several: bool = False, temperature: float = 1.0) -> Tensor:
    """KL(p || q) of each image, with p and q the softmax of logits / T; not multiplied with T^2.

    Args:
        p_logits: [b, C], usually a teacher's.
        q_logits: [b, C].
        several: The outputs are independent yes-or-no labels: the sum of the C Bernoulli divergences. (A softmax over
            them would compare labels that have nothing to do with each other.)
        temperature: T.

    Returns:
        [b] in nats.
    """
    p, q = p_logits / temperature, q_logits / temperature
    if several:
        yes = p.sigmoid() * (F.logsigmoid(p) - F.logsigmoid(q))
        no = (-p).sigmoid() * (F.logsigmoid(-p) - F.logsigmoid(-q))
        return (yes + no).sum(-1)
    logp, logq = p.log_softmax(-1), q.log_softmax(-1)
    return (logp.exp() * (logp - logq)).sum(-1)


def js_divergence(p_logits: Tensor, q_logits: Tensor) -> Tensor:
    """[b] Jensen-Shannon divergence of the softmax of [b, C] logits, in nats: 0 for equal ones, at most ln 2."""
    logp, logq = p_logits.log_softmax(-1), q_logits.log_softmax(-1)
    half = torch.logaddexp(logp, logq) - torch.log(torch.tensor(2.0, dtype=logp.dtype, device=logp.device))
    return ((logp.exp() * (logp - half)).sum(-1) + (logq.exp() * (logq - half)).sum(-1)) / 2
