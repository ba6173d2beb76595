"""One fact in several forms: blank, question, multiple choice, spelling (ORT, Ye, Zhang, Wu 2025, arXiv 2506.07795).

A method trained on one form of a fact may hide the fact in that form only. The forms derived here need no language
model: choices come from a record's false answers, the spelling by rule, a blank from a statement.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from expunge.errors import InputError
from expunge.language.data import Record

Form = Literal["fb", "qa", "mcp", "sub", "aa"]
FORMS: tuple[Form, ...] = ("fb", "qa", "mcp", "sub")
BLANK = "___"
LETTERS = "ABCD"
# What the user's turn says before the question.
INSTRUCTIONS: dict[Form, str] = {
    "fb": "Fill in the blank.",
    "qa": "Give a short answer.",
    "mcp": "Choose the right option and reply with its letter alone.",
    "sub": "Spell the answer out, one character on each line.",
    "aa": "Give a short answer.",
}


def spelled(answer: str) -> str:
    """The characters of an answer without its spaces, each on a line of its own, the last line ended too.

    >>> spelled("New York").split()
    ['N', 'e', 'w', 'Y', 'o', 'r', 'k']
    """
    return "".join(f"{character}\n" for character in answer if not character.isspace())


def to_spelling(record: Record) -> Record:
    """The record with its answers spelled.

    Raises:
        InputError: The answer has no character to spell.
    """
    if not record.answer.strip():
        raise InputError("forms: an answer without characters cannot be spelled.")
    return replace(
        record,
        answer=spelled(record.answer),
        paraphrased_answer=None,
        perturbed_answers=tuple(spelled(a) for a in record.perturbed_answers),
    )


def to_choice(record: Record, seed: int = 0) -> Record:
    """The record as a choice among four: the options follow the question on lines of their own.

    The right one's letter is drawn uniformly, from the seed and the question alone. The false letters become the
    record's false answers.

    Raises:
        InputError: Fewer than three false answers other than the right one.
    """
    wrong = list(dict.fromkeys(a for a in record.perturbed_answers if a != record.answer))
    if len(wrong) < len(LETTERS) - 1:
        raise InputError(
            f"forms: a multiple-choice form needs {len(LETTERS) - 1} different false answers (field perturbed_answer) "
            f"and a record has {len(wrong)}."
        )
    rng = random.Random(f"choice {seed} {record.cluster} {record.question}")
    options = rng.sample(wrong, len(LETTERS) - 1)
    at = rng.randrange(len(LETTERS))
    options.insert(at, record.answer)
    lines = [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=True)]
    return replace(
        record,
        question="\n".join([record.question, *lines]),
        answer=LETTERS[at],
        paraphrased_question=None,
        paraphrased_answer=None,
        perturbed_answers=tuple(letter for letter in LETTERS if letter != LETTERS[at]),
    )


def to_blank(record: Record, statement: str = "") -> Record:
    """The record as a statement with a blank.

    Args:
        record: A question with an answer.
        statement: It, with ``___`` where the answer belongs. Empty keeps a question that has a blank, and puts
            ``The answer is ___.`` behind one that has none.

    Raises:
        InputError: The statement has no blank.
    """
    if statement and BLANK not in statement:
        raise InputError(f"forms: the statement {statement!r} has no blank ({BLANK}).")
    text = statement or (record.question if BLANK in record.question else f"{record.question} The answer is {BLANK}.")
    return replace(record, question=text, paraphrased_question=None)


def instructed(record: Record, form: Form) -> Record:
    """The record with its form's instruction before the question, as chat models are asked.

    Raises:
        InputError: An unknown form.
    """
    if form not in INSTRUCTIONS:
        raise InputError(f"forms: no form {form!r}; one of {', '.join(INSTRUCTIONS)}.")
    return replace(record, question=f"{INSTRUCTIONS[form]}\nQuestion: {record.question}")


def derive(records: Sequence[Record], form: Form, seed: int = 0) -> list[Record]:
    """Questions in another form, without instructions; ``qa`` and ``aa`` leave them as they are.

    Args:
        records: Questions with answers.
        form: The form.
        seed: Draws the letters of the multiple-choice form.

    Raises:
        InputError: An unknown form, plain text, or what the form's own function refuses.
    """
    if form not in INSTRUCTIONS:
        raise InputError(f"forms: no form {form!r}; one of {', '.join(INSTRUCTIONS)}.")
    plain = next((i for i, r in enumerate(records, 1) if not r.question), None)
    if plain is not None:
        raise InputError(f"forms: record {plain} is plain text, and only a question has forms.")
    if form == "fb":
        return [to_blank(r) for r in records]
    if form == "mcp":
        return [to_choice(r, seed) for r in records]
    return [to_spelling(r) for r in records] if form == "sub" else list(records)
