"""Familiarity: the formula, the probability of giveaways, and both on trained models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from expunge.errors import InputError
from expunge.language.data import Record
from expunge.language.evidence import EvidenceStore
from expunge.language.generate import generate
from expunge.language.metrics._giveaways import Probe, first_tokens, probes_of
from expunge.language.metrics.familiarity import (
    Familiarity,
    completions,
    familiarity,
    giveaway_probability,
    next_token_familiarity,
)
from tiny_bed import Bed


def test_the_formula() -> None:
    """300 completions, 60 of grade 3 and 135 of grade 2: (60 + 0.2 * 135) / 300 = 0.29."""
    grades = [3] * 60 + [2] * 135 + [1] * 50 + [0] * 55
    assert familiarity(grades).mean() == pytest.approx(0.29)
    assert familiarity([3, 3]).mean() == 1.0
    assert familiarity([1, 0]).mean() == 0.0


@pytest.mark.parametrize(("grades", "message"), [([], "No completion graded"), ([3, 4], "4 is no grade")])
def test_grades_that_are_refused(grades: list[int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        familiarity(grades)


def test_the_total_probability_of_giveaways() -> None:
    """Logits ln(1, 2, 3, 4): tokens 1 and 3 have 6/10, counted once each; all have 1."""
    logits = torch.tensor([1.0, 2.0, 3.0, 4.0]).log()
    assert giveaway_probability(logits, torch.tensor([1, 3, 1])).item() == pytest.approx(0.6)
    assert giveaway_probability(logits, torch.arange(4)).item() == pytest.approx(1.0)
    assert giveaway_probability(logits + 9, torch.tensor([1, 3])).item() == pytest.approx(0.6)


def test_the_next_token_is_read_after_the_prompt(bed: Bed) -> None:
    """One prompt at a time without padding, plain and as a question; the order and the batch make no difference."""
    probes = probes_of(bed.records["forget"][:5], "forget")
    probes += [Probe(Record("Question: Where was", ""), ("Rome", "7"), plain=True)]
    expected = []
    for probe in probes:
        question = bed.target.template.generation_prompt(probe.record, bed.target.tokenizer)
        text = probe.record.question if probe.plain else question
        ids = torch.tensor([bed.target.tokenizer(text)["input_ids"]])
        with torch.no_grad():
            logits = bed.target.model(input_ids=ids).logits[0, -1]
        tokens = first_tokens(bed.target.tokenizer, probe.giveaways)
        expected.append(float(logits.softmax(-1)[tokens].sum()))
    for batch in (4096, 20):
        found = next_token_familiarity(bed.target, probes, batch_tokens=batch)
        assert found == pytest.approx(expected, rel=1e-4)


def test_a_prompt_longer_than_the_context_keeps_its_end(bed: Bed) -> None:
    short = Probe(Record("Where was it? " * 2, ""), ("Rome",), plain=True)
    long = Probe(Record("Where was it? " * 90, ""), ("Rome",), plain=True)
    assert (next_token_familiarity(bed.target, [short, long]) > 0).all()


def test_completions_are_generations(bed: Bed) -> None:
    records = bed.records["forget"][:4]
    probes = probes_of(records, "forget")
    plain = Probe(Record("Question: " + records[0].question + "\nAnswer:", ""), ("x",), plain=True)
    made = completions(bed.target, [probes[0], plain, *probes[1:]], 8)
    assert [made[0], *made[2:]] == generate(bed.target, records, max_new_tokens=8)
    assert made[1] == made[0]  # the same tokens in the end


def test_the_target_is_familiar_and_gold_is_not(bed: Bed) -> None:
    measured = {}
    for name, subject in (("target", bed.target), ("gold", bed.gold)):
        store = EvidenceStore(name, subject, bed.records, max_new_tokens=8)
        for finding in Familiarity(splits=("forget", "retain")).measure(store, None):
            measured[name, finding.split, finding.metric] = finding
    for metric in ("familiarity_probability", "familiarity_completion"):
        assert measured["target", "forget", metric].value > 0.7
        assert measured["gold", "forget", metric].value < 0.35
        assert measured["gold", "retain", metric].value > 0.6
    one = measured["gold", "forget", "familiarity_probability"]
    assert (one.n, one.direction, one.subject) == (len(bed.records["forget"]), "match-gold", "gold")
    assert one.low <= one.value <= one.high


def test_another_grader_and_a_file_of_prompts(bed: Bed, tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    rows = [{"question": r.question, "giveaways": [r.answer]} for r in bed.records["forget"][:5]]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    store = EvidenceStore("target", bed.target, bed.records, max_new_tokens=8)
    seen: list[str] = []

    def grade(probe: Probe, text: str) -> int:
        seen.append(probe.record.question)
        return 2

    likely, written = Familiarity(prompts=str(path), grader=grade).measure(store, None)
    assert written.value == pytest.approx(0.2)
    assert seen == [r["question"] for r in rows]
    assert (likely.split, likely.n, likely.direction) == ("forget_prompts", 5, "match-gold")
    (only,) = Familiarity(prompts=str(path), completion=False).measure(store, None)
    assert only == likely


def test_bad_settings_and_splits(bed: Bed) -> None:
    store = EvidenceStore("target", bed.target, {"empty": [], "text": [Record("", "words")]})
    with pytest.raises(InputError, match="max_new_tokens=-1"):
        Familiarity(max_new_tokens=-1)
    with pytest.raises(InputError, match="must be a function"):
        Familiarity(grader="judge")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="Split 'empty' has no records"):
        Familiarity(splits=("empty",)).measure(store, None)
    with pytest.raises(InputError, match="plain text and asks nothing"):
        Familiarity(splits=("text",)).measure(store, None)
    with pytest.raises(InputError, match="No split 'none'"):
        Familiarity(splits=("none",)).measure(store, None)
