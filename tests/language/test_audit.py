"""The audit of one model."""

from __future__ import annotations

import pytest

from expunge.language.attacks.quantise import Quantise
from expunge.language.audit import audit_model, is_degenerate
from expunge.language.evidence import EvidenceStore
from expunge.language.metrics.accuracy import Accuracy
from expunge.language.metrics.forget_quality import ForgetQuality
from expunge.language.workload import Workload
from tiny_bed import Bed


@pytest.fixture(scope="module")
def workload(bed: Bed) -> Workload:
    splits = {k: v for k, v in bed.records.items() if not k.startswith("train_")}
    return Workload(bed.forget, bed.retain, splits, (Accuracy(), ForgetQuality()), max_new_tokens=8)


def test_target_and_gold_by_known_truth(bed: Bed, workload: Workload) -> None:
    gold = EvidenceStore("gold", bed.gold, workload.splits)
    target = audit_model(
        EvidenceStore("target", bed.target, workload.splits), gold, workload, {"quantise": Quantise()}, seed=0
    )
    assert target.utility == pytest.approx(1.0)
    assert not target.degenerate
    assert {r.channel for r in target.readings} == {"direct", "unattacked", "quantise-8", "quantise-4"}
    direct = target.reading("direct")
    assert direct is not None
    assert set(direct.by_cluster().values()) == {1.0}
    assert {f.metric for f in target.findings} == {"accuracy", "forget_quality", "forget_quality.ks"}
    assert target.weights == bed.target.weights_hash()


def test_without_gold_what_needs_it_is_left_out(bed: Bed, workload: Workload) -> None:
    audit = audit_model(EvidenceStore("target", bed.target, workload.splits), None, workload, {}, seed=0)
    assert {f.metric for f in audit.findings} == {"accuracy"}


def test_clusters_are_numbers(bed: Bed, workload: Workload) -> None:
    audit = audit_model(EvidenceStore("target", bed.target, workload.splits), None, workload, {}, seed=0)
    assert set(audit.readings[0].clusters) == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", True),
        ("   ", True),
        ("Paris", False),
        ("no no no no no no no no", True),
        ("the cat sat on the mat and the dog sat on the log", False),
    ],
)
def test_degenerate_texts(text: str, expected: bool) -> None:
    assert is_degenerate(text) is expected
