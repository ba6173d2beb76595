"""Which corpus a method gets, and that it trains on exactly that."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from expunge.engine.method import Method
from expunge.engine.training import Training
from expunge.errors import InputError
from expunge.language import rwku_material as module
from expunge.language.data import Record
from expunge.language.methods.altpo import AltPO
from expunge.language.methods.dpo import DPO
from expunge.language.methods.ga import GA
from expunge.language.methods.icu import ICU
from expunge.language.methods.idk import IDK
from expunge.language.methods.npo import NPO
from expunge.language.methods.rejection_tuning import RejectionTuning
from expunge.language.methods.repe import RepE
from expunge.language.rwku_corpus import Sampling, biography_request
from expunge.language.rwku_data import Probe
from expunge.language.rwku_material import Corpora, PairedDPO, parse_choices, probe_texts, requests
from expunge.language.score import score_answers
from expunge.language.unlearn import UnlearnJob, unlearn
from tiny_bed import Bed

HOW = Sampling(openings=("", "Well,", "She"), questions=4, max_new_tokens=8, question_tokens=8)
INTROS = {"Ada Ben": "Ada Ben is a poet.", "Bo Cy": "Bo Cy is a king."}
TRAINING = Training(steps=1, batch_size=6, lr=1e-3, schedule="constant", warmup=0.0)
WRITTEN = {
    "factual": ["wrote poems in Rome.", "Well, Rome was home.", "She sang."],
    "counterfactual": ["sailed to Oslo.", "Well, Oslo was home.", "She sang."],
    "question": ["Who is it?", "", "Where?", "Who taught Ada?"],
}


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, str]]:
    """What the model writes, written down; yields what was asked for."""
    asked: list[tuple[str, str, str]] = []

    def write(self: Any, kind: str, name: str, intro: str, *, batch: int = 32) -> list[str]:
        asked.append((kind, name, intro))
        return list(WRITTEN[kind])

    monkeypatch.setattr(module.Writer, "write", write)
    return asked


def job_of(bed: Bed) -> UnlearnJob:
    return UnlearnJob(bed.fresh(), requests(list(INTROS), INTROS), [], TRAINING, refusals=("No.", "Never."))


def given(bed: Bed, method: Method, **fields: Any) -> tuple[UnlearnJob, Method]:
    return Corpora(INTROS, fields.pop("probes", ()), HOW, **fields)(job_of(bed), method, None)


# -- which corpus -------------------------------------------------------------------------------------


def test_each_method_has_its_usual_corpus() -> None:
    corpora = Corpora(INTROS, (), HOW)
    kinds = {
        GA(): "factual", NPO(): "factual", DPO(): "pair", PairedDPO(): "pair", AltPO(): "pair", IDK(): "refusal",
        RejectionTuning(): "refusal", ICU(): "none", RepE(): "none",
    }  # fmt: skip
    assert {method: corpora.kind(method) for method in kinds} == kinds
    chosen = replace(corpora, choices=parse_choices(("npo=passage", "GA=none")))
    assert [chosen.kind(m) for m in (NPO(), GA(), DPO())] == ["passage", "none", "pair"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("npo", "'npo' must read METHOD=CORPUS, with CORPUS one of factual, pair"),
        ("npo=facts", "'npo=facts' must read METHOD=CORPUS"),
        ("nppo=factual", "Unknown method 'nppo'. Did you mean 'npo'"),
    ],
)
def test_wrong_choices(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_choices((text,))


# -- what is handed over ------------------------------------------------------------------------------


def test_factual_texts_are_plain_text_of_every_target(bed: Bed, written: Any) -> None:
    job, method = given(bed, GA())
    assert method == GA()
    assert [(r.question, r.answer, r.cluster) for r in job.forget] == [
        ("", text, name) for name in INTROS for text in WRITTEN["factual"]
    ]
    assert written == [("factual", name, intro) for name, intro in INTROS.items()]
    assert job.logs[0].notes == ["trained on the factual corpus, 6 rows"]


def test_pairs_prefer_the_invented_text_of_the_same_opening(bed: Bed, written: Any) -> None:
    """The third pair says the same twice and is no preference."""
    job, method = given(bed, DPO(retain="none", beta=0.3))
    assert method == PairedDPO(retain="none", beta=0.3)
    assert [(r.question, r.answer) for r in job.forget[:2]] == [
        (biography_request("Ada Ben", INTROS["Ada Ben"]), text) for text in WRITTEN["factual"][:2]
    ]
    assert job.alternates == [[text] for text in WRITTEN["counterfactual"][:2]] * 2
    same, alternates = given(bed, AltPO(retain="none"))
    assert same.forget == job.forget
    assert alternates == AltPO(retain="none")


def test_refusals_take_turns_over_the_questions_that_are_left(bed: Bed, written: Any) -> None:
    job, _ = given(bed, RejectionTuning(), probes=("Who taught Ada?",))
    assert [(r.question, r.answer) for r in job.forget] == [
        ("Who is it?", "No."), ("Where?", "Never."), ("Who is it?", "No."), ("Where?", "Never."),
    ]  # fmt: skip
    assert job.logs[0].notes == ["trained on the refusal corpus, 4 rows; 2 rows that held a probe were left out"]


def test_a_guard_keeps_the_request(bed: Bed, written: Any) -> None:
    job, method = given(bed, ICU())
    assert job.forget == requests(list(INTROS), INTROS)
    assert method == ICU()
    assert written == []


def test_rows_that_hold_probes_are_left_out_of_every_corpus(bed: Bed, written: Any) -> None:
    probes = probe_texts([Probe("forget", "fb", "", "Well, ___ was home.", "Rome", "Ada Ben")])
    assert probes == ("Well, Rome was home.",)
    job, _ = given(bed, GA(), probes=probes)
    assert len(job.forget) == 4
    job, _ = given(bed, DPO(), probes=("Oslo was home",))  # in the invented text
    assert [r.answer for r in job.forget] == [WRITTEN["factual"][0]] * 2
    with pytest.raises(InputError, match="factual corpus holds nothing about 'Ada Ben' that is no probe"):
        given(bed, GA(), probes=("poems", "Rome", "sang"))


def test_released_corpora_and_passages(bed: Bed, tmp_path: Path) -> None:
    rows: dict[str, list[dict[str, Any]]] = {
        "train_positive_llama3": [{"subject": s, "text": f"{s} lived."} for s in (*INTROS, "Cy")],
        "train_pair_llama3": [{"subject": s, "prompt": "P", "response": ["bad", "good"]} for s in INTROS],
        "train_refusal_llama3": [{"subject": s, "instruction": "Q?", "output": "Pass."} for s in INTROS],
        "train_original_passage": [{"subject": s, "text": f"{s} in the encyclopaedia."} for s in INTROS],
    }
    for name, content in rows.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in content), encoding="utf-8")
    fields = {"source": "llama3", "path": str(tmp_path)}
    assert [r.answer for r in given(bed, GA(), **fields)[0].forget] == ["Ada Ben lived.", "Bo Cy lived."]
    paired, _ = given(bed, DPO(), **fields)
    assert (paired.forget[0].answer, paired.alternates) == ("good", [["bad"], ["bad"]])
    assert [r.answer for r in given(bed, RejectionTuning(), **fields)[0].forget] == ["Pass."] * 2
    passages, _ = given(bed, GA(), choices={"ga": "passage"}, **fields)
    assert [r.answer for r in passages.forget] == [f"{s} in the encyclopaedia." for s in INTROS]
    with pytest.raises(InputError, match="holds no file train_positive_phi3"):
        given(bed, GA(), source="phi3", path=str(tmp_path))


# -- training on it -----------------------------------------------------------------------------------


def trained(bed: Bed, method: Method) -> tuple[float, UnlearnJob]:
    """The loss of the first step on the written corpus, and the job."""
    job = replace(job_of(bed), corpus=lambda job, method: Corpora(INTROS, (), HOW)(job, method, None))
    unlearn(method, job)
    return job.logs[1].steps[0]["forget"], job


def test_ascent_is_on_the_texts_themselves(bed: Bed, written: Any) -> None:
    loss, job = trained(bed, GA())
    records = given(bed, GA())[0].forget
    scores = score_answers(bed.target, records, [[r.answer] for r in records])
    assert loss == pytest.approx(float(scores.logprob.mean()), rel=1e-4)
    assert job.forget == requests(list(INTROS), INTROS)  # the request stays what it was


def test_preferences_begin_at_ln_2_and_name_the_pair(bed: Bed, written: Any) -> None:
    """At the reference DPO and NPO are (2 / beta) ln 2; one step later the invented text has gained on the other."""
    assert trained(bed, DPO(retain="none", beta=0.1))[0] == pytest.approx(20 * math.log(2), rel=1e-5)
    assert trained(bed, NPO(retain="none", beta=0.2))[0] == pytest.approx(10 * math.log(2), rel=1e-5)
    job, paired = given(bed, DPO(retain="none"))
    job.training = replace(TRAINING, steps=12, lr=3e-3)
    assert job.alternates is not None
    others = [texts[0] for texts in job.alternates]
    before = score_answers(bed.target, job.forget, [[r.answer, o] for r, o in zip(job.forget, others, strict=True)])
    after = score_answers(
        unlearn(paired, job), job.forget, [[r.answer, o] for r, o in zip(job.forget, others, strict=True)]
    )
    gained = (before.nll_sum - after.nll_sum).reshape(-1, 2)  # factual, invented
    assert (gained[:, 1] > gained[:, 0]).all()


def test_rejection_tuning_trains_on_the_corpus_own_answers(bed: Bed, written: Any) -> None:
    loss, _ = trained(bed, RejectionTuning())
    records = given(bed, RejectionTuning())[0].forget
    scores = score_answers(bed.target, records, [[r.answer] for r in records])
    assert len(records) == 6
    assert loss == pytest.approx(-float(scores.logprob.mean()), rel=1e-4)


def test_the_request_is_a_name_and_a_sentence() -> None:
    known, unknown = requests(["Ada Ben", "Zoe"], INTROS)
    assert known == Record(biography_request("Ada Ben", INTROS["Ada Ben"]), INTROS["Ada Ben"], "Ada Ben")
    assert (unknown.answer, unknown.question) == ("Zoe", "Write a short biography of Zoe, please.")
