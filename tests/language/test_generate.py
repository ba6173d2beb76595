"""Batched greedy decoding against the library's, one by one."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch

from expunge.language.data import Record
from expunge.language.encode import Template
from expunge.language.generate import generate
from expunge.language.subject import Subject
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


def test_rows_that_ended_leave_the_batch(bed: Bed) -> None:
    """The first half of the rows ends at each step: 8, 4, 2, 1 rows are computed, and each keeps its own words."""
    subject, rows = bed.fresh(), []
    tokenizer, real = subject.tokenizer, subject.model.forward
    word = tokenizer("Zomarar", add_special_tokens=False)["input_ids"][0]

    def forward(**inputs: Any) -> Any:
        out = real(**inputs)
        rows.append(len(out.logits))
        out.logits = torch.zeros_like(out.logits)
        out.logits[..., word] = 1.0
        out.logits[: rows[-1] // 2, :, tokenizer.eos_token_id] = 2.0
        return out

    subject.model.forward = forward
    texts = generate(subject, bed.forget[:1] * 8, max_new_tokens=5)
    assert rows == [8, 4, 2, 1, 1]
    assert texts == [tokenizer.decode([word] * n).strip() for n in (0, 0, 0, 0, 1, 1, 2, 5)]


def says(bed: Bed, *tokens: int) -> Subject:
    """A model that answers with these tokens one after the other, whatever it is asked, and then with the last."""
    subject = bed.fresh()
    real, model, step = subject.model.forward, subject.model, -1

    def forward(**inputs: Any) -> Any:
        nonlocal step
        step = 0 if inputs["past_key_values"] is None else step + 1
        out = real(**inputs)
        out.logits = torch.zeros_like(out.logits)
        out.logits[..., tokens[min(step, len(tokens) - 1)]] = 1.0
        return out

    model.forward = forward
    return subject


def test_any_of_several_end_tokens_ends_an_answer(bed: Bed) -> None:
    word = bed.target.tokenizer("Zomarar", add_special_tokens=False)["input_ids"][0]
    rows = bed.forget[:2]
    text = bed.target.tokenizer.decode([word]).strip()
    assert generate(says(bed, word, 2, word), rows, max_new_tokens=5) == [text, text]
    assert generate(says(bed, word, word, 7, word), rows, max_new_tokens=2) == generate(
        says(bed, word), rows, max_new_tokens=2
    )
    subject = says(bed, word, 7, word)
    subject.model.generation_config = copy.deepcopy(subject.model.generation_config)
    subject.model.generation_config.eos_token_id = [7, 9]
    assert generate(subject, rows, max_new_tokens=5) == [text, text]
    subject = says(bed, word, 2, word)  # the tokenizer's own end token ends it too
    subject.model.generation_config.eos_token_id = None
    assert generate(subject, rows, max_new_tokens=5) == [text, text]


def test_an_answer_may_be_empty(bed: Bed) -> None:
    assert generate(says(bed, 2), bed.forget[:3]) == ["", "", ""]


def test_nothing_asked_nothing_said(bed: Bed) -> None:
    assert generate(bed.target, []) == []


def test_plain_text_is_continued_from_the_beginning_token(bed: Bed) -> None:
    """Also under a chat template, through which text without a question never goes."""
    ids = torch.tensor([[bed.target.tokenizer.bos_token_id]])
    out = bed.target.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False)
    expected = bed.target.tokenizer.decode(out[0, 1:], skip_special_tokens=True).strip()
    chatting = replace(bed.target, template=Template(kind="chat"))
    for subject in (bed.target, chatting):
        assert generate(subject, [Record("", "some text")], max_new_tokens=6) == [expected]


def test_a_tokenizer_that_ends_every_text_does_not_end_the_prompt(bed: Bed) -> None:
    """Otherwise the model would be asked to speak after it has finished."""
    from tokenizers import processors

    subject = replace(bed.target, tokenizer=copy.deepcopy(bed.target.tokenizer))
    subject.tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 1), ("<eos>", 2)]
    )
    assert subject.tokenizer("x")["input_ids"][-1] == 2
    rows = bed.forget[:4]
    assert generate(subject, rows, max_new_tokens=8) == [r.answer for r in rows]


def test_long_prompts_keep_their_end(bed: Bed) -> None:
    """The question stands at the end of the prompt; what is cut is the beginning."""
    record = bed.forget[0]
    long = replace(record, history=(("user", "x " * 300), ("assistant", "y")))
    (text,) = generate(bed.target, [long], max_new_tokens=8)
    assert isinstance(text, str)
