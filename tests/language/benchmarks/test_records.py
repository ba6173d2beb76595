"""The user's own records: what can be measured follows from what the files hold."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from expunge.errors import InputError
from expunge.language.attacks.quantise import Quantise
from expunge.language.audit import audit_model
from expunge.language.benchmarks.records import Records
from expunge.language.evidence import EvidenceStore
from tiny_bed import Bed


def write(path: Path, rows: list[dict[str, object]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def names(work: object) -> set[str]:
    return {type(m).__name__ for m in work.metrics}  # type: ignore[attr-defined]


def test_plain_questions_get_what_needs_no_more(tmp_path: Path) -> None:
    forget = write(tmp_path / "f.jsonl", [{"question": "q", "answer": "a"}])
    work = Records(forget=forget).load(0)
    assert names(work) == {"Accuracy", "Probability", "ExtractionStrength", "ExactMemorization", "Rouge"}
    assert work.attack_score == "rouge"
    assert len(work.notes) == 2  # no retain, no holdout: the report says what that costs


def test_false_answers_bring_truth_ratio_and_choice(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"question": f"q{i}", "answer": f"a{i}", "perturbed_answer": ["x", "y"], "paraphrased_question": f"p{i}"}
        for i in range(3)
    ]
    work = Records(
        forget=write(tmp_path / "f.jsonl", rows[:1]),
        retain=write(tmp_path / "r.jsonl", rows[1:2]),
        holdout=write(tmp_path / "h.jsonl", rows[2:]),
    ).load(0)
    assert {"TruthRatio", "ForgetQuality", "ModelUtility", "Membership"} <= names(work)
    assert work.attack_score == "choice"
    assert work.splits["forget_paraphrase"][0].question == "p0"
    assert work.notes == []


def test_uneven_false_answers_are_not_contrasted(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"question": "q", "answer": "a", "perturbed_answer": ["x"]},
        {"question": "r", "answer": "b", "perturbed_answer": ["x", "y"]},
    ]
    work = Records(forget=write(tmp_path / "f.jsonl", rows)).load(0)
    assert "TruthRatio" not in names(work)
    assert work.attack_score == "rouge"


def test_plain_text_has_no_question_to_answer(tmp_path: Path) -> None:
    work = Records(forget=write(tmp_path / "f.jsonl", [{"text": "some words of text"}])).load(0)
    assert "Rouge" not in names(work)
    assert work.behaviour == work.attack_score == "token"


@pytest.mark.parametrize("other", ["retain", "holdout"])
def test_overlap_is_refused_unless_allowed(tmp_path: Path, other: str) -> None:
    path = write(tmp_path / "f.jsonl", [{"question": "q", "answer": "a"}])
    with pytest.raises(InputError, match=f"forget and {other} sets share 1 records"):
        Records(forget=path, **{other: path}).load(0)  # type: ignore[arg-type]
    assert Records(forget=path, allow_overlap=True, **{other: path}).load(0).forget  # type: ignore[arg-type]


def test_plain_text_can_be_audited(tmp_path: Path, bed: Bed) -> None:
    """Nothing is generated, for there is no question; memorised text scores near 1 and unseen text low."""
    known = [{"text": bed.target.template.prompt(r, None) + r.answer} for r in bed.forget[:4]]
    work = Records(forget=write(tmp_path / "f.jsonl", known)).load(0)
    store = EvidenceStore("target", bed.target, work.splits)
    audit = audit_model(store, None, work, {"quantise": Quantise(bits=(8,))}, seed=0)
    direct = audit.reading("direct")
    assert direct is not None
    assert all(0 <= s <= 1 for s in direct.scores)
    assert not audit.degenerate
