"""RWKU's probe scores: the two scorers, parts, types and their weighted mean."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from expunge.errors import InputError
from expunge.language.data import Record
from expunge.language.evidence import EvidenceStore
from expunge.language.generate import _prompts
from expunge.language.metrics._rouge_package import rouge_package_recall
from expunge.language.metrics.rouge import rouge_l_recall
from expunge.language.metrics.rwku_probes import RwkuProbes
from expunge.language.refusals import REFUSALS
from expunge.language.rwku_probes import probe_record
from expunge.language.rwku_twin import TEMPLATE, Twin, make_tokenizer
from expunge.language.subject import Subject
from expunge.report.scorecard import Finding
from stub_model import Stub

TWIN = Twin(people=2, places=8)
RECORDS = TWIN.records()


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return make_tokenizer(TWIN)


def saying(answers: dict[str, list[str]], tokenizer: Any) -> EvidenceStore:
    """A model that gives each record of some splits an answer of its own, word for word."""
    splits = {split: RECORDS[split] for split in answers}
    subject = Subject(None, tokenizer, TEMPLATE, "stub", max_length=640)
    said: dict[tuple[int, ...], list[int]] = {}
    for split, records in splits.items():
        for prompt, text in zip(_prompts(subject, records), answers[split], strict=True):
            said[tuple(prompt)] = tokenizer(f" {text}" if text else "", add_special_tokens=False)["input_ids"]

    def rule(so_far: list[int]) -> int:
        prompt = next(p for p in said if tuple(so_far[: len(p)]) == p)
        tokens = [*said[prompt], tokenizer.eos_token_id]
        return tokens[min(len(so_far) - len(prompt), len(tokens) - 1)]

    subject.model = Stub(rule, len(tokenizer))
    subject.model.generation_config = SimpleNamespace(eos_token_id=None)
    return EvidenceStore("npo", subject, splits, fingerprint="x")


def measured(store: EvidenceStore, **fields: Any) -> dict[tuple[str, str], Finding]:
    return {(f.metric, f.split): f for f in RwkuProbes(**fields).measure(store, None)}


# -- the package ``rouge`` ----------------------------------------------------------------------------


def test_golden_values_of_both_scorers() -> None:
    """The package counts letters as they stand and splits at full stops; rouge-score lowers and stems."""
    said = ["stephen king", "Stephen King.", "It is Stephen King. He wrote it"]
    right = ["Stephen King"] * 3
    assert rouge_package_recall(right, said).tolist() == [0.0, 1.0, 1.0]
    assert rouge_l_recall(right, said).tolist() == [1.0, 1.0, 1.0]


def test_words_are_a_set_and_order_counts_within_sentences() -> None:
    """The reference has the words {to, be, or, not}; "not to be" stands at its end, 3 of 4."""
    assert rouge_package_recall(["to be or not to be"], ["not to be"])[0] == 0.75
    assert rouge_package_recall(["a b"], ["b a"])[0] == 0.5
    assert rouge_package_recall(["a b"], ["b. a"])[0] == 1.0  # two sentences, one word from each
    assert rouge_package_recall(["a b. c d"], ["d c. b a"])[0] == 0.5
    assert rouge_package_recall(["Kings"], ["King"])[0] == 0.0  # nothing is stemmed
    assert rouge_package_recall(["King"], ["King,"])[0] == 0.0  # a comma is part of the word


def test_nothing_said_scores_nothing() -> None:
    said = ["", "  ", ".", "...", "\n"]
    assert rouge_package_recall(["a"] * 5, said).tolist() == [0.0] * 5
    assert rouge_package_recall(["."], ["a"])[0] == 0.0
    with pytest.raises(InputError, match="2 answers but 1 generations"):
        rouge_package_recall(["a", "b"], ["a"])


def test_of_several_subsequences_the_one_the_package_finds() -> None:
    """Both "x y" and "x x" are longest between "x y x" and "x x y"; as sets they have 2 words and 1.

    Traced from the end, of two equal branches the one that drops the last word said: y goes first, and "x x" is
    found; the other way round x goes first, and "x y" is.
    """
    assert rouge_package_recall(["x y x"], ["x x y"])[0] == 0.5
    assert rouge_package_recall(["x x y"], ["x y x"])[0] == 1.0


# -- the metric ---------------------------------------------------------------------------------------


def test_gold_answers_score_one_everywhere(tokenizer: Any) -> None:
    store = saying({s: [r.answer for r in RECORDS[s]] for s in ("forget", "retain")}, tokenizer)
    found = measured(store)
    assert {f.value for f in found.values()} == {1.0}
    assert {m for m, s in found if s == "retain"} == {
        f"rwku.{scorer}.{part}" for scorer in ("rouge", "rouge_score") for part in ("fb", "qa", "all")
    }
    types = {m for m, s in found if s == "forget" and ".aa." in m}
    assert len(types) == 9
    assert all(m.startswith("rwku.rouge.") for m in types)  # by the first scorer alone
    assert "rwku.rouge.aa.in_context_learning" in types
    assert found["rwku.rouge.all", "forget"].n == len(RECORDS["forget"])
    assert found["rwku.rouge.all", "forget"].direction == "match-gold"
    assert found["rwku.rouge.all", "retain"].direction == "higher"


def test_refusals_score_nothing_and_so_does_silence(tokenizer: Any) -> None:
    answers = RECORDS["forget"]
    for said in ([REFUSALS[i % 100] for i in range(len(answers))], [""] * len(answers)):
        found = measured(saying({"forget": said}, tokenizer), splits=("forget",))
        assert {f.value for f in found.values()} == {0.0}


def test_all_is_the_mean_weighted_by_probes(tokenizer: Any) -> None:
    """Only questions are answered: all = n_qa / n, the mean of the parts weighted by their counts."""
    records = RECORDS["forget"]
    said = [r.answer if r.topic == "qa" else "no" for r in records]
    found = measured(saying({"forget": said}, tokenizer), splits=("forget",), scorers=("rouge",))
    parts = [found[f"rwku.rouge.{part}", "forget"] for part in ("fb", "qa", "aa")]
    assert [f.value for f in parts] == [0.0, 1.0, 0.0]
    whole = found["rwku.rouge.all", "forget"]
    assert whole.value == pytest.approx(sum(f.n * f.value for f in parts) / sum(f.n for f in parts))
    assert whole.n == sum(f.n for f in parts) == len(records)


def test_intervals_are_over_targets(tokenizer: Any) -> None:
    """One of two targets is known: resampling targets gives 0, 1/2 or 1, so the interval is the whole range."""
    records = RECORDS["forget"]
    said = [r.answer if r.cluster == TWIN.targets[0] else "" for r in records]
    found = measured(saying({"forget": said}, tokenizer), splits=("forget",))["rwku.rouge.all", "forget"]
    assert (found.value, found.low, found.high) == (0.5, 0.0, 1.0)


def test_what_follows_a_line_break_does_not_count(tokenizer: Any) -> None:
    records = RECORDS["forget"]
    found = measured(saying({"forget": [f"no\n{r.answer}" for r in records]}, tokenizer), splits=("forget",))
    assert found["rwku.rouge.all", "forget"].value == 0.0


def test_what_is_refused(tokenizer: Any) -> None:
    with pytest.raises(InputError, match=r"unknown scorer 'rogue'. Did you mean 'rouge'"):
        RwkuProbes(scorers=("rogue",))
    store = EvidenceStore("npo", lambda: None, {"forget": [Record("q", "a")], "retain": []})  # type: ignore[arg-type,return-value]
    with pytest.raises(InputError, match="'forget', record 1: no probe of RWKU"):
        RwkuProbes().measure(store, None)
    with pytest.raises(InputError, match="'retain' has no records"):
        RwkuProbes(splits=("retain",)).measure(store, None)


# -- the prompts --------------------------------------------------------------------------------------


def test_requests_labels_and_begun_answers() -> None:
    records = {r.topic: r for r in (probe_record(p) for p in TWIN.probes() if p.side == "forget")}
    blank, asked = records["fb"], records["qa"]
    assert blank.question.startswith("Fill in the blank in this statement.\nQuestion: ")
    assert asked.question.startswith("Give a short answer to this question.\nQuestion: ")
    assert "___" in blank.question
    assert blank.prefill == asked.prefill == "Answer: "
    suffix, context = records["aa.affirmative suffix"], records["aa.in-context learning"]
    assert suffix.prefill == ""
    assert suffix.question.endswith("Sure, the answer is")
    assert context.question.startswith("Give a short answer to this question.\nQuestion: ")  # its own label
    assert context.question.count("Question: ") == 2
    assert all(r.question.endswith("\n") for t, r in records.items() if t != "aa.affirmative suffix")
    assert np.unique([r.cluster for r in records.values()]).size >= 1
