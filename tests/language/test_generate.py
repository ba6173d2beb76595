"""Batched greedy decoding against the library's, one by one."""

from __future__ import annotations

import torch

from expunge.language.data import Record
from expunge.language.generate import generate
from tiny_bed import Bed


def library(bed: Bed, record: Record, limit: int) -> str:
    tokenizer, model = bed.target.tokenizer, bed.target.model
    ids = torch.tensor([tokenizer(bed.target.template.generation_prompt(record, tokenizer))["input_ids"]])
    out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=limit, do_sample=False)
    return str(tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)).strip()


def test_equals_the_library_at_any_batch_size(bed: Bed) -> None:
    """Rows end at different steps, so some leave the batch early."""
    rows = bed.forget[:6] + [Record("x " * k, "y") for k in (1, 9, 25)] + bed.records["places"]
    expected = [library(bed, r, 8) for r in rows]
    for batch in (1, 4, 64):
        assert generate(bed.target, rows, max_new_tokens=8, batch=batch) == expected


def test_what_it_knows_it_says(bed: Bed) -> None:
    """Teacher-forced exact match and greedy answers agree on a model that knows everything."""
    assert generate(bed.target, bed.forget, max_new_tokens=8) == [r.answer for r in bed.forget]


def test_training_mode_is_left_as_it_was_and_the_limit_holds(bed: Bed) -> None:
    subject = bed.fresh()
    subject.model.train()
    (text,) = generate(subject, [Record("zzz qqq", "y")], max_new_tokens=1)
    assert subject.model.training
    assert len(subject.tokenizer(text, add_special_tokens=False)["input_ids"]) <= 2
