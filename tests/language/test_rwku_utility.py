"""RWKU's utility suites: rows to prompts, and the scores of their papers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from expunge.errors import InputError
from expunge.language.rwku_utility import (
    FACT_SHOTS,
    MAKERS,
    SUITES,
    TRUTH_SHOTS,
    concluded,
    exact_match,
    f1,
    normalise,
    read_suite,
    right_answers,
)


def choice(question: str, answer: int = 1) -> dict[str, Any]:
    return {"question": question, "choices": ["sky", "blood", "grass", "snow"], "answer": answer}


MMLU = {**choice("Which is red?"), "task": "plain_colours", "examples": [choice(f"Ex {i}?", i % 4) for i in range(5)]}
BBH = {"task": "t", "cot": " Q: 1+1?\nA: 2, so the answer is 2. ", "question": "2+2?", "answer": "4"}
TRUTH = {"question": "Is it?", "mc1_targets": {"choices": ["Yes.", "No.", "Maybe."], "labels": [0, 1, 0]}}
TRIVIA = {"question": "Which river?", "answers": ["Danube", "the  Donau"]}
ROWS = {"general": MMLU, "reason": BBH, "truthfulness": TRUTH, "factuality": TRIVIA, "fluency": {"instruction": "Go."}}


def test_five_shots_and_the_letter() -> None:
    record = MAKERS["general"](MMLU, "here")
    assert record.question.startswith("Multiple choice questions about plain colours,")
    assert record.question.count("\nAnswer: ") == 5
    assert record.question.endswith("Question: Which is red?\nA. sky\nB. blood\nC. grass\nD. snow")
    assert (record.answer, record.perturbed_answers, record.prefill) == ("B", ("A", "C", "D"), "Answer: ")


def test_chains_of_thought_stand_before_the_question() -> None:
    record = MAKERS["reason"](BBH, "here")
    assert record.question.startswith("Q: 1+1?\nA: 2, so the answer is 2.\n\n")
    assert record.question.endswith("\nQ: 2+2?")
    assert record.prefill == "A: "
    assert right_answers(MAKERS["reason"]({**BBH, "answer": ["4", "four"]}, "here")) == ["4", "four"]


def test_six_shots_of_truth_and_of_facts() -> None:
    truth, fact = MAKERS["truthfulness"](TRUTH, "here"), MAKERS["factuality"](TRIVIA, "here")
    assert len(TRUTH_SHOTS) == len(FACT_SHOTS) == 6
    assert truth.question.count("A: ") == fact.question.count("A: ") == 6
    assert truth.question.endswith("\n\nQ: Is it?")
    assert (truth.answer, truth.perturbed_answers) == ("No.", ("Yes.", "Maybe."))
    assert right_answers(fact) == ["Danube", "the Donau"]


@pytest.mark.parametrize(
    ("suite", "changes", "message"),
    [
        ("general", {"examples": MMLU["examples"][:4]}, "field 'examples' must hold 5 worked questions"),
        ("general", {"examples": [*MMLU["examples"][:4], "x"]}, "example 5: expected an object"),
        ("general", {"choices": ["a", "b"]}, "field 'choices' must hold exactly 4 texts"),
        ("general", {"answer": 4}, "field 'answer' must be 0, 1, 2 or 3.*found 4"),
        ("general", {"answer": "B"}, "field 'answer' must be 0, 1, 2 or 3.*found 'B'"),
        ("general", {"task": None}, "field 'task' is missing"),
        ("reason", {"answer": 4}, "field 'answer' must be text"),
        ("reason", {"answer": ["4", ""]}, "field 'answer' must be text or a list of texts"),
        ("reason", {"cot": ""}, "field 'cot' is missing or empty"),
        ("truthfulness", {"mc1_targets": {"choices": ["a"], "labels": [1, 0]}}, "as many 'choices' as 'labels'"),
        ("truthfulness", {"mc1_targets": {"choices": ["a", "b"], "labels": [1, 1]}}, "one right choice"),
        ("truthfulness", {"mc1_targets": {"choices": ["a", 1], "labels": [1, 0]}}, "every choice must be text"),
        ("factuality", {"answers": []}, "field 'answers' must be a list of at least one text"),
        ("factuality", {"answers": "Danube"}, "field 'answers' must be a list"),
        ("fluency", {"instruction": 3}, "field 'instruction' must be text, found 3"),
    ],
)
def test_a_wrong_row_is_named(suite: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"row 7.*{message}"):
        MAKERS[suite]({**ROWS[suite], **changes}, "row 7")


def test_rows_of_a_target_and_rows_for_everybody_each_once(tmp_path: Path) -> None:
    rows = [{**TRIVIA, "question": f"{i % 3}?", "subject": s} for i, s in enumerate(["Ada", "Ada", "Bo", "Ada"])]
    rows.append({**TRIVIA, "question": "all?"})
    for suite, (config, _) in SUITES.items():
        content = rows if suite == "factuality" else [ROWS[suite]]
        (tmp_path / f"{config}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in content), encoding="utf-8")
    asked = [r.question.splitlines()[-1] for r in read_suite(str(tmp_path), "factuality", ["Ada"])]
    assert asked == ["Q: 0?", "Q: 1?", "Q: all?"]  # the fourth row is the first one again
    assert len(read_suite(str(tmp_path), "factuality", ["Ada", "Bo"], most=3)) == 3
    assert len(read_suite(str(tmp_path), "general", ["Zoe"])) == 1


# -- scores -------------------------------------------------------------------------------------------


def test_a_parenthesised_letter_matches_itself_only() -> None:
    """One text as the list of references would be compared letter by letter: "(A)" would equal any "(B)"."""
    assert exact_match("(A)", ["(A)"]) == exact_match("the  Yes!", ["yes"]) == 1.0
    assert exact_match("(A)", ["(B)"]) == exact_match("True", ["T"]) == 0.0
    for score in (exact_match, f1):
        with pytest.raises(TypeError, match="a list of texts"):
            score("(A)", "(B)")


def test_f1_is_squads() -> None:
    """ "the blue Danube river" against "Danube": precision 1/3, recall 1, F1 = 1/2."""
    assert f1("the blue Danube river", ["Danube"]) == pytest.approx(0.5)
    assert f1("Donau", ["Danube", "The Donau"]) == 1.0
    assert f1("so so", ["so"]) == pytest.approx(2 / 3)
    assert f1("x", ["y"]) == f1("", ["y"]) == 0.0
    assert f1("", ["the"]) == 1.0
    assert normalise("An  Owl's  (nest)") == "owls nest"


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("So the answer is (B).", "(B)"),
        ("1 + 2.5 = 3.5. The answer is 3.5. Good", "3.5"),
        ("the answer is: no\nQ: next the answer is yes.", "no"),
        ("so the answer is 12", "12"),
        ("nothing of the kind ", "nothing of the kind"),
        ("", ""),
    ],
)
def test_what_a_chain_of_thought_concludes(text: str, end: str) -> None:
    assert concluded(text) == end
