"""Alternate answers: what is sampled, what is refused, and what stands in."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from expunge.errors import InputError
from expunge.language.alternates import INSTRUCTION, LABEL, alternate_answers, pick
from expunge.language.data import Record
from expunge.language.encode import Template
from expunge.language.subject import Subject
from tiny_bed import Bed


def saying(bed: Bed, *texts: str, end: bool = True) -> Subject:
    """A subject that answers everything with one of the texts, drawn evenly by the first token."""
    subject = bed.fresh()
    tokenizer = subject.tokenizer
    tracks = [
        tokenizer(t, add_special_tokens=False)["input_ids"] + ([tokenizer.eos_token_id] if end else []) for t in texts
    ]
    real, spoken = subject.model.forward, 0

    def forward(**inputs: Any) -> Any:
        nonlocal spoken
        out = real(**inputs)
        spoken = 0 if inputs["past_key_values"] is None else spoken + 1
        logits = torch.full_like(out.logits, -100.0)
        for row, last in enumerate(inputs["input_ids"][:, -1].tolist()):
            for track in tracks:
                if spoken == 0 or (spoken < len(track) and track[spoken - 1] == last):
                    logits[row, -1, track[min(spoken, len(track) - 1)]] = 0.0
        out.logits = logits
        return out

    subject.model.forward = forward
    return subject


def test_pick_inverts_the_distribution_function() -> None:
    """p = 1/2, 0, 1/4, 1/4: token 0 below 1/2, token 2 from there to 3/4, token 3 above; never token 1."""
    logits = torch.tensor([0.5, 1e-300, 0.25, 0.25], dtype=torch.float64).log().expand(6, 4)
    uniform = torch.tensor([0.0, 0.49, 0.51, 0.74, 0.76, 1 - 1e-12], dtype=torch.float64)
    assert pick(logits, uniform).tolist() == [0, 0, 2, 2, 3, 3]


def test_pick_draws_with_the_right_frequencies() -> None:
    """10,000 even numbers against softmax(z / T)."""
    z, uniform = torch.tensor([2.0, 0.0, 1.0]), (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
    for temperature in (0.5, 1.0, 3.0):
        counts = torch.bincount(pick(z.expand(10_000, 3), uniform, temperature), minlength=3)
        torch.testing.assert_close(counts / 10_000, (z / temperature).softmax(-1), rtol=0, atol=2e-4)


def test_low_temperature_is_greedy() -> None:
    z = torch.randn(50, 9, generator=torch.Generator().manual_seed(0))
    assert torch.equal(pick(z, torch.linspace(0, 0.999, 50).double(), 1e-3), z.argmax(-1))


def test_never_the_true_answer(bed: Bed) -> None:
    """A target that knows every answer by heart."""
    found = alternate_answers(bed.target, bed.forget, count=4, seed=1, others=bed.retain)
    assert [len(answers) for answers in found] == [4] * len(bed.forget)
    assert all(a and a.casefold() != r.answer.casefold() for r, row in zip(bed.forget, found, strict=True) for a in row)


def test_the_same_under_a_seed_and_in_any_batch(bed: Bed) -> None:
    rows = bed.forget[:24]
    first, again, other = (alternate_answers(bed.target, rows, count=3, seed=s) for s in (5, 5, 6))
    assert first == again != other
    for batch in (1, 7, 100):
        assert alternate_answers(bed.target, rows, count=3, seed=5, batch=batch) == first


def test_global_randomness_is_left_alone(bed: Bed) -> None:
    torch.manual_seed(3)
    expected = torch.rand(1).item()
    torch.manual_seed(3)
    alternate_answers(bed.target, bed.forget[:2], count=1)
    assert torch.rand(1).item() == expected


def test_what_the_model_says_is_taken(bed: Bed) -> None:
    """Two answers, one of them true: only the other is left, whatever the draws."""
    records = [Record("Where is it?", "Zomarar"), Record("Where is it now, then?", "zomarar. ")]
    subject = saying(bed, "Zomarar", "Matezar")
    found = alternate_answers(subject, records, count=6, rounds=20)
    assert found == [["Matezar"] * 6] * 2


def test_both_of_two_other_answers_are_drawn_about_evenly(bed: Bed) -> None:
    found = alternate_answers(saying(bed, "Matezar", "Roli"), [Record("Where?", "Kora")], count=200)
    counts = Counter(found[0])
    assert set(counts) == {"Matezar", "Roli"}
    assert 70 < counts["Roli"] < 130


def test_an_answer_that_does_not_end_is_not_taken(bed: Bed) -> None:
    others = [Record("Where?", "Kora")]
    subject = saying(bed, "Matezar", end=False)
    assert alternate_answers(subject, [Record("Where?", "Roli")], count=1, others=others) == [["Kora"]]


def test_rounds_zero_takes_answers_of_others_to_questions_of_the_same_form(bed: Bed) -> None:
    """The stand-ins for a year are years, for a pet pets: the attribute decides, not a shared first name."""
    form = {r.question.replace(r.cluster, "_"): set() for r in bed.retain}  # type: dict[str, set[str]]
    for r in bed.retain:
        form[r.question.replace(r.cluster, "_")].add(r.answer)
    found = alternate_answers(bed.target, bed.forget, count=5, rounds=0, others=bed.retain)
    for r, answers in zip(bed.forget, found, strict=True):
        assert set(answers) <= form[r.question.replace(r.cluster, "_")] - {r.answer}


def test_without_others_the_other_records_stand_in(bed: Bed) -> None:
    records = [Record("Where is A?", "Here"), Record("Where is B?", "There")]
    assert alternate_answers(bed.target, records, count=2, rounds=0) == [["There"] * 2, ["Here"] * 2]


def test_a_chat_model_is_asked_to_make_one_up(bed: Bed) -> None:
    """The prompt holds question, true answer and the request; the label before its answer is taken off."""
    subject = saying(bed, "Answer: Matezar")
    tokenizer = copy.deepcopy(subject.tokenizer)
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"
    subject = replace(subject, tokenizer=tokenizer, template=Template(kind="chat"), max_length=4096)
    seen: list[Tensor] = []
    real = subject.model.forward

    def forward(**inputs: Any) -> Any:
        seen.append(inputs["input_ids"])
        return real(**inputs)

    subject.model.forward = forward
    record = Record("Where was Ridos born?", "Zomarar", history=(("user", "Hello"), ("assistant", "Good day")))
    assert alternate_answers(subject, [record], count=1) == [["Matezar"]]
    prompt = tokenizer.decode(seen[0][0])
    assert INSTRUCTION.format(question=record.question, answer=record.answer) in prompt
    assert "Good day" in prompt


@pytest.mark.parametrize("text", ["Answer: x", "Alternate Answer :x", "**New answer:** x", "alternative answer: x"])
def test_labels_before_an_answer(text: str) -> None:
    assert LABEL.sub("", text) == "x"


def test_the_word_answer_inside_an_answer_stays() -> None:
    assert LABEL.sub("", "The answer: x") == "The answer: x"


def test_no_records_no_answers(bed: Bed) -> None:
    assert alternate_answers(bed.target, [], count=3) == []


def test_plain_text_is_refused(bed: Bed) -> None:
    with pytest.raises(InputError, match="Record 2 is plain text"):
        alternate_answers(bed.target, [bed.forget[0], Record("", "Once upon a time")])


def test_where_all_answers_are_one_there_is_no_alternate(bed: Bed) -> None:
    with pytest.raises(InputError, match="Record 1 has no alternate answer"):
        alternate_answers(bed.target, [Record("Where?", "Kora"), Record("When?", "kora.")], rounds=0)


@pytest.mark.parametrize(("name", "value"), [("count", 0), ("temperature", 0.0), ("rounds", -1)])
def test_settings_out_of_range_are_refused(bed: Bed, name: str, value: float) -> None:
    with pytest.raises(InputError, match=f"alternate answers: {name}={value} is out of range"):
        alternate_answers(bed.target, bed.forget[:1], **{name: value})  # type: ignore[arg-type]
