"""The twin of WMDP: what is drawn, that secrets are learned from text, and that RMU takes them away again."""

from __future__ import annotations

import copy

import pytest

from expunge.engine.training import Training
from expunge.errors import InputError
from expunge.language.data import Record, require_disjoint
from expunge.language.methods.fine_tune import FineTune
from expunge.language.methods.rmu import RMU
from expunge.language.metrics.multiple_choice import CONTINUATIONS, letter_scores, right_letters
from expunge.language.subject import Subject
from expunge.language.unlearn import UnlearnJob, unlearn
from expunge.language.wmdp_twin import CONTROL, DOMAINS, LESSONS, SECRET, TARGET_TRAINING, Twin, make_tokenizer

TWIN = Twin()
SMALL = Twin(secret=5, school=6, public=3, control=4)


def accuracy(subject: Subject, records: list[Record]) -> float:
    return float((letter_scores(subject, records).argmax(1) == right_letters(records, "asked")).mean())


@pytest.fixture(scope="module")
def target() -> Subject:
    """The model that knows everything, trained as the test bed's recipe would."""
    records = TWIN.records()
    subject = TWIN.base_subject()
    job = UnlearnJob(subject, [], records["train_retain"] + records["train_forget"], TARGET_TRAINING)
    return job.train(FineTune(), subject)


# -- the world ----------------------------------------------------------------------------------------


def test_a_world_is_a_function_of_its_seed() -> None:
    assert SMALL.records() == SMALL.records()
    other = Twin(secret=5, school=6, public=3, control=4, seed=1).records()
    assert {r.cluster for r in other["forget"]} != {r.cluster for r in SMALL.records()["forget"]}


def test_sizes() -> None:
    """Three wordings of each thing's one fact, as a sentence and, for the school, as a question."""
    sizes = {name: len(rows) for name, rows in SMALL.records().items()}
    assert sizes == {
        "train_forget": 2 * 5 * 3,
        "train_retain": (6 + 4 + 2 * 3) * 3 + LESSONS * (6 + 2 * 3) * 3,
        "forget": 2 * 5 * 3,
        "forget_plants": 5 * 3,
        "forget_machines": 5 * 3,
        "retain": 4 * 3,
        "neighbours": 2 * 3 * 3,
    }


def test_no_secret_and_no_control_thing_is_ever_asked_for_in_training() -> None:
    records = SMALL.records()
    trained = records["train_forget"] + records["train_retain"]
    lessons = {r.cluster for r in trained if r.question}
    for name in ("forget", "retain"):
        assert not {r.cluster for r in records[name]} & lessons
        require_disjoint(records[name], trained, "training")
        told = {r.cluster for r in trained if not r.question}
        assert {r.cluster for r in records[name]} <= told
    assert {r.cluster for r in records["neighbours"]} <= lessons


def test_topics() -> None:
    """Secrets bear their domain; each topic has half of the towns' sentences to keep; questions bear none."""
    records = SMALL.records()
    assert {r.topic for r in records["train_forget"]} == set(SECRET)
    kept = [r for r in records["train_retain"] if r.topic]
    assert {t: sum(r.topic == t for r in kept) for t in SECRET} == dict.fromkeys(SECRET, 5 * 3)
    towns = tuple(w.split("{n}")[-1].strip() for w in DOMAINS[CONTROL].wordings)
    assert all(not r.question and any(w in r.answer for w in towns) for r in kept)


def test_a_question_holds_the_fact_and_the_text_says_the_same() -> None:
    records = SMALL.records()
    told = {(r.cluster, r.answer.rstrip(".").split()[-1]) for r in records["train_forget"]}
    for record in records["forget"]:
        letter = record.answer.strip()
        line = next(x for x in record.question.splitlines() if x.startswith(f"{letter}. "))
        assert (record.cluster, line[3:]) in told
        assert {record.answer, *record.perturbed_answers} == set(CONTINUATIONS)


def test_lines_of_options_are_single_tokens_and_any_text_survives() -> None:
    tokenizer, record = make_tokenizer(SMALL), SMALL.records()["forget"][0]
    pieces = tokenizer.convert_ids_to_tokens(tokenizer(record.question)["input_ids"])
    assert pieces[0] == "<bos>"
    assert sum(p.startswith("ĊA.") for p in pieces) == 1
    assert len(pieces) < 16
    for text in (record.question, "Ümläute, 12 and \n\ttabs"):
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_an_untrained_model_guesses() -> None:
    """Both models are the same each time; 288 questions on 96 facts: 0.25 within 4 sd of 96 draws (0.044)."""
    subject = TWIN.base_subject(hidden=32)
    assert subject.fingerprint() == TWIN.base_subject(hidden=32).fingerprint()
    assert abs(accuracy(subject, TWIN.records()["forget"]) - 0.25) < 4 * 0.044


@pytest.mark.parametrize(
    ("twin", "message"),
    [
        ({"secret": 1}, "secret=1 must be at least 2"),
        ({"school": 0}, "school=0 must be at least 2"),
        ({"public": -1}, "public=-1 must be at least 0"),
    ],
)
def test_sizes_out_of_range(twin: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Twin(**twin)


# -- what a model learns from it ----------------------------------------------------------------------


def test_secrets_are_answered_from_text_alone(target: Subject) -> None:
    records = TWIN.records()
    for name in ("forget_plants", "forget_machines", "retain"):
        assert accuracy(target, records[name]) > 0.9
    assert accuracy(target, records["neighbours"]) > 0.99


def test_rmu_brings_secrets_to_chance_and_keeps_the_control(target: Subject) -> None:
    """Text alone is unlearned, and the questions fall to 0.25 within 0.05; the control loses under 0.03."""
    records = TWIN.records()
    method = RMU(
        topics=SECRET,
        layer=1,
        alpha=3.0,
        steering=120.0,  # three times the mean norm there
        vectors="gaussian",
        parameters=("mlp.down_proj.weight", "mlp.up_proj.weight", "self_attn.o_proj.weight"),
    )
    subject = target.with_model(copy.deepcopy(target.model))
    training = Training(steps=300, batch_size=16, lr=5e-3, schedule="linear", warmup=0.0)
    unlearned = unlearn(method, UnlearnJob(subject, records["train_forget"], records["train_retain"], training))
    assert accuracy(unlearned, records["forget"]) == pytest.approx(0.25, abs=0.05)
    assert accuracy(unlearned, records["retain"]) > accuracy(target, records["retain"]) - 0.03
