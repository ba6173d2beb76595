"""The audit of one language model: metrics, attacks, and the readings the verdict rests on."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from expunge.language.attacks._common import AttackSetting, Reading, answer_hits, fact_scores
from expunge.language.evidence import EvidenceStore
from expunge.language.harness_suite import Suite, run_suite
from expunge.language.metrics.membership import Membership, loss_roc
from expunge.language.metrics.reference_membership import reference_metric
from expunge.language.metrics.rouge import rouge_l_recall
from expunge.language.metrics.truth_ratio import truth_ratios
from expunge.language.references import ReferenceEvidence
from expunge.language.subject import Subject
from expunge.language.workload import Placing, Workload, divide_clusters
from expunge.report.assemble import ModelAudit
from expunge.report.readings import ATTACKER_SHARE, DEV_SHARE
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
    suite: Suite | None = None,
    references: ReferenceEvidence | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> ModelAudit:
    """Measure one model.

    Args:
        store: Evidence of the model.
        gold: Evidence of the gold model, for the metrics that need it.
        workload: The benchmark's data and metrics.
        attacks: Name to attack.
        seed: Draws the attack's division of the forget clusters, the same for every model.
        target: Evidence of the target, for the metrics that measure a change from it.
        suite: Tasks of lm-evaluation-harness to run as well.
        references: Scores of reference models, for the membership attacks that need them.
        progress: Told what is being measured.
    """
    audit = ModelAudit(
        name=store.name,
        weights=store.subject.weights_hash(),
        utility=_utility(store, workload),
        degenerate=_degenerate(store),
    )
    for metric in workload.metrics:
        if metric.needs_gold and gold is None:
            continue
        progress(type(metric).__name__)
        audit.findings += metric.measure(store, gold)
        if target is not None and target is not store and isinstance(metric, Comparing):
            audit.findings += metric.compare(store, target)
        if target is not None and gold is not None and isinstance(metric, Placing):
            audit.findings += metric.place(store, target, gold)
    if references is not None:
        progress("reference models")
        audit.findings += reference_metric(workload.metrics).refer(store, references)
    audit.readings = [r.plain(store.clusters(r.split)) for r in _direct(store, workload)]
    groups = divide_clusters(workload.splits["forget"], seed, ATTACKER_SHARE, DEV_SHARE)
    setting = AttackSetting(workload, seed, groups)
    for name, attack in attacks.items():
        progress(name)
        audit.readings += [r.plain(store.clusters(r.split)) for r in attack.run(store.subject, setting)]
    if suite is not None and suite.tasks:
        progress("lm-evaluation-harness")
        found, audit.tasks = run_suite(store.subject, store.name, workload.splits, suite, seed)
        audit.findings += found
    if all(r.perturbed_answers for r in workload.splits["forget"]):
        audit.truth_ratio = truth_ratios(store, "forget").tolist()
    if "holdout" in workload.splits:
        audit.roc = loss_roc(store)
    return audit


def audit_notes(workload: Workload) -> list[str]:
    """What the reader of the findings should know about the splits they were measured on.

    Raises:
        InputError: A record among the members is among the non-members too.
    """
    notes: list[str] = []
    for metric in workload.metrics:
        if isinstance(metric, Membership):
            metric.check(workload.splits)
            notes += metric.notes(workload.splits)
    return list(dict.fromkeys(notes))


def _direct(store: EvidenceStore, workload: Workload) -> list[Reading]:
    """Direct questions: as behaviour (what the model answers), and by the score the attacks use."""
    records = workload.splits["forget"]
    rows = list(range(len(records)))
    kinds = {"direct": workload.behaviour, "unattacked": workload.attack_score}
    return [
        Reading(channel, "trained wordings", 0.0, rows, _split_scores(store, "forget", kind, workload)[None])
        for channel, kind in kinds.items()
    ]


def _split_scores(store: EvidenceStore, split: str, kind: Any, workload: Workload) -> Any:
    """Scores of a split from stored evidence where it holds them."""
    if kind in ("exact", "token"):
        return answer_hits(store.answers(split), kind)
    if kind == "rouge":
        return rouge_l_recall([r.answer for r in store.records(split)], store.generations(split))
    return fact_scores(store.subject, store.records(split), kind, workload.max_new_tokens)


def _utility(store: EvidenceStore, workload: Workload) -> float:
    """Mean behaviour score on the retain split; NaN without one."""
    if "retain" not in workload.splits:
        return float("nan")
    return float(np.mean(_split_scores(store, "retain", workload.behaviour, workload)))


def _degenerate(store: EvidenceStore) -> bool:
    """Whether most answers to forget questions are empty or repeat themselves."""
    asked = [r for r in store.records("forget") if r.question]
    if not asked:
        return False
    return bool(np.mean([is_degenerate(text) for text in store.generations("forget")]) > 0.5)


def is_degenerate(text: str) -> bool:
    """Whether a text is empty or mostly repeats its own word pairs.

    >>> is_degenerate("the the the the the the the the"), is_degenerate("Paris"), is_degenerate("")
    (True, False, True)
    """
    words = text.split()
    if not words:
        return True
    pairs = list(itertools.pairwise(words))
    return len(pairs) >= 5 and len(set(pairs)) / len(pairs) < 0.4
