"""One fact in several forms."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from expunge.errors import InputError
from expunge.language.data import Record
from expunge.language.encode import Template, encode
from expunge.language.forms import LETTERS, derive, instructed, spelled, to_blank, to_choice, to_spelling
from tiny_bed import Bed

CITY = Record("Where was Ann born?", "New York", "Ann", perturbed_answers=("Rome", "Bonn", "Lima", "Oslo"))


def test_new_york_is_seven_letters_each_on_its_own_line() -> None:
    assert spelled("New York") == "N\ne\nw\nY\no\nr\nk\n"
    record = to_spelling(CITY)
    assert record.answer.splitlines() == list("NewYork")
    assert record.perturbed_answers[0] == "R\no\nm\ne\n"
    assert record.question == CITY.question


def test_a_choice_has_four_options_one_right_and_its_letter_as_answer() -> None:
    record = to_choice(CITY)
    question, *options = record.question.splitlines()
    assert question == CITY.question
    assert [o[:3] for o in options] == ["A. ", "B. ", "C. ", "D. "]
    texts = [o[3:] for o in options]
    assert texts[LETTERS.index(record.answer)] == "New York"
    assert set(texts) - {"New York"} < set(CITY.perturbed_answers)
    assert len(set(texts)) == 4
    assert set(record.perturbed_answers) == set(LETTERS) - {record.answer}
    assert record == to_choice(CITY)


def test_letters_are_uniform_over_questions_and_change_with_the_seed() -> None:
    """400 questions, four letters: 100 each, give or take 4 standard deviations of sqrt(400 / 4 * 3 / 4)."""
    records = [Record(f"question {i}?", "yes", "", perturbed_answers=("no", "never", "maybe")) for i in range(400)]
    counts = Counter(to_choice(r).answer for r in records)
    assert all(abs(counts[letter] - 100) < 36 for letter in LETTERS)
    moved = sum(to_choice(r, 1).answer != to_choice(r).answer for r in records)
    assert 250 < moved < 350  # three quarters of them


def lettered() -> Any:
    """A byte-level tokenizer that knows each letter with the space before it as one token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        special_tokens=["<eos>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([f"Answer: {letter}" for letter in LETTERS] * 9, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>")


def test_a_choices_probability_is_that_of_one_letter_token(bed: Bed) -> None:
    """One token holds the letter, with the space before it where the tokenizer joins the two; then EOS."""
    record = to_choice(bed.forget[0])
    for tokenizer, token in ((lettered(), f"Ġ{record.answer}"), (bed.target.tokenizer, record.answer)):
        encoded = encode([record], tokenizer, bed.target.template)
        labels = encoded.ids[int(encoded.label_start[0]) :].tolist()
        assert tokenizer.convert_ids_to_tokens(labels) == [token, "<eos>"]


def test_a_spelled_answer_is_labelled_letter_by_letter(bed: Bed) -> None:
    encoded = encode([to_spelling(CITY)], bed.target.tokenizer, Template(assistant_start=" "))
    labels = encoded.ids[int(encoded.label_start[0]) : -1].tolist()
    assert bed.target.tokenizer.decode(labels).strip(" ") == "N\ne\nw\nY\no\nr\nk\n"


def test_a_blank_comes_from_a_statement_a_blank_or_behind_the_question() -> None:
    assert to_blank(CITY, "Ann was born in ___.").question == "Ann was born in ___."
    asked = Record("Ann was born in ___, Maine.", "Portland")
    assert to_blank(asked).question == asked.question
    assert to_blank(CITY).question == "Where was Ann born? The answer is ___."
    assert to_blank(CITY).answer == "New York"
    with pytest.raises(InputError, match="has no blank"):
        to_blank(CITY, "Ann was born somewhere.")


def test_deriving_gives_each_record_in_the_form() -> None:
    records = [CITY, Record("Who is Ann?", "a baker", "Ann", perturbed_answers=("a cook", "a monk", "a thief"))]
    assert derive(records, "qa") == records
    assert derive(records, "aa") == records
    assert [r.answer for r in derive(records, "sub")] == [spelled(r.answer) for r in records]
    assert all("___" in r.question for r in derive(records, "fb"))
    assert derive(records, "mcp", 3) == [to_choice(r, 3) for r in records]
    assert instructed(records[1], "qa").question.endswith("\nQuestion: Who is Ann?")


def test_what_has_no_such_form_is_refused() -> None:
    with pytest.raises(InputError, match="no form 'essay'; one of fb, qa"):
        derive([CITY], "essay")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no form 'essay'"):
        instructed(CITY, "essay")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="record 2 is plain text"):
        derive([CITY, Record("", "text")], "sub")
    few = Record("q", "a", perturbed_answers=("a", "b", "b", "c"))
    with pytest.raises(InputError, match=r"needs 3 different false answers .* a record has 2"):
        to_choice(few)
    with pytest.raises(InputError, match="without characters"):
        to_spelling(Record("q", " "))
