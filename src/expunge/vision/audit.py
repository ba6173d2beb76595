"""The audit of one classifier: metrics, attacks, and the readings the verdict rests on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from expunge.membership import roc_curve
from expunge.report.assemble import ModelAudit
from expunge.report.readings import ATTACKER_SHARE, DEV_SHARE, Reading, divide
from expunge.vision.attacks._common import AttackSetting
from expunge.vision.evidence import EvidenceStore
from expunge.vision.subject import Subject
from expunge.vision.workload import Workload
from expunge.wing import Comparing


class Attack(Protocol):
    """A measurement under an adversary; its fields are its settings."""

    def run(self, subject: Subject, setting: AttackSetting) -> list[Reading]:
        """Attack copies of the subject and score what comes back."""
        ...


def audit_model(
    store: EvidenceStore,
    gold: EvidenceStore | None,
    workload: Workload,
    attacks: Mapping[str, Attack],
    *,
    seed: int,
    target: EvidenceStore | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> ModelAudit:
    """Measure one model.

    Args:
        store: Evidence of the model.
        gold: Evidence of the gold model, for the metrics that need it.
        workload: The benchmark's images and metrics.
        attacks: Name to attack.
        seed: Draws the attack's division of the forgotten identities, the same for every model.
        target: Evidence of the target, for the metrics that measure a change from it.
        progress: Told what is being measured.
    """
    audit = ModelAudit(
        name=store.name,
        weights=store.subject.weights_hash(),
        utility=float(np.mean(store.hits(utility_split(workload)))),
        degenerate=_degenerate(store),
    )
    for metric in workload.metrics:
        if metric.needs_gold and gold is None:
            continue
        progress(type(metric).__name__)
        audit.findings += metric.measure(store, gold)
        if target is not None and target is not store and isinstance(metric, Comparing):
            audit.findings += metric.compare(store, target)
    clusters = store.clusters("forget")
    rows = list(range(len(clusters)))
    scores = store.hits("forget")[None]
    audit.readings = [
        Reading(channel, "the images themselves", 0.0, rows, scores).plain(clusters)
        for channel in ("direct", "unattacked")
    ]
    groups = divide(clusters.tolist(), seed, ATTACKER_SHARE, DEV_SHARE)
    setting = AttackSetting(workload, seed, groups)
    for name, attack in attacks.items():
        progress(name)
        audit.readings += [r.plain(store.clusters(r.split)) for r in attack.run(store.subject, setting)]
    if "holdout" in workload.splits:
        audit.roc = _loss_roc(store)
    return audit


def utility_split(workload: Workload) -> str:
    """What the model should still be good at: people it never saw, where there are such; else what it kept."""
    return "test" if "test" in workload.splits else "retain"


def _degenerate(store: EvidenceStore) -> bool:
    """Whether nearly all forget images get one and the same answer, and their labels are not one and the same."""
    labels = store.labels("forget")
    if labels.ndim == 2 or len(np.unique(labels)) < 2:
        return False
    answers = store.logits("forget").argmax(1)
    return bool(np.bincount(answers).max() / len(answers) > 0.95)


def _loss_roc(store: EvidenceStore) -> dict[str, Any]:
    """The ROC curve of a loss threshold as plain data."""
    curve = roc_curve(-store.losses("forget"), -store.losses("holdout"))
    return {"fpr": curve.fpr.tolist(), "tpr": curve.tpr.tolist(), "detector": "loss"}
