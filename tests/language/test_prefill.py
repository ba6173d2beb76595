"""Answers that are begun already, prefixes that only condition, and text at which an answer ends."""

from __future__ import annotations

import copy
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from expunge.language.data import Record, digest
from expunge.language.encode import Template, encode
from expunge.language.generate import _prompts, continue_texts, generate
from expunge.language.score import score_answers
from expunge.language.subject import Subject
from stub_model import Stub
from tiny_bed import Bed

CHAT = (
    "<bos>{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture
def chat(bed: Bed) -> Any:
    tokenizer = copy.deepcopy(bed.target.tokenizer)
    tokenizer.chat_template = CHAT
    return tokenizer


def test_a_begun_answer_stands_in_the_prompt_and_its_last_space_belongs_to_the_answer(chat: Any) -> None:
    record, template = Record("q", "a", prefill="Answer: "), Template(kind="chat")
    assert template.prompt(record, chat) == "<bos><user>q<assistant>Answer: "
    assert template.generation_prompt(record, chat) == "<bos><user>q<assistant>Answer:"
    bare = replace(record, prefill="")
    assert template.generation_prompt(bare, chat) == "<bos><user>q<assistant>"


def test_tags_that_begin_the_answer_with_the_same_words_do_not_begin_it_twice(chat: Any) -> None:
    record = Record("q", "a", prefill="Answer: ")
    assert Template().prompt(record, chat) == "Question: q\nAnswer: "
    assert Template(assistant_start="").prompt(record, chat) == "Question: q\nAnswer: "
    assert Template().prompt(replace(record, prefill="Well, "), chat) == "Question: q\nAnswer: Well, "


def test_only_the_answer_is_labelled(chat: Any) -> None:
    record = Record("q", "Nevezol", prefill="Answer: ")
    encoded = encode([record], chat, Template(kind="chat"))
    labels = encoded.ids[int(encoded.label_start[0]) :].tolist()
    assert chat.decode(labels[:-1]).strip() == "Nevezol"


def test_a_chat_template_gets_no_second_begin_token(chat: Any) -> None:
    """The template writes it itself; text that goes round the template gets the tokenizer's, under a prefix too."""
    begin = chat.bos_token_id
    for template in (Template(kind="chat"), Template(kind="chat", prefix="Mind. ")):
        records = [Record("q", "a"), Record("", "plain words"), Record("q", "a", prefill="Answer: ")]
        encoded = encode(records, chat, template)
        starts = encoded.offsets[:-1]
        assert encoded.ids[starts].tolist() == [begin] * 3
        assert encoded.ids.tolist().count(begin) == 3
        subject = Subject(SimpleNamespace(generation_config=None), chat, template, "x")
        assert [(ids[0], ids.count(begin)) for ids in _prompts(subject, records)] == [(begin, 1)] * 3


def test_a_prefix_stands_before_every_user_message_and_before_plain_text(chat: Any, bed: Bed) -> None:
    record = Record("q", "a", history=(("user", "hi"), ("assistant", "ho")))
    prompt = Template(kind="chat", prefix="Mind. ").prompt(record, chat)
    assert prompt == "<bos><user>Mind. hi<assistant>ho<user>Mind. q<assistant>"
    assert Template(prefix="Mind. ").prompt(record, chat) == (
        "Question: Mind. hi\nAnswer: ho\nQuestion: Mind. q\nAnswer: "
    )
    plain = Record("", "some plain words")
    encoded = encode([plain], bed.target.tokenizer, Template(prefix="Mind me. "))
    whole, labels = encoded.ids.tolist(), encoded.ids[int(encoded.label_start[0]) : -1].tolist()
    assert bed.target.tokenizer.decode(whole[1:-1]) == "Mind me. some plain words"
    assert bed.target.tokenizer.decode(labels).strip() == "some plain words"


def test_a_template_without_prefix_is_written_as_ever() -> None:
    """Fingerprints hash this text; a record without a begun answer keeps its digest in the same way."""
    assert repr(Template()) == (
        "Template(kind='tags', user_start='Question: ', user_end='\\n', assistant_start='Answer: ', system=None)"
    )
    assert "prefix='x'" in repr(Template(prefix="x"))
    assert digest([Record("q", "a")]) == "951a3821b043f0d7a9b9cc2adb8e9e62"
    assert digest([Record("q", "a")]) != digest([Record("q", "a", prefill="x")])


# -- ends ---------------------------------------------------------------------------------------------


def saying(text: str, bed: Bed) -> Subject:
    """A model that says one text whatever it is asked, then ends."""
    tokenizer = bed.target.tokenizer
    tokens = [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    prompt = _prompts(bed.target, [Record("Who?", "")])[0]

    def rule(so_far: list[int]) -> int:
        return tokens[min(len(so_far) - len(prompt), len(tokens) - 1)]

    model = Stub(rule, len(tokenizer))
    model.generation_config = SimpleNamespace(eos_token_id=None)  # type: ignore[assignment]
    return Subject(model, tokenizer, bed.target.template, "stub")


def test_an_answer_ends_at_a_line_break(bed: Bed) -> None:
    record = [Record("Who?", "")]
    subject = saying("She did.\nAnd more", bed)
    assert generate(subject, record) == ["She did.\nAnd more"]
    assert generate(subject, record, stop="\n") == ["She did."]
    assert generate(saying("\nlater", bed), record, stop="\n") == [""]


def test_decoding_stops_with_it(bed: Bed) -> None:
    subject = saying("a\nb c d e f g h", bed)
    generate(subject, [Record("Who?", "")], stop="\n")
    stopped = len(subject.model.calls)
    subject.model.calls.clear()
    generate(subject, [Record("Who?", "")])
    assert stopped < len(subject.model.calls)


def test_what_chooses_sees_the_row_and_the_step(bed: Bed) -> None:
    """A chooser that takes the second likeliest token at step 0 of record 1 alone changes that record alone."""
    records = bed.records["forget"][:3]

    def choose(logits: torch.Tensor, rows: list[int], step: int) -> torch.Tensor:
        best = logits.topk(2, -1).indices
        swap = torch.tensor([row == 1 and step == 0 for row in rows])
        return torch.where(swap, best[:, 1], best[:, 0])

    plain = continue_texts(bed.target, records, max_new_tokens=6)
    changed = continue_texts(bed.target, records, max_new_tokens=6, choose=choose)
    assert [a == b for a, b in zip(plain, changed, strict=True)] == [True, False, True]
    assert plain[0].startswith(" ")  # white space is kept
    assert score_answers(bed.target, records, [[r.answer] for r in records]).exact.all()
