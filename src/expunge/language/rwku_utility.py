"""RWKU's utility suites as records: each row carries its own worked examples; answers are scored as their papers do.

The questions go through the model's template like any other, with the beginning of the answer written already.
Instructions and the worked examples of the two suites whose rows bring none are in our words.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from expunge.errors import InputError
from expunge.language.data import Record
from expunge.language.metrics.multiple_choice import LETTERS
from expunge.language.rwku_data import config_rows, text_of

# Our split, their configuration, what the paper's table calls it.
SUITES = {
    "general": ("utility_general", "Gen"),
    "reason": ("utility_reason", "Rea"),
    "truthfulness": ("utility_truthfulness", "Tru"),
    "factuality": ("utility_factuality", "Fac"),
    "fluency": ("utility_fluency", "Flu"),
}
SHOTS = 5  # worked examples a row of MMLU brings

TRUTH_SHOTS = (
    ("How many legs does a spider have?", "A spider has eight legs."),
    ("Does the moon make its own light?", "No, the moon reflects the light of the sun."),
    ("What happens to water at sea level when it reaches 100 degrees Celsius?", "It boils."),
    ("Can anyone know the number that a fair die will show next?", "No, nobody can know that."),
    ("Which is larger, a whale or a horse?", "A whale is larger."),
    ("What is the square root of a banana?", "A banana has no square root."),
)
FACT_SHOTS = (
    ("Which metal is liquid at room temperature?", "Mercury"),
    ("How many strings does a violin have?", "Four"),
    ("On which river does Vienna stand?", "The Danube"),
    ("Which planet comes next after Mars from the sun?", "Jupiter"),
    ("What do bees make from nectar?", "Honey"),
    ("Which ocean lies between Africa and Australia?", "The Indian Ocean"),
)


def read_suite(path: str, suite: str, targets: list[str], most: int = 0) -> list[Record]:
    """The records of one suite for some targets; a row that several of them have in common is taken once.

    Args:
        path: Hub id or folder.
        suite: A key of `SUITES`.
        targets: Rows with another ``subject`` are left out; rows without one are for everybody.
        most: Most records; 0 for all.

    Raises:
        InputError: A row that is no question of the suite (named).
    """
    make, found, wanted = MAKERS[suite], [], set(targets)
    seen: set[tuple[str, str]] = set()
    for where, row in config_rows(path, SUITES[suite][0]):
        record = make(row, where)
        if row.get("subject") in (None, *wanted) and (record.question, record.answer) not in seen:
            seen.add((record.question, record.answer))
            found.append(record)
    return found[:most] if most else found


# -- rows to records ----------------------------------------------------------------------------------


def general(row: dict[str, Any], where: str) -> Record:
    """A row of MMLU (``question``, ``choices``, ``answer``, ``task``, ``examples``): five shots, then the letter.

    Raises:
        InputError: It is none.
    """
    examples = row.get("examples")
    if not isinstance(examples, list) or len(examples) != SHOTS:
        raise InputError(f"{where}: field 'examples' must hold {SHOTS} worked questions.")
    shots = "".join(_letters(e, f"{where}, example {i}", solved=True) for i, e in enumerate(examples, 1))
    task = text_of(row, "task", where).replace("_", " ")
    asked = _letters(row, where, solved=False)
    letter = LETTERS[row["answer"]]
    return Record(
        f"Multiple choice questions about {task}, with their answers.\n\n{shots}Now answer this one like the others.\n"
        f"{asked}",
        letter,
        perturbed_answers=tuple(other for other in LETTERS if other != letter),
        prefill="Answer: ",
    )


def _letters(row: Any, where: str, *, solved: bool) -> str:
    if not isinstance(row, dict):
        raise InputError(f"{where}: expected an object with fields, found {type(row).__name__}.")
    choices, answer = row.get("choices"), row.get("answer")
    if not isinstance(choices, list) or len(choices) != len(LETTERS) or not all(isinstance(c, str) for c in choices):
        raise InputError(f"{where}: field 'choices' must hold exactly {len(LETTERS)} texts.")
    if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer < len(LETTERS):
        raise InputError(f"{where}: field 'answer' must be 0, 1, 2 or 3, the index of a choice; found {answer!r}.")
    options = "".join(f"\n{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=True))
    end = f"\nAnswer: {LETTERS[answer]}\n\n" if solved else ""
    return f"Question: {text_of(row, 'question', where)}{options}{end}"


def reason(row: dict[str, Any], where: str) -> Record:
    """A row of BIG-Bench Hard (``cot``, ``question``, ``answer``): worked chains of thought, then a new question.

    Raises:
        InputError: It is none.
    """
    answer = row.get("answer")
    if isinstance(answer, list):  # one of several right answers, by some conversions of the data
        answers = [a for a in answer if isinstance(a, str) and a.strip()]
        if not answers or len(answers) < len(answer):
            raise InputError(f"{where}: field 'answer' must be text or a list of texts.")
    else:
        answers = [text_of(row, "answer", where)]
    return Record(
        f"{text_of(row, 'cot', where).strip()}\n\nGo about the next question in the same way, and close with 'so the "
        f"answer is'.\nQ: {text_of(row, 'question', where)}",
        answers[0],
        paraphrased_answer="\n".join(answers[1:]) or None,
        prefill="A: ",
    )


def truthfulness(row: dict[str, Any], where: str) -> Record:
    """A row of TruthfulQA (``question``, ``mc1_targets``): the right answer, and the others as false answers.

    Raises:
        InputError: It is none, or has not exactly one right answer.
    """
    targets = row.get("mc1_targets")
    choices = targets.get("choices") if isinstance(targets, dict) else None
    labels = targets.get("labels") if isinstance(targets, dict) else None
    if not isinstance(choices, list) or not isinstance(labels, list) or len(choices) != len(labels):
        raise InputError(f"{where}: field 'mc1_targets' must hold as many 'choices' as 'labels'.")
    if not all(isinstance(c, str) and c.strip() for c in choices):
        raise InputError(f"{where}: field 'mc1_targets': every choice must be text.")
    right = [c for c, label in zip(choices, labels, strict=True) if label == 1]
    if len(right) != 1 or len(choices) < 2:
        raise InputError(f"{where}: field 'mc1_targets' must have one right choice and a wrong one; found {labels!r}.")
    wrong = tuple(c for c, label in zip(choices, labels, strict=True) if label != 1)
    question = _worked(TRUTH_SHOTS, "\n\n") + f"Q: {text_of(row, 'question', where)}"
    return Record(question, right[0], perturbed_answers=wrong, prefill="A: ")


def factuality(row: dict[str, Any], where: str) -> Record:
    """A row of TriviaQA (``question``, ``answers``); further right answers stand in `paraphrased_answer`, by line.

    Raises:
        InputError: It is none.
    """
    answers = row.get("answers")
    if not isinstance(answers, list) or not answers or not all(isinstance(a, str) and a.strip() for a in answers):
        raise InputError(f"{where}: field 'answers' must be a list of at least one text.")
    asked = f"Give a short answer to this one too.\nQ: {text_of(row, 'question', where)}\n"
    lines = [" ".join(a.split()) for a in answers]
    return Record(
        _worked(FACT_SHOTS, "\n") + asked,
        lines[0],
        paraphrased_answer="\n".join(lines[1:]) or None,
        prefill="A: ",
    )


def fluency(row: dict[str, Any], where: str) -> Record:
    """A row of AlpacaEval (``instruction``): something to write about; no answer is right.

    Raises:
        InputError: It is none.
    """
    return Record(f"Instruction: {text_of(row, 'instruction', where)}\n", "")


def _worked(shots: Sequence[tuple[str, str]], between: str) -> str:
    return "".join(f"Q: {question}\nA: {answer}{between}" for question, answer in shots)


MAKERS: dict[str, Callable[[dict[str, Any], str], Record]] = {
    "general": general,
    "reason": reason,
    "truthfulness": truthfulness,
    "factuality": factuality,
    "fluency": fluency,
}


# -- scoring ------------------------------------------------------------------------------------------


def normalise(text: str) -> str:
    """SQuAD's normal form (Rajpurkar et al. 2016): lower case, no punctuation, no articles, single spaces.

    >>> normalise("The (B), a  Dog's.")
    'b dogs'
    """
    kept = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", kept).split())


def exact_match(said: str, references: Sequence[str]) -> float:
    """1 if the text equals one of the references in normal form.

    >>> exact_match("(A)", ["(B)"]), exact_match("yes.", ["Yes"])
    (0.0, 1.0)

    Raises:
        TypeError: One text in place of a list, whose letters would be compared one by one.
    """
    if isinstance(references, str):
        raise TypeError("references must be a list of texts, not one text")
    return float(any(normalise(said) == normalise(r) for r in references))


def f1(said: str, references: Sequence[str]) -> float:
    """Largest F1 of words in normal form over the references; of two empty texts 1.

    >>> round(f1("the river Danube", ["Danube", "Donau"]), 4)
    0.6667

    Raises:
        TypeError: One text in place of a list.
    """
    if isinstance(references, str):
        raise TypeError("references must be a list of texts, not one text")
    return max(_f1(normalise(said).split(), normalise(r).split()) for r in references)


def _f1(said: list[str], right: list[str]) -> float:
    if not said or not right:
        return float(said == right)
    common = sum((Counter(said) & Counter(right)).values())
    return 2 * common / (len(said) + len(right))  # the harmonic mean of common / said and common / right


def concluded(text: str) -> str:
    """What a chain of thought concludes: the text after ``the answer is``, up to a full stop or the line's end.

    >>> concluded("9 - 4 = 5. So the answer is 5. Next"), concluded("no idea\\n")
    ('5', 'no idea')
    """
    found = re.search(r"the answer is(.*?)(?:\.(?=\s|$)|\n|$)", text, re.IGNORECASE)
    return found.group(1).strip(" :") if found else text.strip()


def right_answers(record: Record) -> list[str]:
    """All right answers of a record of these suites."""
    return [record.answer, *(record.paraphrased_answer or "").splitlines()]
