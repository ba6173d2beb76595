"""Forms of UNDIAL, PDU and FLAT found in public code that are not what their papers mean. Each says so in its name.

Kept to reproduce published numbers; no method of expunge uses them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from expunge.errors import InputError, nearest
from expunge.language.encode import Batch
from expunge.language.methods.flat import flat


def undial_unmasked_open_unlearning(
    reference_logits: Tensor, logits: Tensor, labels: Tensor, beta: float = 10.0
) -> Tensor:
    """The UNDIAL of open-unlearning: over every position, with -100 taken for a token.

    Wrong: prompt and padding are distilled like the answer, so their number changes the weight of the answer;
    and the label -100 that marks them counts from the end of the vocabulary, so beta is taken from an
    unrelated token there. A batch without a single label still has a loss.

    Args:
        reference_logits: [B, L, V] logits of the reference; V is at least 100.
        logits: [B, L, V] logits of the model being trained.
        labels: [B, L] label ids, -100 where there is none.
        beta: How far the reference's logit is lowered.

    Returns:
        Scalar, in nats.
    """
    theirs, ours = reference_logits[:, :-1], logits[:, :-1]
    index = labels[:, 1:] % logits.shape[-1]  # indexing with a negative number wraps around
    lowered = theirs.scatter_add(-1, index[..., None], torch.full_like(index[..., None], -beta, dtype=theirs.dtype))
    return F.cross_entropy(ours.flatten(0, 1), lowered.softmax(-1).flatten(0, 1))


def pdu_unmasked_open_unlearning(logits: Tensor) -> Tensor:
    """The forget loss of open-unlearning's PDU: over prompt and padding too.

    Wrong: the mean runs over all B * L positions, so padding a batch changes the value, and the model is taught
    to be at a loss after the question as well as in the answer.

    Args:
        logits: [B, L, V] logits of the model being trained.

    Returns:
        Scalar.
    """
    return ((logits.amax(-1) - logits.mean(-1)) ** 2).mean()


def dual_per_micro_batch_open_unlearning(dual: Tensor, retain_losses: Tensor, epsilon: float, rate: float) -> Tensor:
    """The dual step of open-unlearning's PDU: one for every micro-batch.

    Wrong: with k micro-batches to an optimiser step the dual variable moves k times as fast, so the rate means
    something else on every machine; and the projection at 0 comes between them, so their order counts.

    Args:
        dual: Scalar before the optimiser step.
        retain_losses: [k] retain loss of each of its micro-batches.
        epsilon: Bound on the retain loss.
        rate: Dual step size.

    Returns:
        Scalar after the optimiser step.
    """
    for loss in retain_losses:
        dual = (dual + rate * (loss - epsilon)).clamp(min=0.0)
    return dual


def flat_batch_means_flat(template_probability: Tensor, forget_probability: Tensor, divergence: str = "tv") -> Tensor:
    """The FLAT of its repository: the divergence of the batch's mean probabilities.

    Wrong: the variational bound is an expectation of g over rows, and g of a mean is no mean of g; the value
    and each row's weight depend on which rows share a batch. Equal where both parts are straight lines.

    Args:
        template_probability: [B] P of the template answers.
        forget_probability: [B] P of the forget answers.
        divergence: One of `methods.flat.flat`'s.

    Returns:
        Scalar.
    """
    return flat(template_probability.mean()[None], forget_probability.mean()[None], divergence)[0]


def mean_probability_padded_flat(token_probabilities: Tensor, width: int) -> Tensor:
    """The P of FLAT's repository: the probabilities of the answer over the padded length.

    Wrong: masked positions count as probability 0, so P is |y| / (width - 1) times what it should be, every
    divergence is read near 0 where it is a straight line, and P depends on the padding.

    Args:
        token_probabilities: [T] probabilities of one answer's tokens.
        width: Padded length, prompt included.

    Returns:
        Scalar.
    """
    return token_probabilities.sum() / (width - 1)


def flat_wrong_sign_flat(template_probability: Tensor, forget_probability: Tensor, divergence: str) -> Tensor:
    """Reverse KL, squared Hellinger and Neyman as FLAT's repository has them, with e^v where e^-v belongs.

    Wrong: g* then falls in v. Reverse KL and squared Hellinger make the template less and the forget answer
    more likely; Neyman makes the template less likely, and its conjugate is taken of v instead of g*(v), with
    an infinite slope at P = 1.

    Args:
        template_probability: [B] P of the template answers.
        forget_probability: [B] P of the forget answers.
        divergence: reverse-kl, squared-hellinger or neyman.

    Returns:
        [B] losses.

    Raises:
        InputError: Another divergence.
    """
    e, f = template_probability, forget_probability
    forms = {
        "reverse-kl": lambda: e.exp() - 1 - f,
        "squared-hellinger": lambda: e.exp() - 1 + (1 - f.exp()) / f.exp(),
        "neyman": lambda: e.exp() - 1 + 2 - 2 * (1 - f).sqrt(),
    }
    if divergence not in forms:
        raise InputError(f"divergence={divergence!r} has no form with the wrong sign.{nearest(divergence, forms)}")
    return forms[divergence]()


def template_on_forget_inputs_flat(forget: Batch, template: Batch) -> tuple[Tensor, Tensor]:
    """The template batch of FLAT's collator: inputs of the forget rows, labels of the template.

    Wrong: the refusal is predicted from the secret's own tokens, so what is learned is to refuse after having
    begun to tell, and what the model is asked at the start of an answer hardly changes.

    Args:
        forget: Questions with the forget answers.
        template: The same questions with the template answers.

    Returns:
        [B, L] inputs and [B, L] labels, -100 where there is none; L is the longer of the two widths, as both
        sides are padded to one length.
    """
    width = max(forget.input_ids.shape[1], template.input_ids.shape[1])
    inputs = F.pad(forget.input_ids, (0, width - forget.input_ids.shape[1]))
    labels = torch.where(template.labelled, template.input_ids, -100)
    return inputs, F.pad(labels, (0, width - labels.shape[1]), value=-100)
