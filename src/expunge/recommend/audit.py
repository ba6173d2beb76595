"""The audit of one recommender: metrics, attacks, and the readings the verdict rests on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch

from expunge.membership import roc_curve
from expunge.recommend.attacks._common import AttackSetting
from expunge.recommend.evidence import EvidenceStore, top_items
from expunge.recommend.subject import Subject
from expunge.recommend.workload import Workload
from expunge.report.assemble import ModelAudit
from expunge.report.readings import ATTACKER_SHARE, DEV_SHARE, Reading, divide
from expunge.wing import Comparing

ONE_LIST = 0.95  # share of users with one and the same recommendations that makes a model degenerate


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

    The score of a forgotten interaction is whether its item is among the first k of everything its user has not kept.
    ``direct`` asks what is served; ``unattacked`` and the attacks ask the weights, whatever is still offered.

    Args:
        store: Evidence of the model.
        gold: Evidence of the gold model, for the metrics that need it.
        workload: The benchmark's interactions and metrics.
        attacks: Name to attack.
        seed: Draws the attack's division of the forgotten users or items, the same for every model.
        target: Evidence of the target, for the metrics that measure a change from it.
        progress: Told what is being measured.
    """
    audit = ModelAudit(
        name=store.name,
        weights=store.subject.weights_hash(),
        utility=store.ranking("test", workload.k).mean("recall", workload.k),
        degenerate=_degenerate(store, workload.k),
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
    for channel, served in (("direct", True), ("unattacked", False)):
        scores = store.found("forget", workload.k, served=served)[None]
        audit.readings.append(Reading(channel, "the interactions themselves", 0.0, rows, scores).plain(clusters))
    groups = divide(clusters.tolist(), seed, ATTACKER_SHARE, DEV_SHARE)
    setting = AttackSetting(workload, seed, groups)
    for name, attack in attacks.items():
        progress(name)
        audit.readings += [r.plain(store.clusters(r.split)) for r in attack.run(store.subject, setting)]
    if len(store.interactions("holdout")):
        audit.roc = _score_roc(store)
    return audit


def _degenerate(store: EvidenceStore, k: int) -> bool:
    """Whether nearly all users are recommended one and the same items, before anything is left out."""
    lists = top_items(store, k)
    if len(lists) < 2:
        return False
    counts = torch.unique(lists, dim=0, return_counts=True)[1]
    return bool(counts.max() / len(lists) > ONE_LIST)


def _score_roc(store: EvidenceStore) -> dict[str, Any]:
    """The ROC curve of a threshold on the score as plain data."""
    curve = roc_curve(store.scores("forget"), store.scores("holdout"))
    return {"fpr": curve.fpr.tolist(), "tpr": curve.tpr.tolist(), "detector": "score"}
