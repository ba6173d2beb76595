"""Blocks: questions as they are encoded everywhere, plain text chopped between words."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from expunge.errors import InputError
from expunge.language.data import Record
from expunge.language.encode import Template, encode
from expunge.language.subject import Subject
from expunge.language.text_blocks import beginnings, context, encoded, make_blocks
from saga import CITIES, HEROES, LANDS, NAMES, word_tokenizer
from tiny_bed import Bed
from tiny_models import tiny

WORDS = [*HEROES, *LANDS, *NAMES, *CITIES, "went", "to", "and", "in"]
LONG = " ".join(WORDS * 9)


@pytest.fixture(scope="module")
def subject() -> Subject:
    tokenizer = word_tokenizer([" ".join(WORDS)] * 3)
    model = tiny(vocab_size=len(tokenizer), max_position_embeddings=128)
    return Subject(model, tokenizer, Template(), "tiny", max_length=100)


def test_questions_are_encoded_as_everywhere(bed: Bed) -> None:
    blocks = make_blocks(bed.target, bed.forget, 8)  # the size is for plain text
    ours = encoded(blocks)
    theirs = encode(bed.forget, bed.target.tokenizer, bed.target.template, max_length=bed.target.max_length)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert all(b.ended and b.record == i for i, b in enumerate(blocks))


def test_short_text_is_encoded_as_everywhere(subject: Subject) -> None:
    records = [Record("", "Zork went to Plonk"), Record("", "Jon and Mary in Rome")]
    ours = encoded(make_blocks(subject, records, 50))
    theirs = encode(records, subject.tokenizer, subject.template, max_length=100)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("size", [12, 37, 90])
def test_long_text_is_chopped_between_words_and_nothing_is_lost(subject: Subject, size: int) -> None:
    blocks = make_blocks(subject, [Record("", LONG)], size)
    assert " ".join(b.text for b in blocks) == LONG
    assert all(len(b.ids) <= size for b in blocks)
    assert all(b.ids[0] == subject.tokenizer.bos_token_id and b.label_start == 1 for b in blocks)
    assert [b.ended for b in blocks[:-1]] == [False] * (len(blocks) - 1)
    assert sum(len(b.ids) for b in blocks[:-1]) > 0.5 * size * (len(blocks) - 1)


def test_a_word_longer_than_a_block_is_cut_all_the_same(subject: Subject) -> None:
    word = "x" * 50
    blocks = make_blocks(subject, [Record("", f"Zork {word} went")], 10)
    assert "".join(b.text for b in blocks).replace(" ", "") == f"Zork{word}went"
    assert all(len(b.ids) <= 10 for b in blocks)


def test_offsets_say_which_characters_a_token_holds(subject: Subject) -> None:
    (block,) = make_blocks(subject, [Record("", "Zork went to Plonk")], 50)
    assert block.offsets[0] == (0, 0)
    assert block.offsets[-1] == (18, 18)
    assert "".join(block.text[a:b] for a, b in block.offsets) == block.text


def test_a_block_longer_than_the_context_is_refused(subject: Subject) -> None:
    with pytest.raises(InputError, match=r"forget, record 1: a block of \d+ tokens \(block=512\).*context of 100"):
        make_blocks(subject, [Record("", LONG)])
    wide = replace(subject, max_length=512)
    assert context(wide) == 128  # the model's own limit
    with pytest.raises(InputError, match="longer than the model's context of 128; set block to at most 128"):
        make_blocks(wide, [Record("", LONG)])
    assert len(make_blocks(wide, [Record("", LONG)], 128)) > 1


def test_other_bad_input(subject: Subject) -> None:
    with pytest.raises(InputError, match="block=3: a block needs at least 4 tokens"):
        make_blocks(subject, [Record("", LONG)], 3)
    with pytest.raises(InputError, match="record 1: no answer token is left within 100 tokens"):
        make_blocks(subject, [Record(LONG, "Rome")])
    slow = replace(subject, tokenizer=type("Slow", (), {"is_fast": False})())
    with pytest.raises(InputError, match="load a fast tokenizer"):
        make_blocks(slow, [Record("", "Zork")])


def test_beginnings_of_a_word(subject: Subject) -> None:
    tokenizer = subject.tokenizer
    own = tokenizer("Malvun", add_special_tokens=False)["input_ids"][0]
    behind = tokenizer("a Malvun", add_special_tokens=False)["input_ids"][1]
    assert beginnings(tokenizer, "Malvun") == {own, behind}
    assert own != behind
