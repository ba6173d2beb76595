"""Published defects of LoKU's code, kept under names that say so, for reproducing published numbers.

No method of expunge uses these. Each function says what is wrong with it; the tests show that it is.
"""

from __future__ import annotations

import torch
from torch import Tensor


def relative_importance_absolute_floor(forget: Tensor, retain: Tensor) -> Tensor:
    """The relative Fisher information of LoKU's code: 1e-5 added to every denominator.

    Wrong: squared gradients of a model of billions of weights lie between 1e-10 and 1e-6, so the denominator is
    1e-5 whatever the retain set says, and what is left is the forget set's information alone, times 1e5. For
    I_f = I_r = 1e-8 it gives 0.001 where the ratio is 1. `fila.relative_importance` takes a floor relative to
    the matrix.

    Args:
        forget: I_f, [out, in] or [out], per token.
        retain: I_r, of the same shape.

    Returns:
        I_f / (1e-5 + I_r), of the same shape.
    """
    return forget / (1e-5 + retain)


def ihl_guessing_softmax(values: Tensor, labels: Tensor) -> Tensor:
    """The inverted hinge loss of LoKU's code: softmax only if some value lies outside [0, 1].

    Wrong: logits that all happen to lie within [0, 1] are taken for probabilities. Then the loss is not
    invariant to a shift of the logits, and its gradient is 1 at the label and -1 at the runner-up instead of
    fading with their probabilities. One position outside decides for the whole batch. `methods.ihl.ihl` always
    takes the softmax.

    Args:
        values: [T, V] logits, or probabilities if all of them lie in [0, 1].
        labels: [T] token ids.

    Returns:
        [T] losses.
    """
    if bool(((values < 0) | (values > 1)).any()):
        values = values.softmax(-1)
    own = torch.zeros_like(values, dtype=torch.bool).scatter(-1, labels[:, None], True)
    true, other = values[own], values.masked_fill(own, -torch.inf).amax(-1)
    return (1 + true - other).clamp(min=0)


def importance_batch_mean(gradients: Tensor, tokens: Tensor, batch: int) -> Tensor:
    """The Fisher information of LoKU's code: squares of the gradient of a batch mean.

    Wrong: Fisher information is a mean of squared gradients of single examples. The square of a mean is
    smaller where examples disagree, about `batch` times smaller where they are independent, so the value
    depends on the batch (2 in one of the scripts, 4 in the other), and not by one common factor: rows on which
    the examples agree keep theirs. `fila.importances` takes `group`, which is 1 unless told.

    Args:
        gradients: [B, ...] gradient of each example's SUMMED negative log-likelihood.
        tokens: [B] labelled tokens of each example.
        batch: Examples averaged before squaring.

    Returns:
        [...] information per token.
    """
    total = torch.zeros_like(gradients[0])
    for chunk, counts in zip(gradients.split(batch), tokens.split(batch), strict=True):
        total += (chunk.sum(0) / counts.sum()).square() * counts.sum()
    return total / tokens.sum()
