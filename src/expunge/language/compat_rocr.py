"""Known defects of the published ROCR and ORT code, under names that say so.

Nothing else in the package uses these functions. They are here to reproduce published behaviour, and so that the
tests show what differs.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor


def oriented_by_shape_rocr(update: Tensor, weight: Tensor) -> Tensor:
    """An update turned to fit its weight, by comparing shapes.

    Wrong: where the layer is as wide as the residual stream (d = f) both orientations fit, and the update of a weight
    stored as [f, d] is added as it is, transposed. `expunge.language.mlp` goes by the type of the module.

    Args:
        update: [d, f].
        weight: Stored as [d, f] or [f, d].

    Returns:
        The update or its transpose.
    """
    return update if update.shape == weight.shape else update.T


def block_output_rocr(output: Any) -> Tensor:
    """The hidden states among what a decoder block returns: its first item.

    Wrong: blocks return the bare tensor from transformers 5 on, and its first item is the first row of the batch
    alone: [L, d] instead of [B, L, d], and every other row's state is lost.

    Args:
        output: What the block returned.
    """
    first: Tensor = output[0]
    return first


def answer_ids_alone_ort(tokenizer: Any, answer: str) -> list[int]:
    """The token ids of an answer that is scored, from the answer tokenised by itself after a space.

    Wrong: a tokenizer may join the end of the prompt with the start of the answer, and then the model is asked for
    tokens that never follow this prompt. `expunge.language.encode.encode` tokenises the two together.

    Args:
        tokenizer: A Hugging Face tokenizer.
        answer: Without a leading space.
    """
    ids: list[int] = tokenizer(f" {answer}", add_special_tokens=False)["input_ids"]
    return ids


def prompt_lengths_by_padding_ort(input_ids: Tensor, pad: int) -> Tensor:
    """Prompt lengths, counted as the ids that are not the padding id.

    Wrong: with the end-of-sequence token as padding, every turn end inside a chat prompt is taken off the count, so
    the answer is looked for too early and token accuracy reads part of the prompt.

    Args:
        input_ids: [B, L].
        pad: The padding id.

    Returns:
        [B]
    """
    return (input_ids != pad).sum(1)
