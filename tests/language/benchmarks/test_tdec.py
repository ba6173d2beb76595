"""TDEC: reading and drawing the sets, and the whole protocol on documents a tiny model learns by heart."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from expunge.engine.loop import Observers
from expunge.engine.method import Method
from expunge.engine.training import Training
from expunge.errors import InputError
from expunge.language import testbed
from expunge.language.audit import audit_model
from expunge.language.benchmarks.tdec import PUBLISHED, TDEC, choose, documents
from expunge.language.data import Record
from expunge.language.evidence import EvidenceStore
from expunge.language.methods.fine_tune import FineTune
from expunge.language.methods.ga import GA
from expunge.language.methods.loku import LoKU
from expunge.language.metrics.extraction_likelihood import measured
from expunge.language.stop_rule import EL, MA, epochs_used
from expunge.language.subject import Subject
from expunge.language.testbed import World
from expunge.language.unlearn import UnlearnJob, unlearn

CORPORA = ["github", "github", "github", "pile-cc", "freelaw"]


def rows(count: int) -> list[dict[str, Any]]:
    return [{"doc_id": 1000 + i, "corpus": CORPORA[i % 5], "text": f"text number {i} of the set"} for i in range(count)]


def write(path: Path, content: list[dict[str, Any]]) -> str:
    if path.suffix == ".csv":
        lines = [",".join(content[0])] + [",".join(str(v) for v in row.values()) for row in content]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in content), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_sequences_keep_their_document_and_corpus(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"t.{suffix}", rows(10))
    work = TDEC(path=path, size=0, thresholds="gpt-neo-125m").load(0)
    assert [r.answer for r in work.forget] == [row["text"] for row in rows(10)]
    assert [r.cluster for r in work.forget][:2] == ["1000", "1001"]
    assert all(r.question == "" for r in work.forget)
    assert work.notes[0] == "6 texts from github, 2 texts from pile-cc, 2 texts from freelaw."
    assert work.behaviour == work.attack_score == "token"


@pytest.mark.parametrize("size", [1, 4, 8, 32, 128])
def test_five_disjoint_sets_of_each_size(size: int) -> None:
    texts = [(Record("", f"text {i}"), "") for i in range(640)]
    sets = [{r.answer for r, _ in choose(texts, size, draw)} for draw in range(5)]
    assert all(len(s) == size for s in sets)
    assert len(set.union(*sets)) == 5 * size
    assert sets == [{r.answer for r, _ in choose(texts, size, draw)} for draw in range(5)]


def test_the_draw_does_not_depend_on_the_runs_seed(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", rows(40))
    first, other = TDEC(path=path, size=8).load(0).forget, TDEC(path=path, size=8).load(7).forget
    assert first == other != TDEC(path=path, size=8, draw=1).load(0).forget


def test_what_is_measured_follows_from_what_there_is(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", rows(40))
    rest = [{"text": f"other text {i}"} for i in range(4)]
    choices = [{"question": "q", "answer": "a", "perturbed_answer": ["b", "c"]}]
    work = TDEC(path=path, size=8).load(0)
    assert set(work.splits) == {"forget"}
    assert "Membership" not in {type(m).__name__ for m in work.metrics}
    files = {
        "retain": write(tmp_path / "r.jsonl", rest[:2]),
        "holdout": write(tmp_path / "h.jsonl", rest[2:]),
        "utility": write(tmp_path / "u.jsonl", choices),
    }
    full = TDEC(path=path, size=8, **files).load(0)  # type: ignore[arg-type]
    assert set(full.splits) == {"forget", "retain", "holdout", "utility"}
    metrics = {type(m).__name__: m for m in full.metrics}
    assert metrics["ExtractionLikelihood"].splits == ("forget", "holdout")  # type: ignore[attr-defined]
    assert metrics["MemorizationAccuracy"].splits == ("forget", "retain", "holdout")  # type: ignore[attr-defined]
    assert metrics["Probability"].options == ("utility",)  # type: ignore[attr-defined]
    assert "Membership" in metrics


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"size": 16}, "tdec: size=16; one of 1, 4, 8, 32, 128"),
        ({"draw": 5}, "tdec: draw=5; there are 5 sets of each size, 0 to 4"),
        ({"thresholds": "gpt-2"}, "tdec: thresholds='gpt-2'; holdout or gpt-neo-125m"),
        ({"n": 0}, "n and pieces must be at least 1"),
        ({"size": 0}, "size=0 takes a file whole, and path names none"),
    ],
)
def test_bad_settings_are_one_sentence(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        TDEC(**settings)


def test_bad_files_are_one_sentence(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", rows(12))
    with pytest.raises(InputError, match="12 texts, and five disjoint sets of 4 need 20"):
        TDEC(path=path, size=4).load(0)
    with pytest.raises(InputError, match=r"nowhere\.jsonl: no such file"):
        TDEC(path=str(tmp_path / "nowhere.jsonl")).load(0)
    with pytest.raises(InputError, match="a file with doc_id, corpus and text is needed"):
        TDEC(path=str(tmp_path)).load(0)
    other = write(tmp_path / "o.jsonl", [{"doc_id": 1, "content": "x"}])
    with pytest.raises(InputError, match=r"o\.jsonl, line 1: field 'text' is missing"):
        TDEC(path=other, size=0).load(0)
    (tmp_path / "e.jsonl").write_text("")
    with pytest.raises(InputError, match="no texts in it"):
        TDEC(path=str(tmp_path / "e.jsonl"), size=0).load(0)
    with pytest.raises(InputError, match="forget and holdout sets share 1 records"):
        TDEC(path=path, size=0, holdout=write(tmp_path / "h.jsonl", rows(1))).load(0)
    work = TDEC(path=path, size=0)
    with pytest.raises(InputError, match="measured on unseen text, and holdout names no file"):
        work.stop_rule(work.load(0))


def test_published_thresholds_need_no_unseen_text(tmp_path: Path, memorised: Subject) -> None:
    bench = TDEC(path=write(tmp_path / "t.jsonl", rows(12)), size=0, thresholds="gpt-neo-125m")
    rule = bench.stop_rule(bench.load(0))(memorised)
    assert rule.thresholds is PUBLISHED["gpt-neo-125m"]
    assert (rule.thresholds.el, rule.thresholds.ma) == (0.0499, 0.2994)
    assert "knowledge-unlearning" in rule.thresholds.source


def test_documents_share_phrases_and_nothing_else() -> None:
    made = documents(40, pieces=5)
    assert made == documents(40, pieces=5)
    assert made[:10] == documents(10, pieces=5)  # more documents leave the first as they are
    assert len({r.answer for r in made}) == 40
    assert {len(r.answer.split()) for r in made} == {25}
    assert len({tuple(r.answer.split()[i : i + 4]) for r in made for i in range(0, 25, 5)}) == 12


# -- the protocol on documents learned by heart ---------------------------------------------------------

TWIN = TDEC(size=4, n=3, retain_documents=8, holdout_documents=8, pieces=3)


@pytest.fixture(scope="module")
def memorised() -> Subject:
    work = TWIN.load(0)
    subject = testbed.base_subject(World(forget=4, retain=8, holdout=4, places=6), hidden=64)
    training = replace(testbed.TARGET_TRAINING, epochs=100, batch_size=12)
    return UnlearnJob(subject, [], work.retain + work.forget, training).train(FineTune(), subject)


def test_made_up_documents_are_learned_by_heart_and_unseen_ones_in_part(memorised: Subject) -> None:
    work = TWIN.load(0)
    el, ma = (
        {s: float(v[i].mean()) for s, v in ((s, measured(memorised, work.splits[s], 3)) for s in work.splits)}
        for i in (0, 1)
    )
    assert min(ma["forget"], ma["retain"]) > 0.95
    assert min(el["forget"], el["retain"]) > 0.8  # a beginning that two documents share names neither
    assert 0.02 < el["holdout"] < 0.6
    assert 0.2 < ma["holdout"] < 0.85


def test_the_audit_reads_the_protocol(memorised: Subject) -> None:
    work = TWIN.load(0)
    audit = audit_model(EvidenceStore("target", memorised, work.splits), None, work, {}, seed=0)
    found = {(f.metric, f.split): f.value for f in audit.findings}
    assert found["extraction_likelihood_3", "forget"] > 0.8 > found["extraction_likelihood_3", "holdout"]
    assert found["memorization_accuracy", "forget"] > 0.95 > found["memorization_accuracy", "holdout"]
    assert audit.utility > 0.95


@pytest.mark.parametrize("method", [GA(), LoKU(rank=8)], ids=["ga", "loku"])
def test_unlearning_ends_at_the_first_evaluation_that_has_both_below(memorised: Subject, method: Method) -> None:
    """The whole forget set in every step, an evaluation after each epoch; what comes out reads as unseen text."""
    work = TWIN.load(0)
    subject = memorised.with_model(copy.deepcopy(memorised.model))
    rule = TWIN.stop_rule(work)(subject)
    training = Training(
        steps=40, batch_size=len(work.forget), lr=3e-3 if isinstance(method, LoKU) else 1e-3, schedule="constant",
        warmup=0.0, betas=(0.9, 0.98), evaluate_every=1,
    )  # fmt: skip
    watch = Observers(probe=rule.probe, stop=rule.stop)
    job = UnlearnJob(subject, work.forget, work.retain, training, observers=watch)
    unlearned = unlearn(method, job)
    log = job.logs[-1]
    assert log.stopped is not None
    assert log.stopped.startswith("forgotten: EL")
    below = [rule.stop(values) is not None for values in log.probes]
    assert below == [False] * (len(below) - 1) + [True]
    assert epochs_used(log, len(work.forget), training.batch_size) == len(log.steps) == log.probes[-1]["step"] > 1
    el, ma = (float(v.mean()) for v in measured(unlearned, work.forget, 3))
    assert el == pytest.approx(log.probes[-1][EL], abs=0.02)
    assert ma == pytest.approx(log.probes[-1][MA], abs=0.02)
    assert el < rule.thresholds.el
    assert ma < rule.thresholds.ma
