"""A block and its translation: what aligns, which substitutes are used, which names stand there again."""

from __future__ import annotations

import pytest

from expunge.errors import InputError
from expunge.language.anchors import Anchors
from expunge.language.data import Record
from expunge.language.encode import Template
from expunge.language.subject import Subject
from expunge.language.text_blocks import Block, make_blocks
from expunge.language.translated_blocks import repeated_starts, translate_block
from saga import word_tokenizer
from tiny_models import tiny

TEXTS = ["Zork went to Plonk", "Jon went to Rome and saw Zork in Plonk", "a Zork a Jon a Plonk a Rome a Krk"]
SAGA = Anchors({"Zork": "Jon", "Plonk": "Rome"})


@pytest.fixture(scope="module")
def subject() -> Subject:
    tokenizer = word_tokenizer(TEXTS * 3)
    model = tiny(vocab_size=len(tokenizer), max_position_embeddings=64)
    return Subject(model, tokenizer, Template(), "tiny", max_length=64)


def block_of(subject: Subject, text: str) -> Block:
    (block,) = make_blocks(subject, [Record("", text)], 64)
    return block


def tokens(subject: Subject, ids: list[int]) -> list[str]:
    return [subject.tokenizer.decode([i]) for i in ids]


def test_zork_went_to_plonk(subject: Subject) -> None:
    """Every token that is no name has its partner, rising; so have the last tokens of the names."""
    block = block_of(subject, "Zork went to Plonk")
    found = translate_block(subject, block, SAGA, 0)
    assert subject.tokenizer.decode(found.ids, skip_special_tokens=True) == "Jon went to Rome"
    old, new = tokens(subject, block.ids), tokens(subject, found.ids)
    partners = {old[i]: new[j] for i, j in found.pairs}
    assert partners[" went"] == " went"
    assert partners[" to"] == " to"
    assert partners["<eos>"] == "<eos>"
    after_zork = old.index(" went") - 1  # the last token of "Zork": it predicts " went"
    assert (after_zork, new.index(" went") - 1) in found.pairs
    assert (len(old) - 2, len(new) - 2) in found.pairs  # the last token of "Plonk" predicts the end
    inside = {i for i, (a, b) in enumerate(block.offsets) if a < b and (b <= 4 or a >= 12)}
    assert {i for i, _ in found.pairs} & inside == {after_zork, len(old) - 2}


def test_without_anchors_it_is_the_identity(subject: Subject) -> None:
    block = block_of(subject, "Zork went to Plonk and saw Zork")
    found = translate_block(subject, block, Anchors({}), 0)
    assert found.ids == block.ids
    assert found.pairs == [(i, i) for i in range(len(block.ids))]
    assert found.used == []


def test_substitutes_are_used_from_their_first_appearance_on(subject: Subject) -> None:
    """Zork saw Zork: from the last token of the first Jon on, both beginnings of Jon are used up."""
    block = block_of(subject, "and Zork saw Zork in Plonk")
    found = translate_block(subject, block, SAGA, 0)
    new = tokens(subject, found.ids)
    tokenizer = subject.tokenizer
    first = {tokenizer("Jon", add_special_tokens=False)["input_ids"][0]}
    first |= {tokenizer("a Jon", add_special_tokens=False)["input_ids"][1]}
    jon = {j for j, token in found.used if token in first}
    assert jon == {new.index(" saw") - 1}
    rome = [j for j, token in found.used if token not in first]
    assert set(rome) == {len(new) - 2}


def test_a_name_that_stands_there_again(subject: Subject) -> None:
    """The second Zork of the block is marked, in whatever case, and the first Plonk is not."""
    block = block_of(subject, "Zork saw ZORK in Plonk and Plonk")
    places = repeated_starts(block, SAGA)
    behind = {block.text[block.offsets[p + 1][0] :].strip()[:5] for p in places}
    assert behind == {"ZORK ", "Plonk"}
    assert len(places) == 2
    assert repeated_starts(block, Anchors({})) == set()
    assert repeated_starts(block_of(subject, "Zork went to Plonk"), SAGA) == set()


def test_a_translation_longer_than_the_context_is_cut(subject: Subject) -> None:
    block = block_of(subject, "Zork went to Plonk and saw Rome and went to Rome")
    long = Anchors({"Plonk": "Krk" * 60})
    found = translate_block(subject, block, long, 0)
    assert len(found.ids) == 64
    before = next(i for i, (a, _) in enumerate(block.offsets) if a >= 12)
    assert {i for i, _ in found.pairs} <= set(range(before))
    assert all(i == j for i, j in found.pairs)
    assert len(found.pairs) == before


def test_nothing_aligned_names_the_record(subject: Subject) -> None:
    with pytest.raises(InputError, match=r"forget record 1: alignment: .* no block of 2 tokens in common"):
        translate_block(subject, Block("Zork", [5], [(0, 4)], 1, False, False, 0), SAGA, 0)
