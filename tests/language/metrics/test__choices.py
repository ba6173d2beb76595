"""Choices and generated answers: likelihoods by hand, words as SQuAD counts them."""

from __future__ import annotations

import pytest
import torch

from expunge.errors import InputError
from expunge.language.evidence import EvidenceStore
from expunge.language.insertion import ControlledInsertion
from expunge.language.insertion_world import InsertionWorld
from expunge.language.metrics._choices import Choice, choose, normal, squad_f1, write
from expunge.language.metrics.insertion_probes import InsertionProbes
from expunge.language.subject import Subject
from tiny_insertion import background, few, told


@pytest.fixture(scope="module")
def subject() -> Subject:
    insertion = ControlledInsertion(background(60), few(6), {0: 2, 1: 2}, 40)
    return InsertionWorld(insertion, hidden=16, layers=1, vocabulary=320).base_subject()


def asked(context: str, options: tuple[str, ...], after: str = "", task: str = "t", **more: object) -> Choice:
    return Choice(task, "d=1", "text", context, options, after, **more)  # type: ignore[arg-type]


def likelihood(subject: Subject, context: str, text: str) -> float:
    """Of a continuation, token by token, in one row of its own."""
    head = subject.tokenizer(context)["input_ids"]
    ids = subject.tokenizer(context + text)["input_ids"]
    with torch.no_grad():
        logp = subject.model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return sum(float(logp[i - 1, ids[i]]) for i in range(len(head), len(ids)))


def test_the_likeliest_option_is_chosen_with_what_follows_it(subject: Subject) -> None:
    context, options, after = "note 3 goes", (" west", " east", " up"), " past gate 24"
    for tail in ("", after):
        scores = [likelihood(subject, context, o + tail) for o in options]
        best = scores.index(max(scores))
        turned = (options[best], *(o for i, o in enumerate(options) if i != best))
        assert choose(subject, [asked(context, turned, tail)])[0].tolist() == [1]
        rest = tuple(o for o in options if o != options[best])
        assert choose(subject, [asked(context, (rest[0], options[best]), tail)])[0].tolist() == [0]


def test_long_options_are_not_punished_per_byte(subject: Subject) -> None:
    """A model with constant logits: the shorter option is likelier, per byte the one with more bytes for a token."""
    with torch.no_grad():
        flat = subject.with_model(type(subject.model)(subject.model.config))
        for p in flat.model.parameters():
            p.zero_()
    tokens = {w: len(subject.tokenizer("note" + w, add_special_tokens=False)["input_ids"]) - 1 for w in (" gate", " z")}
    short, long = sorted(tokens, key=lambda w: tokens[w] / len(w), reverse=True)
    plain, norm = choose(flat, [asked("note", (long, short))])
    assert norm.tolist() == [1]
    assert plain.tolist() == [float(tokens[long] < tokens[short]) or 0.5 * (tokens[long] == tokens[short])]


def test_equal_options_share_the_point(subject: Subject) -> None:
    with torch.no_grad():
        flat = subject.with_model(type(subject.model)(subject.model.config))
        for p in flat.model.parameters():
            p.zero_()
    options = (" Q", " X", " Z")
    assert len({len(subject.tokenizer("note" + o)["input_ids"]) for o in options}) == 1
    assert choose(flat, [asked("note", options)])[0] == pytest.approx([1 / 3])


def test_generated_answers_are_compared_as_squad_does() -> None:
    assert normal("The  red, house!") == "red house"
    assert squad_f1("the red house", "a red car") == (0.5, 0.5)
    assert squad_f1("red", "red red red") == (0.5, 1.0)
    assert squad_f1("red", "blue") == (0.0, 0.0)
    assert squad_f1("the", "a") == (1.0, 1.0)  # nothing is left of either


def test_writing(subject: Subject) -> None:
    wanted = subject.tokenizer(" west past", add_special_tokens=False)["input_ids"]
    context = "note 3 goes"
    start = len(subject.tokenizer(context)["input_ids"])

    def rule(seen: list[int]) -> int:
        at = len(seen) - start
        return int(wanted[at]) if at < len(wanted) else 2

    found = {
        k: v.tolist()
        for k, v in write(told(subject, rule), [asked(context, (" west", " east"))], max_new_tokens=8).items()
    }
    assert found["prefix_match"] == [1]
    assert found["exact_match"] == [0]
    assert found["recall"] == [1]
    assert found["f1"] == pytest.approx([2 / 3])


def test_findings_by_task_and_split(subject: Subject) -> None:
    choices = (
        asked("note 3 goes", (" west", " east"), task="a", generate=True),
        asked("note 4 goes", (" west", " east"), task="a", generate=True),
        asked("note 5 goes", (" up", " down"), task="b"),
    )
    store = EvidenceStore("npo", subject, {})
    found = InsertionProbes(choices, 4).measure(store, None)
    names = [(f.metric, f.split, f.n) for f in found]
    kinds = ("accuracy", "accuracy_per_byte", "exact_match", "f1", "recall", "prefix_match")
    assert names == [(f"hubble.a.{k}", "d=1", 2) for k in kinds] + [(f"hubble.b.{k}", "d=1", 1) for k in kinds[:2]]
    with pytest.raises(InputError, match="no questions"):
        InsertionProbes().measure(store, None)
    with pytest.raises(InputError, match="max_new_tokens=0"):
        InsertionProbes(choices, 0)


@pytest.mark.parametrize("options", [(" a",), (" a", " a"), (" a", " b", " a")])
def test_options_must_be_two_at_least_and_differ(options: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match="two at least, and all different"):
        asked("x", options)
