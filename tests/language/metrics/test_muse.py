"""MUSE's measures: orientation, closed forms, prompts to the letter, and the stopping rule."""

from __future__ import annotations

import numpy as np
import pytest

from expunge.errors import InputError
from expunge.language.data import Record
from expunge.language.evidence import EvidenceStore
from expunge.language.metrics.knowledge_memorization import (
    KnowledgeMemorization,
    answer_of,
    knowledge_memorization,
    knowledge_prompt,
    with_shots,
)
from expunge.language.metrics.privacy_leakage import RETRAINED, PrivacyLeakage, muse_auc, privleak_interval, text_scores
from expunge.language.metrics.verbatim_memorization import VerbatimMemorization, beginning, continued
from expunge.language.stop_rule import KnowledgeRule, first_at_most
from expunge.membership import min_k
from tiny_bed import Bed

ONES, TWOS = np.arange(4), np.arange(4) + 10


def texts(bed: Bed) -> dict[str, list[Record]]:
    def plain(rows: list[Record]) -> list[Record]:
        return [Record("", f"{r.question} {r.answer}", r.cluster) for r in rows]

    return {"forget_texts": plain(bed.records["forget"]), "holdout_texts": plain(bed.records["holdout"])}


def test_a_full_leak_is_minus_one_whatever_the_reference() -> None:
    """Members above all others: AUC_muse 0, PrivLeak -1; the other way round 1 / AUC_r - 1."""
    high, low = np.arange(4.0) + 10, np.arange(4.0)
    assert muse_auc(1.0) == 0
    for reference in (0.5, 0.5228, 0.1):
        assert privleak_interval((high, low), reference, (ONES, TWOS)).value == -1
    news = muse_auc(RETRAINED["news"]["min_k_40"])
    assert privleak_interval((low, high), news, (ONES, TWOS)).value == pytest.approx(1.0956, abs=5e-5)
    mixed = np.array([0.0, 3.0, 1.0, 5.0]), np.array([2.0, 4.0, 0.5, 1.5])
    same = privleak_interval(mixed, mixed, (ONES, TWOS))
    assert (same.value, same.low, same.high) == (0, 0, 0)  # resampled together


def test_the_model_that_read_them_leaks_and_gold_does_not(bed: Bed) -> None:
    splits = texts(bed)
    gold, target = (EvidenceStore(n, s, splits) for n, s in (("gold", bed.gold), ("target", bed.target)))
    metric = PrivacyLeakage(draws=50)
    value = {f.metric: f.value for f in metric.measure(target, gold)}
    own = {f.metric: f.value for f in metric.measure(gold, gold)}
    assert own["muse.privleak"] == 0
    assert value["muse.privleak"] < -0.3
    assert value["muse.privleak"] == pytest.approx(
        value["muse.privleak.auc"] / value["muse.privleak.auc_reference"] - 1
    )
    assert value["muse.privleak.auc"] == pytest.approx(1 - value["membership.min_k_40.auroc"])
    with pytest.raises(InputError, match="PrivLeak compares with the gold model and there is none"):
        metric.measure(target, None)
    stored = {f.metric: f.value for f in PrivacyLeakage(reference="books", draws=10).measure(target, None)}
    assert stored["muse.privleak.auc_reference"] == pytest.approx(0.5393)


def test_min_k_ignores_the_order_of_tokens_and_at_one_is_the_loss(bed: Bed) -> None:
    store = EvidenceStore("target", bed.target, texts(bed))
    scores = store.answers("forget_texts").without_eos()
    assert min_k(scores.logprob, scores.offsets, 1.0) == pytest.approx(text_scores(store, "forget_texts")["loss"])
    turned = np.concatenate([row[::-1] for row in np.split(scores.logprob, scores.offsets[1:-1])])
    np.testing.assert_allclose(min_k(turned, scores.offsets, 0.4), min_k(scores.logprob, scores.offsets, 0.4))
    assert min_k(np.array([-3.0]), np.array([0, 1]), 0.05).tolist() == [-3.0]


def test_the_prompt_and_the_cut_are_those_of_the_release() -> None:
    asked = with_shots(Record("Who?", "she"), [("When?", "now"), ("Where?", "here")])
    blocks = "Question: When?\nAnswer: now\n\nQuestion: Where?\nAnswer: here\n\n"
    assert knowledge_prompt(asked) == blocks + "Question: Who?\nAnswer: "
    assert knowledge_prompt(asked, "answer") == blocks + "Question: Who?\nAnswer:"
    assert answer_of("Paris\n\nQuestion: x") == "Paris"
    assert answer_of(" Paris Question: x") == " Paris "
    odd = Record("q", "a", history=(("assistant", "x"),))
    with pytest.raises(InputError, match="found turns of"):
        knowledge_prompt(odd)


def test_knowledge_is_scored_by_words_as_written(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    """F1 without stemming: novels is not novel; an empty answer scores 0."""
    said = iter([["novels she wrote", "novel"], ["", "Question: none"]])
    monkeypatch.setattr("expunge.language.metrics.knowledge_memorization.continued", lambda *_: next(said))
    rows = [Record("q", "She wrote novels"), Record("q", "novels")]
    assert knowledge_memorization(bed.target, rows).tolist() == pytest.approx([2 / 3, 0.0])
    assert knowledge_memorization(bed.target, rows).tolist() == [0.0, 0.0]


def test_the_bed_knows_its_people_and_gold_does_not(bed: Bed) -> None:
    """One-shot questions in the release's form are not the bed's own, so only continuations are compared."""
    first = bed.forget[0]
    whole = bed.target.template.prompt(first, bed.target.tokenizer)
    assert continued(bed.target, [whole.rstrip()], 8)[0].strip() == first.answer
    splits = {"forget_verbatim": [Record(whole.rstrip(), r.answer, r.cluster) for r in [first]]}
    for subject, expected in ((bed.target, 1.0), (bed.gold, 0.0)):
        store = EvidenceStore("m", subject, splits)
        (found,) = VerbatimMemorization(max_new_tokens=8).measure(store, None)
        assert found.value == expected


def test_the_true_continuation_is_cut_to_as_many_tokens(bed: Bed) -> None:
    tokenizer, text = bed.target.tokenizer, "In Zomarar, they say, and Belin Tirak too."
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert beginning(tokenizer, text, len(ids)) == text
    assert tokenizer(beginning(tokenizer, text, 5), add_special_tokens=False)["input_ids"][:5] == ids[:5]


def test_the_stopping_rule_takes_the_first_that_is_not_above_gold(bed: Bed) -> None:
    assert first_at_most([0.6, 0.4, 0.33, 0.2], 0.331) == 2
    assert first_at_most([0.6, 0.5], 0.331) == 1  # none qualifies: the last
    rule = KnowledgeRule(bed.target, bed.forget[:2], level=0.331)
    name = next(iter(rule.probe(bed.target.model)))
    assert rule.stop({name: 0.4}) is None
    assert "not above 0.3310" in str(rule.stop({name: 0.33}))
    with pytest.raises(InputError, match="the stopping rule compares with the gold model and there is none"):
        KnowledgeRule(bed.target, bed.forget[:2]).beside(None)


def test_settings_out_of_range() -> None:
    with pytest.raises(InputError, match="space='behind'; prompt or answer"):
        KnowledgeMemorization(space="behind")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="must be at least 1"):
        VerbatimMemorization(max_new_tokens=0)
    with pytest.raises(InputError, match="reference='gol'; gold, news or books"):
        PrivacyLeakage(reference="gol")  # type: ignore[arg-type]
