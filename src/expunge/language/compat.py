"""Published defects, kept under names that say so, for reproducing published numbers.

No method of expunge uses these. Each function says what is wrong with it; the tests show that it is.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def kl_unmasked_open_unlearning(reference_logits: Tensor, logits: Tensor) -> Tensor:
    """Forward KL of the TOFU, NPO and open-unlearning codes: over prompt and padding too.

    Wrong: the mean runs over all B * L positions, so padding a batch changes the value and the weight of
    the term, and positions without a label pull the model. `methods._retain.kl_positions` with a mean over
    labelled positions is the masked form.

    Args:
        reference_logits: [B, L, V] logits of the reference.
        logits: [B, L, V] logits of the model being trained.

    Returns:
        Scalar, in nats.
    """
    theirs, ours = reference_logits.flatten(0, 1).log_softmax(-1), logits.flatten(0, 1).log_softmax(-1)
    return F.kl_div(ours, theirs, reduction="batchmean", log_target=True)


def kl_raw_logits_muse(reference_logits: Tensor, logits: Tensor) -> Tensor:
    """The "KL" of MUSE's KLR methods: raw logits where log-probabilities are expected.

    Wrong: without log-softmax this is sum exp(l_ref) (l_ref - l) / B. It is 0 at the reference, but its
    gradient there is -exp(l_ref) / B instead of 0, and it falls without bound as logits rise. All published
    MUSE numbers of GA_KLR and NPO_KLR are for it.

    Args:
        reference_logits: [B, L, V] logits of the reference.
        logits: [B, L, V] logits of the model being trained.

    Returns:
        Scalar.
    """
    return F.kl_div(logits, reference_logits, reduction="batchmean", log_target=True)


def npo_raw_logits_muse(reference_logits: Tensor, logits: Tensor, beta: float = 0.1) -> Tensor:
    """The NPO of MUSE's trainer (and SimNPO's built on it): raw logits, no labels, no softmax.

    Wrong: it pushes every logit of every position down, whatever the token. A shift that all logits share
    leaves the distribution as it was, so a model free to move each logit forgets nothing at all. It was
    copied from a toy whose forward pass returned log-probabilities. All published MUSE numbers of NPO are
    for it.

    Args:
        reference_logits: [B, L, V] logits of the reference.
        logits: [B, L, V] logits of the model being trained.
        beta: Inverse temperature.

    Returns:
        Scalar.
    """
    return -2 / beta * F.logsigmoid(beta * (reference_logits - logits)).mean()


def npo_token_mean_wmdp(nll_sum: Tensor, reference_nll_sum: Tensor, tokens: Tensor, beta: float = 0.1) -> Tensor:
    """The NPO of the WMDP trainers: the batch's token-mean loss inside the sigmoid.

    Wrong: the paper's log ratio is a sum over each answer. Averaged over tokens and batch it is shorter by
    the length, so with their beta (0.0125 to 0.05) the slope stays within a few per cent of 1 and the method
    is gradient ascent in all but name; nor does a row that is already forgotten count less than another.

    Args:
        nll_sum: [B] summed negative log-likelihood under the model being trained.
        reference_nll_sum: [B] the same under the reference.
        tokens: [B] labelled tokens of each row.
        beta: Inverse temperature.

    Returns:
        Scalar.
    """
    ratio = (nll_sum.sum() - reference_nll_sum.sum()) / tokens.sum()
    return -2 / beta * F.logsigmoid(beta * ratio)


def simnpo_unshifted_count_simnpo(nll_sum: Tensor, labels: Tensor, beta: float, gamma: float = 0.0) -> Tensor:
    """The SimNPO of its own repository: divided by the labels counted before the shift.

    Wrong: the first position has no predictor, so a row whose first token is labelled (plain text) is
    divided by one token too many. Equal to `methods.simnpo.simnpo` as long as the first label is masked.

    Args:
        nll_sum: [B] summed negative log-likelihood over the predicted positions.
        labels: [B, L] label ids, -100 where there is none.
        beta: Inverse temperature.
        gamma: Margin.

    Returns:
        [B] losses.
    """
    return -2 / beta * F.logsigmoid(beta * (nll_sum / (labels != -100).sum(-1) - gamma))


def rmu_unmasked_wmdp(states: Tensor, target: Tensor) -> Tensor:
    """The forget loss of the WMDP code's RMU: over padding and the first token too.

    Wrong: padding's states count like text, so the value changes with the batch a row stands in; and the
    first token, whose norm is in the hundreds on some models and cannot be steered, dominates the loss.

    Args:
        states: [B, L, d] output of the block, padding included.
        target: [d] the control vector times its norm.

    Returns:
        Scalar.
    """
    return F.mse_loss(states, torch.broadcast_to(target, states.shape))
