"""Four-option questions: the prompt, the letters, and the same numbers as lm-evaluation-harness."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from expunge.errors import InputError, RunError
from expunge.language.data import Record
from expunge.language.evidence import EvidenceStore
from expunge.language.metrics import multiple_choice as module
from expunge.language.metrics.multiple_choice import (
    CONTINUATIONS,
    LETTERS,
    MultipleChoice,
    choice_prompt,
    choice_record,
    letter_scores,
    right_letters,
    standard_error,
)
from expunge.language.subject import Subject
from expunge.report.scorecard import Finding
from tiny_bed import Bed

ABOUT = "cities"


def questions(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Rows in the format of the hub's data, right letters drawn uniformly."""
    rng = random.Random(seed)
    words = ["Zomarar", "Belin", "Tirak", "Nosava", "Ridos", "Dekis"]
    return [
        {"question": f" Where is place {i}? ", "choices": rng.sample(words, 4), "answer": rng.randrange(4)}
        for i in range(count)
    ]


def records_of(rows: list[dict[str, Any]]) -> list[Record]:
    return [
        choice_record(r["question"], r["choices"], r["answer"], ABOUT, where=f"row {i}") for i, r in enumerate(rows)
    ]


def measured(subject: Subject | None, records: list[Record], **fields: Any) -> dict[str, Finding]:
    store = EvidenceStore("npo", subject or (lambda: None), {"forget": records})  # type: ignore[arg-type, return-value]
    found = MultipleChoice(splits=("forget",), **fields).measure(store, None)
    return {f.metric: f for f in found}


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Record], int]], None]:
    """Replaces the model by a rule that names the letter it prefers."""

    def install(prefers: Callable[[Record], int]) -> None:
        def scores(_: Any, records: list[Record], **__: Any) -> np.ndarray:
            return np.array([[float(i == prefers(r)) for i in range(4)] for r in records])

        monkeypatch.setattr(module, "letter_scores", scores)

    return install


# -- prompts and records ------------------------------------------------------------------------------


def test_the_prompt_to_the_letter() -> None:
    assert choice_prompt("  What is red?\n", ["sky", " blood", "grass", "snow"], "cybersecurity") == (
        "The following are multiple choice questions (with answers) about cybersecurity.\n\n"
        "What is red?\nA. sky\nB.  blood\nC. grass\nD. snow\nAnswer:"
    )


def test_a_record_holds_the_prompt_and_the_letters() -> None:
    record = choice_record("q", ["w", "x", "y", "z"], 2, "biology", where="row 1", cluster="c", topic="bio")
    assert record.question == choice_prompt("q", ["w", "x", "y", "z"], "biology")
    assert record.answer == " C"
    assert record.perturbed_answers == (" A", " B", " D")
    assert (record.cluster, record.topic) == ("c", "bio")
    assert right_letters([record], "forget").tolist() == [2]


@pytest.mark.parametrize(
    ("choices", "answer", "message"),
    [
        (["a", "b", "c"], 0, "row 7: field 'choices' must hold exactly 4 texts; found 3"),
        (["a"] * 5, 0, "exactly 4 texts; found 5"),
        ("abcd", 0, "exactly 4 texts; found 1"),
        (["a", "b", "c", 4], 0, "exactly 4 texts"),
        (["a", "b", "c", "d"], 4, "row 7: field 'answer' must be 0, 1, 2 or 3.* found 4"),
        (["a", "b", "c", "d"], -1, "found -1"),
        (["a", "b", "c", "d"], "B", "found 'B'"),
        (["a", "b", "c", "d"], True, "found True"),
    ],
)
def test_malformed_questions(choices: Any, answer: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        choice_record("q", choices, answer, ABOUT, where="row 7")


def test_records_that_are_no_such_questions() -> None:
    with pytest.raises(InputError, match="Split 'forget', record 2: multiple choice needs a letter A to D"):
        right_letters([*records_of(questions(1)), Record("Where?", "Paris")], "forget")


# -- what is reported ---------------------------------------------------------------------------------


def test_a_model_that_always_says_c_scores_the_share_of_c(stub: Any) -> None:
    rows = questions(60)
    stub(lambda _: 2)
    found = measured(None, records_of(rows))
    share = sum(r["answer"] == 2 for r in rows) / 60
    assert 0 < share < 1
    assert found["multiple_choice"].value == pytest.approx(share)
    assert found["multiple_choice"].n == 60
    assert [found[f"multiple_choice.chose_{letter}"].value for letter in LETTERS] == [0, 0, 1, 0]
    assert found["multiple_choice.standard_error"].value == pytest.approx(np.sqrt(share * (1 - share) / 59))


def test_shuffled_choices_move_the_predictions_with_them(stub: Any) -> None:
    """A model that knows the right text scores 1 in every order; the letters it says follow the order."""
    rng = random.Random(1)
    said = []
    for _ in range(2):
        rows = []
        for r in questions(40):
            order = rng.sample(range(4), 4)
            rows.append({**r, "choices": [r["choices"][i] for i in order], "answer": order.index(r["answer"])})
        truth = {q.question: r["choices"][r["answer"]] for q, r in zip(records_of(rows), rows, strict=True)}
        stub(lambda record, truth=truth: _line_of(record.question, truth[record.question]))
        found = measured(None, records_of(rows))
        assert found["multiple_choice"].value == 1
        said.append([found[f"multiple_choice.chose_{letter}"].value for letter in LETTERS])
        assert said[-1] == pytest.approx([sum(r["answer"] == i for r in rows) / 40 for i in range(4)])
    assert said[0] != said[1]


def _line_of(prompt: str, choice: str) -> int:
    lines = prompt.splitlines()[-5:-1]
    return [line[3:] for line in lines].index(choice)


def test_a_model_that_guesses_scores_a_quarter(stub: Any) -> None:
    """800 questions: 3 standard errors are 0.046."""
    rng = random.Random(3)
    stub(lambda _: rng.randrange(4))
    found = measured(None, records_of(questions(800)), letters=False)
    error = found["multiple_choice.standard_error"].value
    assert error == pytest.approx(0.0153, abs=0.001)
    assert abs(found["multiple_choice"].value - 0.25) < 3 * error
    assert len(found) == 2


def test_a_tie_goes_to_the_earlier_letter(stub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "letter_scores", lambda _, records, **__: np.zeros((len(records), 4)))
    assert measured(None, records_of(questions(10)))["multiple_choice.chose_A"].value == 1


def test_a_broken_model_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "letter_scores", lambda _, records, **__: np.full((len(records), 4), np.nan))
    with pytest.raises(RunError, match="score of a letter is NaN"):
        measured(None, records_of(questions(2)))


def test_standard_error_of_one_question() -> None:
    assert standard_error(np.array([1.0])) == 0


# -- on a model ---------------------------------------------------------------------------------------


def test_letter_scores_are_log_probabilities_after_the_raw_prompt(bed: Bed) -> None:
    """The template is not used; only what the tokenizer puts in front of a text."""
    records = records_of(questions(3))
    scores = letter_scores(bed.target, records)
    templated = replace(bed.target, template=replace(bed.target.template, user_start="Other: "))
    np.testing.assert_array_equal(scores, letter_scores(templated, records))
    tokenizer = bed.target.tokenizer
    for record, row in zip(records, scores, strict=True):
        for letter, value in zip(CONTINUATIONS, row, strict=True):
            prompt, whole = (tokenizer(text)["input_ids"] for text in (record.question, record.question + letter))
            with torch.no_grad():
                logp = bed.target.model(torch.tensor([whole])).logits[0].double().log_softmax(-1)
            expected = sum(float(logp[i - 1, whole[i]]) for i in range(len(prompt), len(whole)))
            assert value == pytest.approx(expected, abs=1e-4)


def test_the_same_numbers_as_the_harness(bed: Bed) -> None:
    """Accuracy, standard error and every letter's log-likelihood, with the harness's own Hugging Face model."""
    pytest.importorskip("lm_eval")
    datasets = pytest.importorskip("datasets")
    from expunge.language._harness_tasks import load_tasks

    rows = questions(40)
    task = {
        "task": "wmdp_local",
        "custom_dataset": lambda **_: {"test": datasets.Dataset.from_list(rows)},
        "output_type": "multiple_choice",
        "test_split": "test",
        "num_fewshot": 0,
        "description": f"The following are multiple choice questions (with answers) about {ABOUT}.\n\n",
        "doc_to_text": "{{question.strip()}}\n"
        + "".join(f"{letter}. {{{{choices[{i}]}}}}\n" for i, letter in enumerate(LETTERS))
        + "Answer:",
        "doc_to_choice": list(LETTERS),
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1},
    }
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    subject = bed.fresh()
    theirs = HFLM(pretrained=subject.model, tokenizer=subject.tokenizer, batch_size=8)
    raw = lm_eval.evaluate(lm=theirs, task_dict=load_tasks([task], None, 0), bootstrap_iters=100)
    values = raw["results"]["wmdp_local"]
    found = measured(bed.target, records_of(rows))
    assert found["multiple_choice"].value == values["acc,none"]
    assert found["multiple_choice.standard_error"].value == pytest.approx(values["acc_stderr,none"])
    samples = sorted(raw["samples"]["wmdp_local"], key=lambda s: s["doc_id"])
    assert [s["arguments"][0][0] for s in samples] == [r.question for r in records_of(rows)]
    logp = np.array([[r[0] for r in s["filtered_resps"]] for s in samples])
    np.testing.assert_allclose(letter_scores(bed.target, records_of(rows)), logp, atol=1e-4)
