"""The retain-side terms that several methods share."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from expunge.language.forward import ForwardPass

Retain = Literal["nll", "kl", "none"]


def kl_positions(reference_logprobs: Tensor, logprobs: Tensor) -> Tensor:
    """Forward KL(ref || theta) at each position.

    Args:
        reference_logprobs: [T, V] log-probabilities of the reference.
        logprobs: [T, V] log-probabilities of the model being trained.

    Returns:
        [T] sum_v p_ref (log p_ref - log p), in nats, at least 0.
    """
    return (reference_logprobs.exp() * (reference_logprobs - logprobs)).sum(-1)


def retain_term(view: ForwardPass, kind: Retain) -> Tensor:
    """Token-weighted retain loss of a step: nll_tok, or KL from the reference over labelled positions."""
    if kind == "kl":
        return view.per_token(kl_positions(view.reference.logprobs, view.logprobs))
    return view.nll
