"""The audit of one classifier: what it reads, beside whom, and what it leaves alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from expunge.report.readings import divide
from expunge.report.scorecard import Finding
from expunge.vision.attacks.inside import Inside
from expunge.vision.attacks.paraphrase import Paraphrase
from expunge.vision.attacks.relearn import Relearn
from expunge.vision.audit import audit_model, utility_split
from expunge.vision.data import Images, cluster_ids
from expunge.vision.evidence import EvidenceStore
from expunge.vision.forward import head_of
from expunge.vision.metrics.accuracy import Accuracy
from expunge.vision.subject import Subject
from expunge.vision.workload import Workload
from tiny_faces import splits, trained, untrained
from tiny_vision import several

ATTACKS: dict[str, Any] = {
    "paraphrase": Paraphrase(),
    "inside": Inside(),
    "relearn": Relearn(steps=(1,), batch_size=8, seeds=1),
}


def workload(*metrics: Any, **changes: Images) -> Workload:
    found = splits()
    named = {
        "forget": found["forget"], "retain": found["retain"], "test": found["test"], "holdout": found["unseen"],
        "forget_paraphrase": found["test"], **changes,
    }  # fmt: skip
    return Workload(named["forget"], named["retain"], named, metrics, 4)


def store(name: str, subject: Subject, work: Workload) -> EvidenceStore:
    return EvidenceStore(name, subject, work.splits)


class Beside:
    """A metric that only says beside whom it was asked."""

    needs_gold = True

    def measure(self, model: EvidenceStore, gold: EvidenceStore | None) -> list[Finding]:
        return [Finding("beside", gold.name if gold else "", model.name, 1, 1, 1, 1, "higher")]

    def compare(self, model: EvidenceStore, target: EvidenceStore) -> list[Finding]:
        return [Finding("change", target.name, model.name, 1, 1, 1, 1, "higher")]


def test_every_channel_is_read_over_people() -> None:
    work = workload(Accuracy())
    model, steps = store("target", trained(), work), list[str]()
    audit = audit_model(model, None, work, ATTACKS, seed=0, progress=steps.append)
    assert steps == ["Accuracy", "paraphrase", "inside", "relearn"]
    assert [r.channel for r in audit.readings] == [
        "direct", "unattacked", "paraphrase", "inside", "relearn", "relearn"
    ]  # fmt: skip
    people = cluster_ids(splits()["forget"])
    groups = divide(people, 0, 0.4, 0.1)
    for reading in audit.readings:
        assert len(reading.scores) == len(reading.clusters)
        if reading.channel in ("inside", "relearn"):  # only those the attacker did not hold
            assert reading.clusters == [people[i] for i in groups["scored"]]
    direct = audit.reading("direct")
    assert direct is not None
    assert direct.scores == model.hits("forget").tolist()
    assert direct.clusters == people
    assert audit.weights == trained().weights_hash()
    assert audit.utility == pytest.approx(float(model.hits("test").mean()))
    assert {f.metric for f in audit.findings} == {"accuracy"}


def test_metrics_are_asked_beside_gold_and_target_where_there_are_such() -> None:
    work = workload(Beside())
    models = {n: store(n, s, work) for n, s in (("target", trained()), ("gold", untrained()), ("m", untrained(1)))}
    gold, target = models["gold"], models["target"]

    def found(model: EvidenceStore, gold: EvidenceStore | None, target: EvidenceStore | None) -> list[tuple[str, str]]:
        audit = audit_model(model, gold, work, {}, seed=0, target=target)
        return [(f.metric, f.split) for f in audit.findings]

    assert found(models["m"], gold, target) == [("beside", "gold"), ("change", "target")]
    assert found(target, gold, target) == [("beside", "gold")]  # nothing has changed from itself
    assert found(models["m"], None, target) == []  # a metric that needs gold has none
    assert found(models["m"], gold, None) == [("beside", "gold")]


def test_what_the_roc_curve_shows() -> None:
    work = workload()
    knows, fresh = (audit_model(store(n, s, work), None, work, {}, seed=0).roc for n, s in
                    (("target", trained()), ("fresh", untrained())))  # fmt: skip

    def area(roc: dict[str, Any]) -> float:
        return float(torch.trapezoid(torch.tensor(roc["tpr"]), torch.tensor(roc["fpr"])))

    assert area(knows) > 0.7 > 0.6 > area(fresh)
    assert knows["detector"] == "loss"
    without = replace(work, splits={k: v for k, v in work.splits.items() if k != "holdout"})
    assert audit_model(store("target", trained(), without), None, without, {}, seed=0).roc == {}


def test_usefulness_is_measured_on_strangers_where_there_are_some() -> None:
    work = workload()
    assert utility_split(work) == "test"
    assert utility_split(replace(work, splits={"forget": work.forget, "retain": work.retain})) == "retain"


def silent(label: int) -> Subject:
    """A network that says one class to everything."""
    subject = untrained()
    with torch.no_grad():
        head_of(subject.model).bias[label] = 1e4
    return subject


def test_one_answer_to_everything_is_degenerate_unless_it_is_the_only_right_one() -> None:
    def degenerate(subject: Subject, forget: Images) -> bool:
        work = workload(forget=forget)
        return audit_model(store("m", subject, work), None, work, {}, seed=0).degenerate

    forget = splits()["forget"]
    one_class = forget.take(torch.nonzero(forget.labels == forget.labels[0])[:, 0])
    assert degenerate(silent(2), forget)
    assert not degenerate(trained(), forget)
    assert not degenerate(silent(2), one_class)  # a whole class that goes has one and the same label
    work = workload(forget=several(forget), retain=several(splits()["retain"]))
    independent = {k: several(v) if v.labels.ndim == 1 else v for k, v in work.splits.items()}
    work = replace(work, splits=independent)
    assert not audit_model(store("m", silent(2), work), None, work, {}, seed=0).degenerate
