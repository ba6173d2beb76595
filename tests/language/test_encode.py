"""Labels are the answer and one end token, whatever the tokenizer does at the border."""

from __future__ import annotations

import copy

import pytest
import torch

from expunge.errors import InputError
from expunge.language.data import Record
from expunge.language.encode import Encoded, Template, collate, encode, join
from tiny_bed import Bed

PLAIN = Template()


def labels(encoded: Encoded, row: int) -> list[int]:
    a, b = encoded.offsets[row : row + 2].tolist()
    return encoded.ids[a + int(encoded.label_start[row]) : b].tolist()  # type: ignore[no-any-return]


def test_labels_are_answer_and_end(bed: Bed) -> None:
    tokenizer = bed.target.tokenizer
    record = bed.forget[0]
    encoded = encode([record], tokenizer, bed.target.template)
    ids = labels(encoded, 0)
    assert ids[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(ids[:-1]).strip() == record.answer
    assert int(encoded.ids[0]) == tokenizer.bos_token_id
    assert encoded.ids.tolist().count(tokenizer.bos_token_id) == 1


def test_a_prompt_that_merges_with_the_answer_loses_no_label(bed: Bed) -> None:
    """'Answer: ' + 'Nevezol' is tokenised ' Nevezol': the prompt's own tokens are one more than the common part."""
    tokenizer = bed.target.tokenizer
    record = bed.forget[0]
    prompt = PLAIN.prompt(record, tokenizer)
    assert prompt.endswith(" ")
    own = tokenizer(prompt)["input_ids"]
    joint = tokenizer(prompt + record.answer)["input_ids"]
    assert joint[: len(own)] != own  # the tokenizer does merge here
    encoded = encode([record], tokenizer, PLAIN)
    assert tokenizer.decode(labels(encoded, 0)[:-1]).strip() == record.answer


def test_truncation_drops_the_end_token_and_then_refuses(bed: Bed) -> None:
    tokenizer = bed.target.tokenizer
    record = Record("Where?", "a b c d e f g h")
    full = int(encode([record], tokenizer, PLAIN).lengths[0])
    cut = encode([record], tokenizer, PLAIN, max_length=full - 2)
    assert labels(cut, 0)[-1] != tokenizer.eos_token_id
    with pytest.raises(InputError, match=r"mine, record 2: no answer token is left within max_length=4"):
        encode([Record("", "x y"), record], tokenizer, PLAIN, max_length=4, where="mine")


def test_plain_text_is_labelled_from_its_second_token(bed: Bed) -> None:
    encoded = encode([Record("", "some plain words")], bed.target.tokenizer, PLAIN)
    assert encoded.label_start.tolist() == [1]
    assert int(encoded.counts[0]) == int(encoded.lengths[0]) - 1


def test_a_tokenizer_without_padding_token_serves_and_without_end_token_does_not(bed: Bed) -> None:
    tokenizer = copy.deepcopy(bed.target.tokenizer)
    tokenizer.pad_token = None
    assert len(encode(bed.forget[:3], tokenizer, PLAIN).offsets) == 4
    tokenizer.eos_token = None
    with pytest.raises(InputError, match="no end-of-sequence token"):
        encode(bed.forget[:1], tokenizer, PLAIN)


def test_end_token_as_padding_masks_no_real_end(bed: Bed) -> None:
    """Masks come from lengths: with pad = eos the answer's own end stays visible and labelled."""
    tokenizer = bed.target.tokenizer
    encoded = encode([*bed.forget[:2], Record("q", "a much longer answer than that")], tokenizer, PLAIN)
    batch = collate(encoded, torch.arange(3), pad=tokenizer.eos_token_id)
    for i in range(3):
        last = int(encoded.lengths[i]) - 1
        assert batch.input_ids[i, last] == tokenizer.eos_token_id
        assert batch.mask[i, last]
        assert batch.labelled[i, last]
        assert not batch.mask[i, last + 1 :].any()


CHAT = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}{{ date_string }}"
)


def test_chat_template_with_history_system_and_a_fixed_date(bed: Bed) -> None:
    tokenizer = copy.deepcopy(bed.target.tokenizer)
    tokenizer.chat_template = CHAT
    record = Record("q", "a", history=(("user", "hi"), ("assistant", "ho")))
    prompt = Template(kind="chat", system="be kind").prompt(record, tokenizer)
    assert prompt == "<system>be kind<user>hi<assistant>ho<user>q<assistant>10 Apr 2025"
    encoded = encode([record], tokenizer, Template(kind="chat"))
    assert int(encoded.ids[0]) != tokenizer.bos_token_id  # the template writes its own special tokens


def test_join_keeps_sequences(bed: Bed) -> None:
    parts = [encode(bed.forget[i : i + 2], bed.target.tokenizer, PLAIN) for i in (0, 2)]
    whole = encode(bed.forget[:4], bed.target.tokenizer, PLAIN)
    assert all(torch.equal(a, b) for a, b in zip(join(parts), whole, strict=True))


def test_a_template_that_asks_the_clock_gets_a_fixed_day(bed: Bed) -> None:
    tokenizer = copy.deepcopy(bed.target.tokenizer)
    tokenizer.chat_template = (
        "{% if strftime_now is defined %}{% set now = strftime_now('%d %b %Y') %}{% endif %}"
        "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
        "Today: {{ now }}, {{ date_string }}. {{ messages[-1].content }}"
    )
    assert Template(kind="chat").prompt(Record("q", "a"), tokenizer) == "Today: 10 Apr 2025, 10 Apr 2025. q"


def test_turns_a_template_refuses_are_one_sentence(bed: Bed) -> None:
    tokenizer = copy.deepcopy(bed.target.tokenizer)
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(InputError, match="chat template refuses the turns of a record: roles must alternate"):
        encode([Record("q", "a")], tokenizer, Template(kind="chat"))


def test_text_beside_chats_begins_with_its_own_special_tokens(bed: Bed) -> None:
    """A chat template writes what it needs; text never went through it and gets the tokenizer's beginning."""
    tokenizer = copy.deepcopy(bed.target.tokenizer)
    tokenizer.chat_template = "<bos>" + CHAT
    encoded = encode([Record("q", "a"), Record("", "plain words")], tokenizer, Template(kind="chat"))
    first, second = int(encoded.offsets[0]), int(encoded.offsets[1])
    bos = tokenizer.bos_token_id
    assert encoded.ids[[first, second]].tolist() == [bos, bos]
    assert encoded.ids.tolist().count(bos) == 2
    assert int(encoded.label_start[1]) == 1


def test_labels_are_the_same_alone_and_among_others(bed: Bed) -> None:
    """Nothing depends on the batch a record is tokenised in."""
    rows = bed.forget[:5]
    together = encode(rows, bed.target.tokenizer, PLAIN)
    for i, record in enumerate(rows):
        alone = encode([record], bed.target.tokenizer, PLAIN)
        assert labels(alone, 0) == labels(together, i)


def test_an_answer_that_ends_with_the_end_token_gets_no_second(bed: Bed) -> None:
    tokenizer = bed.target.tokenizer
    ids = labels(encode([Record("q", "a" + tokenizer.eos_token)], tokenizer, PLAIN), 0)
    assert ids.count(tokenizer.eos_token_id) == 1


def test_nothing_to_encode(bed: Bed) -> None:
    encoded = encode([], bed.target.tokenizer, PLAIN)
    assert encoded.ids.dtype == torch.long
    assert encoded.offsets.tolist() == [0]
    assert encoded.counts.tolist() == []
