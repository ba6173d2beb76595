from __future__ import annotations

import json

import pytest

from expunge.errors import InputError
from expunge.language.metrics.rouge import Rouge, rouge_l_recall


def test_published_recalls_are_reproduced(tofu):
    rows = [json.loads(line) for line in (tofu / "rouge_golden.jsonl").read_text(encoding="utf-8").splitlines()]
    found = rouge_l_recall([r["ground_truth"] for r in rows], [r["generation"] for r in rows])
    assert len(rows) == 106
    assert found == pytest.approx([r["rougeL_recall"] for r in rows], abs=1e-9)


@pytest.mark.parametrize(
    ("reference", "generation", "recall"),
    [
        ("one two three four", "one two three four", 1.0),
        ("one two three four", "one two three four and a lot more", 1.0),  # recall: extra words cost nothing
        ("one two three four", "four three two one", 0.25),  # order counts
        ("one two three four", "one x three y", 0.5),
        ("He writes novels.", "WRITING a novel", 2 / 3),  # stems: write, novel
        ("anything", "", 0.0),
        ("Αθήνα", "Αθήνα", 1.0),  # rouge-score alone finds no word here and says 0
        ("东京塔", "东京湾", 2 / 3),
        ("Αθήνα", "Athens", 0.0),
    ],
)
def test_recall_by_hand(reference, generation, recall):
    assert rouge_l_recall([reference], [generation]) == pytest.approx([recall])


def test_measured_against_the_original_answer(split, store):
    part = split([[0.5]] * 2, answers=["blue bird", "red fox"], generations=["a blue bird", "red"])
    (found,) = Rouge(splits=("forget",)).measure(store(forget=part), None)
    assert (found.metric, found.value) == ("rouge_l", 0.75)


def test_one_generation_per_answer():
    with pytest.raises(InputError, match="2 answers but 1 generations"):
        rouge_l_recall(["a", "b"], ["a"])
