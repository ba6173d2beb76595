"""Published defects of unlearning code for mixtures of experts, kept under names that say so.

No method of expunge uses these. Each function says what is wrong with it; the tests show that it is.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def anchor_mean_over_experts_seuf(probabilities: Tensor, wanted: Tensor) -> Tensor:
    """The router anchor of the SEUF code: a mean over tokens and over experts.

    Wrong: the paper's equation 3 is a squared norm, a sum over the E experts. Their alpha therefore stands
    for alpha / E of the paper (1/64 on DeepSeek-V2-Lite, 1/60 on Qwen1.5-MoE), and the same alpha means
    something else on every model. `methods.seuf.router_anchor` is the sum.

    Args:
        probabilities: [S, E] softmax of the router's logits.
        wanted: [E] 1 for the selected expert, 0 elsewhere.

    Returns:
        Scalar.
    """
    return F.mse_loss(probabilities, wanted.expand_as(probabilities))


def npo_self_reference_seuf(nll_sum: Tensor, beta: float = 0.001) -> Tensor:
    """The NPO of the SEUF code: the model being trained is its own reference.

    Wrong: the log ratio is always 0, so the loss is the constant (2/beta) ln 2 from the first step to the last,
    and its gradient is exactly that of gradient ascent on the summed NLL, however far a row is forgotten and
    whatever beta is. The published rows named NPO may be this.

    Args:
        nll_sum: [B] summed negative log-likelihood under the model being trained.
        beta: Inverse temperature, without effect on the gradient.

    Returns:
        [B] losses.
    """
    return -2 / beta * F.logsigmoid(beta * (nll_sum - nll_sum.detach()))


def ga_negates_balance_seuf(nll: Tensor, aux_loss: Tensor, coefficient: float = 0.001) -> Tensor:
    """The gradient ascent of the SEUF code: with router logits switched on, the whole training loss is negated.

    Wrong: transformers adds the load-balancing loss to the cross-entropy as soon as router logits are put
    out, so ascent maximises imbalance too: it pushes tokens together onto few experts, beside and before any
    anchor. A balance term, if wanted, is added to -nll; `methods.seuf` has none.

    Args:
        nll: Scalar cross-entropy of the forget batch.
        aux_loss: Scalar load-balancing loss.
        coefficient: The model's ``router_aux_loss_coef``.

    Returns:
        Scalar.
    """
    return -(nll + coefficient * aux_loss)
