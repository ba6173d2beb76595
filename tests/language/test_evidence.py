"""Scores against an independent loop; the store asks a model once."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from expunge.errors import InputError
from expunge.language.data import Record
from expunge.language.evidence import EvidenceStore
from expunge.language.score import score_answers, token_statistics
from expunge.language.subject import Subject
from tiny_bed import Bed


def test_scores_equal_a_loop_over_single_sequences(bed: Bed) -> None:
    subject, rows = bed.gold, bed.forget[:5]
    scores = score_answers(subject, rows, [[r.answer, *r.perturbed_answers[:2]] for r in rows])
    expected = []
    for r in rows:
        for answer in (r.answer, *r.perturbed_answers[:2]):
            prompt = subject.template.prompt(r, subject.tokenizer)
            head = len(subject.tokenizer(prompt.rstrip())["input_ids"])
            ids = torch.tensor([[*subject.tokenizer(prompt + answer)["input_ids"], subject.tokenizer.eos_token_id]])
            with torch.no_grad():
                logp = subject.model(ids).logits[0].log_softmax(-1)
            expected.append(logp[head - 1 : -1].gather(-1, ids[0, head:, None])[:, 0].sum().item())
    assert np.allclose(-scores.nll_sum, expected, atol=1e-4)


@pytest.mark.parametrize("tokens", [1, 64, 4096])
def test_batch_size_and_order_change_nothing(bed: Bed, tokens: int) -> None:
    rows = bed.forget[:10]
    answers = [[r.answer] for r in rows]
    base = score_answers(bed.gold, rows, answers).nll
    assert np.allclose(score_answers(bed.gold, rows, answers, batch_tokens=tokens).nll, base, atol=1e-5)
    assert np.allclose(score_answers(bed.gold, rows[::-1], answers[::-1]).nll[::-1], base, atol=1e-5)


def test_uniform_logits_have_closed_forms() -> None:
    """log p = -ln V, mean -ln V, variance 0."""
    logp, _, mean, variance = token_statistics(torch.zeros(3, 7), torch.tensor([0, 3, 6]))
    assert torch.allclose(logp, torch.full((3,), -math.log(7)))
    assert torch.allclose(mean, torch.full((3,), -math.log(7)))
    assert torch.allclose(variance, torch.zeros(3), atol=1e-6)


def test_probabilities_that_underflow_are_no_nan() -> None:
    logits = torch.tensor([[0.0, -200.0, -float("inf")]])
    for value in token_statistics(logits, torch.tensor([0])):
        assert torch.isfinite(value.float()).all()


def test_a_second_store_reads_the_disk(bed: Bed, tmp_path: Path) -> None:
    splits = {"forget": bed.records["forget"]}
    first = EvidenceStore("target", bed.target, splits, tmp_path)
    fingerprint = bed.target.fingerprint()

    def refuse() -> Subject:
        raise AssertionError("the model was asked again")

    second = EvidenceStore("target", refuse, splits, tmp_path, fingerprint=fingerprint)
    for read in ("answers", "generations"):
        a, b = getattr(first, read)("forget"), getattr(second, read)("forget")
        assert a == b if read == "generations" else np.array_equal(a.logprob, b.logprob)
    wrong, owner = first.perturbed("forget")
    assert len(wrong) == len(owner) == 5 * len(splits["forget"])
    assert np.array_equal(second.perturbed("forget")[0].nll, wrong.nll)


def test_another_model_is_not_served_old_evidence(bed: Bed, tmp_path: Path) -> None:
    splits = {"forget": bed.records["forget"]}
    target = EvidenceStore("target", bed.target, splits, tmp_path).answers("forget")
    gold = EvidenceStore("gold", bed.gold, splits, tmp_path).answers("forget")
    assert target.exact.mean() == 1.0
    assert gold.exact.mean() < 0.5


def test_an_unknown_split_names_what_there_is(bed: Bed) -> None:
    with pytest.raises(InputError, match="No split 'forgot'; there are forget"):
        EvidenceStore("target", bed.target, {"forget": bed.records["forget"]}).answers("forgot")


def test_cut_rows_are_remembered_on_disk(bed: Bed, tmp_path: Path) -> None:
    """Which rows have an end token comes back row by row."""
    splits = {"forget": [Record("Where?", "a"), Record("Where?", "b c d e f g h i j k l m n o p")]}
    subject = replace(bed.gold, max_length=16)
    for _ in range(2):
        found = EvidenceStore("gold", subject, splits, tmp_path).answers("forget")
        assert found.has_eos.tolist() == [True, False]  # type: ignore[union-attr]


def test_evidence_is_filed_under_content(bed: Bed, tmp_path: Path) -> None:
    """The same records under another split name are not computed twice; other records are."""
    rows = bed.records["forget"][:3]
    EvidenceStore("gold", bed.gold, {"forget": rows}, tmp_path).answers("forget")
    files = len(list(tmp_path.iterdir()))
    EvidenceStore("gold", bed.gold, {"same": list(rows)}, tmp_path).answers("same")
    assert len(list(tmp_path.iterdir())) == files == 1
    EvidenceStore("gold", bed.gold, {"other": rows[:2]}, tmp_path).answers("other")
    assert len(list(tmp_path.iterdir())) == 2
    store = EvidenceStore("gold", bed.gold, {"forget": rows}, tmp_path, max_new_tokens=3)
    store.generations("forget")
    EvidenceStore("gold", bed.gold, {"forget": rows}, tmp_path, max_new_tokens=4).generations("forget")
    assert len(list(tmp_path.iterdir())) == 4
    assert not list(tmp_path.glob("*.tmp"))


def test_paraphrases_fall_back_to_the_answer(bed: Bed) -> None:
    rows = [Record("Where?", "here", paraphrased_answer="over there"), Record("Where?", "here")]
    store = EvidenceStore("gold", bed.gold, {"s": rows, "plain": rows[1:]})
    answers, paraphrases = store.answers("s"), store.paraphrases("s")
    assert paraphrases.nll[1] == pytest.approx(answers.nll[1], abs=1e-6)
    assert paraphrases.nll[0] != pytest.approx(answers.nll[0], abs=1e-3)
    assert store.paraphrases("plain") is store.answers("plain")
    assert store.clusters("s").tolist() == [0, 1]


def test_false_answers_know_their_record(bed: Bed) -> None:
    rows = [
        Record("A?", "a", perturbed_answers=("b", "c")),
        Record("B?", "b"),
        Record("C?", "c", perturbed_answers=("d",)),
    ]
    scores, owner = EvidenceStore("gold", bed.gold, {"s": rows}).perturbed("s")
    assert owner.tolist() == [0, 0, 2]
    alone = score_answers(bed.gold, rows[2:], [["d"]])
    assert scores.nll[2] == pytest.approx(alone.nll[0], abs=1e-5)
