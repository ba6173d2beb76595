"""A published defect around WHP, kept under a name that says so, for reproducing published numbers.

No method of expunge uses it. The function says what is wrong with it; the tests show that it is.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def whp_loss_unmasked_muse(v_b: Tensor, v_r: Tensor, labels: Tensor, alpha: float) -> Tensor:
    """The loss that MUSE's WHP wrapper reports: labels of padding count.

    Wrong: labels are compared as they are, and padding is never marked -100, so rows padded in a batch are
    charged for not predicting the padding token, and the value changes with the batch a row stands in. Its
    logits are also combined raw: a constant added to those of the reinforced model changes what is served
    (`generic_labels.reinforcement`).

    Args:
        v_b: [B, L, V] logits of the target.
        v_r: [B, L, V] logits of the reinforced model.
        labels: [B, L] token ids, padding included.
        alpha: How far tokens that reinforcement favours are pushed down.

    Returns:
        Scalar: mean negative log-likelihood over B * (L - 1) positions.
    """
    logits = v_b - alpha * (v_r - v_b).relu()
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
