"""Each published defect of ROCR and ORT beside what it gets wrong."""

from __future__ import annotations

import torch

from expunge.language.compat_rocr import (
    answer_ids_alone_ort,
    block_output_rocr,
    oriented_by_shape_rocr,
    prompt_lengths_by_padding_ort,
)
from expunge.language.data import Record
from expunge.language.encode import Template, encode
from expunge.language.mlp import down_projection
from tiny_bed import Bed
from tiny_models import tiny


def test_a_square_transposed_weight_gets_the_update_the_wrong_way_round() -> None:
    """GPT-2 with f = d: y = k W, so the output moves by k U^T for an update U, and by k U with the defect."""
    update = torch.arange(256.0).reshape(16, 16)
    wide, square = (down_projection(tiny("gpt2", n_inner=f), 0) for f in (24, 16))
    assert torch.equal(oriented_by_shape_rocr(torch.ones(16, 24), wide.weight), torch.ones(24, 16))
    assert torch.equal(oriented_by_shape_rocr(update, square.weight), update)
    before = square.weight.detach().clone()
    square.add_(update)
    torch.testing.assert_close(square.weight.detach() - before, update.T, atol=1e-3, rtol=0)


def test_a_bare_tensor_loses_all_rows_but_the_first() -> None:
    states = torch.randn(3, 4, 5)
    assert block_output_rocr((states, None)).shape == states.shape
    assert torch.equal(block_output_rocr(states), states[0])


def test_an_answer_alone_is_tokenised_otherwise_than_behind_its_prompt(bed: Bed) -> None:
    """Behind a line break there is no space to be part of the first token."""
    tokenizer = bed.target.tokenizer
    joint = encode([Record("q", "What a day")], tokenizer, Template(assistant_start="\n"))
    labels = joint.ids[int(joint.label_start[0]) : -1].tolist()
    alone = answer_ids_alone_ort(tokenizer, "What a day")
    assert tokenizer.decode(labels) == tokenizer.decode(alone).strip()
    assert labels != alone


def test_padding_with_the_end_token_shortens_chat_prompts() -> None:
    """Two turns, each ended by id 2, padded with 2: five real tokens count as three."""
    ids = torch.tensor([[5, 2, 6, 7, 2, 2, 2]])
    assert prompt_lengths_by_padding_ort(ids, 2).tolist() == [3]
