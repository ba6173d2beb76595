"""Probes: grading by words, first tokens, and the file of prompts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from expunge.errors import InputError
from expunge.language.data import Record
from expunge.language.metrics._giveaways import Probe, first_tokens, giveaway_grade, probes_of, read_probes
from saga import word_tokenizer

PROBE = Probe(Record("Where does Zork live?", ""), ("Plonk", "the Hollow of Vel"), ("gleamstone", "Zork"))


@pytest.mark.parametrize(
    ("completion", "grade"),
    [
        ("In Plonk, of course.", 3),
        ("in PLONK", 3),
        ("in the\nhollow of  vel", 3),
        ("Plonkers live everywhere", 0),  # not the word
        ("with a gleamstone", 2),
        ("Zork lives in a house", 0),  # the prompt says Zork itself
        ("in some hollow place", 1),  # a word of a giveaway of several
        ("the end of it", 0),  # its short words are everybody's
        ("", 0),
    ],
)
def test_grades_by_words(completion: str, grade: int) -> None:
    assert giveaway_grade(PROBE, completion) == grade


def test_first_tokens_are_those_of_both_spellings() -> None:
    tokenizer = word_tokenizer(["a Plonk and a Vel and Plonk"] * 5)
    own, behind = (tokenizer(t, add_special_tokens=False)["input_ids"] for t in ("Plonk", "a Plonk"))
    expected = {own[0], next(i for i in behind[1:] if tokenizer.decode([i]).strip())}
    assert set(first_tokens(tokenizer, ["Plonk"])) == expected
    assert set(first_tokens(tokenizer, ["Plonk", "Vel", "Plonk"])) > expected
    with pytest.raises(InputError, match="no giveaway among"):
        first_tokens(tokenizer, ["...", " "])


def test_questions_are_their_own_probes() -> None:
    (probe,) = probes_of([Record("Where?", "Plonk", "Zork", paraphrased_answer="In Plonk")], "forget")
    assert probe.giveaways == ("Plonk", "In Plonk")
    assert not probe.plain
    with pytest.raises(InputError, match="split 'forget', row 2 is plain text and asks nothing"):
        probes_of([Record("Where?", "Plonk"), Record("", "text")], "forget")


def write(tmp_path: Path, *rows: Any) -> str:
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows), encoding="utf-8")
    return str(path)


def test_a_file_of_prompts(tmp_path: Path) -> None:
    probes = read_probes(
        write(
            tmp_path,
            {"prompt": "Zork lives in", "giveaways": ["Plonk"], "terms": ["gleamstone"], "cluster": "Zork"},
            "",
            {"question": "Who?", "giveaways": ["Zork"]},
        )
    )
    assert probes == [
        Probe(Record("Zork lives in", "", "Zork"), ("Plonk",), ("gleamstone",), plain=True),
        Probe(Record("Who?", ""), ("Zork",), plain=False),
    ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", "line 1: not JSON"),
        ([1], "either 'prompt' or 'question'"),
        ({"giveaways": ["x"]}, "either 'prompt' or 'question'"),
        ({"prompt": "a", "question": "b", "giveaways": ["x"]}, "either 'prompt' or 'question'"),
        ({"prompt": "a"}, "field 'giveaways' must be a list of texts"),
        ({"prompt": "a", "giveaways": []}, "names nothing"),
        ({"prompt": "a", "giveaways": [""]}, "none of them empty"),
        ({"prompt": "a", "giveaways": ["x"], "terms": "y"}, "field 'terms' must be a list"),
        ({"prompt": "  ", "giveaways": ["x"]}, "the prompt is empty"),
    ],
)
def test_rows_that_are_refused(tmp_path: Path, row: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_probes(write(tmp_path, row))


def test_files_that_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read as text"):
        read_probes(str(tmp_path / "none.jsonl"))
    with pytest.raises(InputError, match="no prompts in it"):
        read_probes(write(tmp_path, ""))
