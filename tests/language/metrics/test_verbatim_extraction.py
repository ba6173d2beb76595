"""Verbatim extraction: what a model that knows a text writes after its first tokens, and how that is compared."""

from __future__ import annotations

import pytest

from expunge.errors import InputError
from expunge.language.data import Record
from expunge.language.evidence import EvidenceStore
from expunge.language.insertion import ControlledInsertion
from expunge.language.insertion_world import InsertionWorld
from expunge.language.metrics.verbatim_extraction import VerbatimExtraction, continued, verbatim_scores
from expunge.language.subject import Subject
from stub_model import Rule
from tiny_insertion import background, few, told

TEXT = few(1)[0].text


@pytest.fixture(scope="module")
def plain() -> Subject:
    insertion = ControlledInsertion(background(60), few(6), {0: 2, 1: 2}, 40)
    return InsertionWorld(insertion, hidden=16, layers=1, vocabulary=320).base_subject()


def ids_of(subject: Subject, text: str) -> list[int]:
    found: list[int] = subject.tokenizer(text, add_special_tokens=False)["input_ids"]
    return found


def knowing(subject: Subject, text: str, *, then: int = 2) -> Subject:
    """A model that continues `text` by place (begin token in front) and says `then` behind it."""
    known = ids_of(subject, text)
    rule: Rule = lambda seen: known[len(seen) - 1] if len(seen) <= len(known) else then  # noqa: E731
    return told(subject, rule)


@pytest.mark.parametrize("first", [1, 3, 7])
def test_what_is_known_by_heart_is_written_to_the_end(plain: Subject, first: int) -> None:
    suffixes, wrote = continued(knowing(plain, TEXT), [TEXT], [first], 500)
    assert suffixes == wrote == [plain.tokenizer.decode(ids_of(plain, TEXT)[first:])]


def test_the_prefix_is_cut_from_the_tokens_of_the_text(plain: Subject) -> None:
    """A model that answers with the number of tokens it was given: begin, then the first n, not decoded again."""
    fed: list[int] = []

    def rule(seen: list[int]) -> int:
        fed.append(len(seen))
        return 2

    continued(told(plain, rule), [TEXT], [4], 10)
    assert max(fed) == 5


def test_scores_by_hand() -> None:
    """Of "a b c d" the words a c d come back in order, with x between: precision 3/4, recall 3/4."""
    found = {
        k: v.tolist() for k, v in verbatim_scores(["a b c d", "running", "a b"], ["a x c d", "runs", " A B "]).items()
    }
    assert found["rouge_l_precision"] == [0.75, 0, 1]
    assert found["rouge_l_recall"] == [0.75, 0, 1]
    assert found["rouge_l_f1"] == [0.75, 0, 1]
    assert found["rouge_l_f1_stemmed"] == [0.75, 1, 1]
    assert found["exact_match"] == found["prefix_match"] == [0, 0, 1]


def test_running_on_past_the_end_is_a_prefix_match_and_no_exact_one(plain: Subject) -> None:
    more = ids_of(plain, " and")[0]
    store = EvidenceStore("x", knowing(plain, TEXT, then=more), {"forget": [Record("", TEXT)]})
    found = {f.metric: f.value for f in VerbatimExtraction(("forget",), (4,), (), 30).measure(store, None)}
    assert found["hubble.verbatim_4.prefix_match"] == 1
    assert found["hubble.verbatim_4.exact_match"] == 0
    assert found["hubble.verbatim_4.rouge_l_recall"] == 1
    assert found["hubble.verbatim_4.rouge_l_precision"] < 1


def test_prefixes_and_shares_name_their_findings_and_short_texts_are_left_out(plain: Subject) -> None:
    records = [Record("", TEXT), Record("", "gate 3")]
    store = EvidenceStore("x", knowing(plain, TEXT), {"forget": records})
    found = VerbatimExtraction(("forget",), (5, 400), (0.5, 0.25), 40).measure(store, None)
    by_name = {f.metric: f.n for f in found if f.metric.endswith("exact_match")}
    assert by_name == {
        "hubble.verbatim_5.exact_match": 1,
        "hubble.verbatim_50_percent.exact_match": 2,
        "hubble.verbatim_25_percent.exact_match": 2,
    }


def test_settings_and_texts_that_leave_nothing(plain: Subject) -> None:
    store = EvidenceStore("x", plain, {"forget": [Record("", "gate 3")]})
    with pytest.raises(InputError, match="no text longer than 25 tokens; give shares"):
        VerbatimExtraction(("forget",)).measure(store, None)
    for wrong in ({"prefixes": (0,)}, {"shares": (1.0,)}, {"max_new_tokens": 0}):
        with pytest.raises(InputError, match="must be at least 1"):
            VerbatimExtraction(**wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="both empty"):
        VerbatimExtraction(prefixes=())
