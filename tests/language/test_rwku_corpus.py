"""The corpora a model writes itself: openings, sampling, repeatability, and what must not stand in them."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from expunge.errors import InputError
from expunge.language import rwku_corpus as module
from expunge.language.encode import Template
from expunge.language.rwku_corpus import (
    ANNOUNCES,
    ASKED,
    OPENINGS,
    Kind,
    Sampling,
    Writer,
    nucleus,
    plain,
    read_openings,
    without_probes,
)
from expunge.language.subject import Subject
from tiny_bed import Bed

HOW = Sampling(openings=("", "Well,", "She was", "Oh w"), questions=5, max_new_tokens=8, question_tokens=6)
KINDS: tuple[Kind, ...] = ("factual", "counterfactual", "question")


def write(
    bed: Bed, kind: Kind, folder: Path | None = None, how: Sampling = HOW, seed: int = 3, **more: Any
) -> list[str]:
    return Writer(bed.target, how, seed, folder).write(kind, "Ada Ben", "Ada Ben is a poet.", **more)


# -- sampling -----------------------------------------------------------------------------------------


def test_the_smallest_set_that_holds_the_share_is_drawn_from() -> None:
    """p = (.5, .3, .15, .05): .5 and .3 hold 80%, so with top_p .8 only they are drawn, 5 to 3."""
    logits = torch.log(torch.tensor([[0.15, 0.5, 0.05, 0.3]])).repeat(1000, 1)
    uniform = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    counts = torch.bincount(nucleus(logits, uniform, top_p=0.8), minlength=4)
    assert counts.tolist() == [0, 625, 0, 375]
    assert torch.bincount(nucleus(logits, uniform), minlength=4).tolist() == [150, 500, 50, 300]
    assert nucleus(logits, uniform, top_p=1e-9).unique().tolist() == [1]
    cold = torch.bincount(nucleus(logits, uniform, temperature=0.5), minlength=4)  # p squared: .25, .09, .0225, .0025
    assert cold.tolist() == pytest.approx([62, 685, 7, 247], abs=2)


def test_a_row_owns_its_numbers(bed: Bed) -> None:
    """The same texts whatever is sampled beside them; other ones for another seed, target or kind."""
    for kind in KINDS:
        assert write(bed, kind, batch=1) == write(bed, kind, batch=3) == write(bed, kind)
    assert write(bed, "factual") != write(bed, "factual", seed=4)
    other = Writer(bed.target, HOW, 3).write("factual", "Bo Cy", "Ada Ben is a poet.")
    assert other != write(bed, "factual")
    assert len(set(write(bed, "question", how=replace(HOW, questions=12)))) > 1


# -- what is written ----------------------------------------------------------------------------------


def test_every_text_starts_with_its_opening(bed: Bed) -> None:
    for kind in ("factual", "counterfactual"):
        texts = write(bed, kind)  # type: ignore[arg-type]
        assert len(texts) == 4
        assert all(text.startswith(opening) for text, opening in zip(texts, HOW.openings, strict=True))
        assert any(len(text) > len(opening) + 2 for text, opening in zip(texts, HOW.openings, strict=True))


def test_questions_are_one_line_without_their_label(bed: Bed) -> None:
    texts = write(bed, "question", how=replace(HOW, questions=20))
    assert len(texts) == 20
    assert all("\n" not in text and text == text.strip() and not text.startswith(ASKED) for text in texts)


@pytest.mark.parametrize(
    ("opening", "written", "left"),
    [
        ("", "Here is a totally fabricated tale.", "Here is a tale."),
        ("", "A COMPLETELY made-up life, completely fictional too.", "A life, too."),
        ("", "A totally completely made up one.", "A one."),
        ("A totally", " fictional man lived.", "A totally man lived."),
        ("Well,", " a fictional character he invented.", "Well, a fictional character he invented."),
    ],
)
def test_words_that_announce_an_invention_go(opening: str, written: str, left: str) -> None:
    assert plain(opening, written) == left
    assert plain(opening, written).startswith(opening)
    assert not ANNOUNCES.search(plain(opening, written))


def test_only_the_counterfactual_corpus_is_cleaned(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "continue_texts", lambda s, records, **_: [" a totally fictional man"] * len(records))
    assert write(bed, "counterfactual")[1] == "Well, a man"
    assert write(bed, "factual")[1] == "Well, a totally fictional man"


# -- what is asked ------------------------------------------------------------------------------------


CHAT = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
NO_SYSTEM = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no') }}{% endif %}{% endfor %}" + CHAT
)


def test_a_chat_model_is_told_what_it_knows_as_its_system_message(bed: Bed) -> None:
    tokenizer = copy.deepcopy(bed.target.tokenizer)
    subject = Subject(bed.target.model, tokenizer, Template(kind="chat"), "x")
    asked = {}
    for name, chat in (("system", CHAT), ("none", NO_SYSTEM)):
        tokenizer.chat_template = chat
        record = module._request(subject, "factual", "Ada", "Ada is a poet.", "Well,")
        asked[name] = subject.template.prompt(record, tokenizer)
    told, wish = "Ada is a poet. You know Ada inside out.", "Write a short biography of Ada, please."
    assert asked["system"] == f"<system>{told}<user>{wish}<assistant>Well,"
    assert asked["none"] == f"<user>{told}\n{wish}<assistant>Well,"
    other = module._request(subject, "counterfactual", "Ada", "Ada is a poet.", "")
    assert "know nothing" in other.question
    assert "Invent" in other.question
    assert module._request(subject, "question", "Ada", "Ada is a poet.", ASKED).prefill == "Question:"


def test_a_name_with_braces_is_a_name() -> None:
    assert module.request_text("question", "{intro}", "Hm.").startswith("Hm.\nThink of a question about {intro} that")
    assert module.biography_request("{intro}", "Hm.") == "Hm. Write a short biography of {intro}, please."


def test_too_little_room_is_refused(bed: Bed) -> None:
    with pytest.raises(InputError, match=r"rwku, factual corpus, record 1: its prompt has \d+ tokens.*max_length=128"):
        write(bed, "factual", how=replace(HOW, max_new_tokens=128))


# -- keeping ------------------------------------------------------------------------------------------


def test_a_corpus_is_written_once_and_an_interrupted_one_is_taken_up(
    bed: Bed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the second batch, with half a line at the end of the file: the rest is made, and is the same."""
    whole = write(bed, "factual")
    real, calls = module.continue_texts, []

    def counted(subject: Any, records: list[Any], **settings: Any) -> list[str]:
        calls.append(len(records))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(subject, records, **settings)

    monkeypatch.setattr(module, "continue_texts", counted)
    with pytest.raises(KeyboardInterrupt):
        write(bed, "factual", tmp_path, batch=2)
    (begun,) = tmp_path.glob("*.part")
    with begun.open("a") as file:
        file.write('"half a li')
    assert write(bed, "factual", tmp_path, batch=2) == whole
    assert calls == [2, 2, 2]
    assert not list(tmp_path.glob("*.part"))
    assert write(bed, "factual", tmp_path) == whole
    assert calls == [2, 2, 2]


def test_the_key_is_what_the_corpus_depends_on(bed: Bed, tmp_path: Path) -> None:
    base = Writer(bed.target, HOW, 3)

    def key(kind: Kind = "factual", name: str = "Ada", intro: str = "i", writer: Writer = base) -> str:
        return writer._key(kind, name, intro)

    others = [
        key("counterfactual"), key(name="Bo"), key(intro="j"), key(writer=Writer(bed.gold, HOW, 3)),
        key(writer=Writer(bed.target, HOW, 4)), key(writer=Writer(bed.target, replace(HOW, top_p=0.5), 3)),
        key(writer=Writer(bed.target, replace(HOW, openings=("",)), 3)),
    ]  # fmt: skip
    assert len({key(), *others}) == len(others) + 1
    assert key(writer=Writer(bed.target, replace(HOW, questions=9), 3)) == key()  # of no matter to biographies
    assert key("question", writer=Writer(bed.target, replace(HOW, openings=("",)), 3)) == key("question")


# -- openings and leaks -------------------------------------------------------------------------------


def test_our_openings_are_different_and_begin_with_none() -> None:
    assert OPENINGS[0] == ""
    assert len(set(OPENINGS)) == len(OPENINGS) == 30
    assert all(opening == opening.strip() for opening in OPENINGS)


def test_openings_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "openings.json"
    file.write_text(json.dumps(["", "Well,"]))
    assert read_openings(str(file)) == ("", "Well,")
    for content, message in (
        ("[", "not a JSON file"),
        ("[]", "expected a list"),
        ('["a", 3]', "record 2: .*found int"),
    ):
        file.write_text(content)
        with pytest.raises(InputError, match=message):
            read_openings(str(file))
    with pytest.raises(InputError, match="no such file"):
        read_openings(str(tmp_path / "none.json"))


def test_rows_that_hold_a_probe_are_left_out() -> None:
    """Whatever the case, the spacing and the marks; a part of a word is no word."""
    texts = ["He asked: WHO taught  Ada? Nobody.", "Who taught Adam?", "Ada was born in Rome.", "Rome!", "fine", ""]
    probes = ["Who taught Ada?", "Ada was born in Rome", "Fine", "..."]
    kept, out = without_probes(list(range(6)), texts, probes)
    assert (kept, out) == ([1, 3, 5], 3)
    assert without_probes([1], ["anything"], []) == ([1], 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"openings": ()}, "list of openings is empty"),
        ({"questions": 0}, "questions=0 must be at least 1"),
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"temperature": 0.0}, "temperature=0.0 must be above 0"),
        ({"top_p": 1.5}, "top_p=1.5 lie in"),
    ],
)
def test_settings_out_of_range(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(HOW, **changes)
