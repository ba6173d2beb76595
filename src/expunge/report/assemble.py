"""From the audits of single models to one scorecard: everything as a distance to gold.

An audit of one model knows nothing of the others, so audits can be made, killed and resumed one by one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from expunge.report.gaps import normalised_gaps
from expunge.report.paired import paired_change
from expunge.report.scorecard import ChannelEvidence, Evidence, Finding, Scorecard
from expunge.report.statistics import cluster_bootstrap

# Channels scored as behaviour; all others are scored as the attacks score facts.
BEHAVIOUR = ("direct", "paraphrase")
GOLDS = ("gold", "gold_2")
# What an attack channel's reading is called among the findings.
FINDING_OF = {
    "relearn": "relearning.held_out_accuracy",
    "benign-relearn": "benign_relearning.accuracy",
    "quantise-8": "quantise_8.accuracy",
    "quantise-4": "quantise_4.accuracy",
}
CURVE_OF = {"relearn": "relearning", "benign-relearn": "benign_relearning"}


@dataclass(frozen=True)
class ChannelReading:
    """Scores of the forget facts of one model under one attack of one strength.

    Attributes:
        channel: The evidence channel; ``unattacked`` is the attack score without an attack.
        budget: Strength in words.
        strength: Strength as a number.
        clusters: Cluster number of each scored fact (a person, an author...).
        scores: Score of each fact in [0, 1], mean over the attack seeds.
        dev_score: Mean score on the clusters kept for choosing the strength.
        seeds: Attack seeds behind it.
    """

    channel: str
    budget: str
    strength: float
    clusters: list[int]
    scores: list[float]
    dev_score: float | None = None
    seeds: int = 1

    def by_cluster(self) -> dict[int, float]:
        """Mean score of each cluster."""
        ids, scores = np.array(self.clusters), np.array(self.scores)
        return {int(c): float(scores[ids == c].mean()) for c in np.unique(ids)}


@dataclass(frozen=True)
class TaskReading:
    """One model on one task of a test suite, question by question.

    Attributes:
        task: Name of the task.
        metric: What was scored.
        higher: Whether more is better.
        values: [n] score of each question.
        keep: Whether it asks for something the model should keep.
        about: What the numbers depend on besides the model: versions, examples in the prompt, prompt form.
    """

    task: str
    metric: str
    higher: bool
    values: list[float]
    keep: bool = True
    about: dict[str, Any] = field(default_factory=dict)


@dataclass
class ModelAudit:
    """Everything measured on one model; plain data, kept as JSON so that a run can resume."""

    name: str
    weights: str
    utility: float
    degenerate: bool
    findings: list[Finding] = field(default_factory=list)
    readings: list[ChannelReading] = field(default_factory=list)
    truth_ratio: list[float] = field(default_factory=list)
    roc: dict[str, Any] = field(default_factory=dict)
    tasks: list[TaskReading] = field(default_factory=list)

    def save(self, path: Path) -> None:
        """Write as JSON, atomically."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(asdict(self)), encoding="utf-8")
        temporary.replace(path)

    @classmethod
    def load(cls, path: Path) -> ModelAudit:
        """Read one back."""
        raw = json.loads(path.read_text(encoding="utf-8"))
        raw["findings"] = [Finding(**f) for f in raw["findings"]]
        raw["readings"] = [ChannelReading(**r) for r in raw["readings"]]
        raw["tasks"] = [TaskReading(**t) for t in raw.get("tasks", [])]
        return cls(**raw)

    def reading(self, channel: str, budget: str | None = None) -> ChannelReading | None:
        """The reading of a channel at a budget (the first one if no budget is named)."""
        found = (r for r in self.readings if r.channel == channel and budget in (None, r.budget))
        return next(found, None)


def assemble(
    audits: Mapping[str, ModelAudit],
    intentions: Mapping[str, str],
    *,
    seed: int = 0,
    draws: int = 1000,
    tolerance: float = 0.02,
) -> Scorecard:
    """Put the audits of one run together.

    Args:
        audits: Model name to audit. ``target``, ``gold``, ``gold_2`` and ``control`` may be among them;
            what is missing caps the verdict.
        intentions: Method name to what its authors claim.
        seed: Of the bootstrap.
        draws: Bootstrap draws.
        tolerance: Largest drop on a test suite that counts as kept.
    """
    card = Scorecard()
    budgets = _deciding_budgets(audits)
    for audit in audits.values():
        card.findings += audit.findings + _attack_findings(audit, budgets, seed, draws)
    card.gaps = normalised_gaps(card.findings)
    card.curves = _curves(audits, seed, draws)
    card.curves["suite"] = _suite(audits, tolerance, seed, draws)
    golds, target = [audits[g] for g in GOLDS if g in audits], audits.get("target")
    known = target.reading("unattacked") if target else None
    if golds and target and known:
        card.gap = _gap(target, golds, "unattacked", known.by_cluster())
    for name, audit in audits.items():
        if name == "target":
            continue
        others = [g for g in golds if g.name != name] or golds  # gold is held against the spare seed
        card.evidence[name] = Evidence(
            channels=_channels(audit, target, others, budgets) if target else [],
            weights_equal_target=target is not None and audit.weights == target.weights,
            utility_ratio=audit.utility / target.utility if target and target.utility else float("nan"),
            degenerate=audit.degenerate and not (target and target.degenerate),
            intention=intentions.get(name, ""),
        )
    return card


def _deciding_budgets(audits: Mapping[str, ModelAudit]) -> dict[str, str]:
    """The budget each channel is judged at: the one that brings most back of the control, on the clusters
    kept for this choice (never on those that are scored); the largest where there is no control.
    """
    chosen: dict[str, tuple[float, float, str]] = {}
    judge = audits.get("control")
    for reading in (judge or next(iter(audits.values()))).readings:
        if reading.channel in (*BEHAVIOUR, "unattacked"):
            continue
        merit = reading.dev_score if judge is not None and reading.dev_score is not None else 0.0
        rank = (merit, reading.strength, reading.budget)
        if reading.channel not in chosen or rank[:2] > chosen[reading.channel][:2]:
            chosen[reading.channel] = rank
    return {channel: budget for channel, (_, _, budget) in chosen.items()}


def _channels(
    audit: ModelAudit, target: ModelAudit, golds: list[ModelAudit], budgets: Mapping[str, str]
) -> list[ChannelEvidence]:
    """Excess over gold, cluster by cluster, of every channel at its deciding budget."""
    channels = []
    for reading in audit.readings:
        if reading.channel == "unattacked" or not golds:
            continue
        if budgets.get(reading.channel, reading.budget) != reading.budget:
            continue
        own = reading.by_cluster()
        same = [r.by_cluster() for g in golds if (r := g.reading(reading.channel, reading.budget)) is not None]
        if not same:
            continue
        score = reading.channel if reading.channel in BEHAVIOUR else "unattacked"
        sizes = np.bincount(reading.clusters)
        channels.append(
            ChannelEvidence(
                channel=reading.channel,
                budget=reading.budget,
                excess=[own[c] - float(np.mean([s[c] for s in same])) for c in own],
                sizes=[int(sizes[c]) for c in own],
                gap=_gap(target, golds, score, own),
            )
        )
    return channels


def _gap(target: ModelAudit, golds: list[ModelAudit], channel: str, clusters: Mapping[int, float]) -> list[float]:
    """The original knowledge: the target's score minus gold's mean score, on some clusters."""
    reading = target.reading(channel)
    others = [r.by_cluster() for g in golds if (r := g.reading(channel)) is not None]
    if reading is None:
        return []
    own = reading.by_cluster()
    return [own[c] - float(np.mean([o[c] for o in others])) for c in clusters]


def _attack_findings(audit: ModelAudit, budgets: Mapping[str, str], seed: int, draws: int) -> list[Finding]:
    findings = []
    for channel, metric in FINDING_OF.items():
        reading = audit.reading(channel, budgets.get(channel))
        if reading is not None:
            value, low, high = _interval(reading, seed, draws)
            findings.append(Finding(metric, "forget", audit.name, value, low, high, len(reading.scores), "match-gold"))
    return findings


def _interval(reading: ChannelReading, seed: int, draws: int) -> tuple[float, float, float]:
    scores: NDArray[np.float64] = np.array(reading.scores)
    interval = cluster_bootstrap(scores, np.array(reading.clusters), seed=seed, draws=draws)
    return interval.value, interval.low, interval.high


def _suite(audits: Mapping[str, ModelAudit], tolerance: float, seed: int, draws: int) -> dict[str, Any]:
    """Each task of the test suite: every model's mean, and its paired change from the target."""
    target = audits.get("target")
    before = {(t.task, t.metric): t for t in target.tasks} if target else {}
    rows = []
    for name, audit in audits.items():
        for t in audit.tasks:
            row: dict[str, Any] = {
                "task": t.task, "metric": t.metric, "model": name, "value": float(np.mean(t.values)),
                "n": len(t.values), "higher": t.higher, "about": t.about,
            }  # fmt: skip
            first = before.get((t.task, t.metric))
            if first is not None and name != "target" and t.keep:
                change = paired_change(first.values, t.values, tolerance, higher=t.higher, seed=seed, draws=draws)
                row["change"] = change.to_dict()
            rows.append(row)
    return {"tolerance": tolerance, "rows": rows} if rows else {}


def _curves(audits: Mapping[str, ModelAudit], seed: int, draws: int) -> dict[str, Any]:
    curves: dict[str, Any] = {
        "truth_ratio": {n: a.truth_ratio for n, a in audits.items() if a.truth_ratio},
        "roc": {n: a.roc for n, a in audits.items() if a.roc},
    }
    for channel, name in CURVE_OF.items():
        curves[name] = {}
        for model, audit in audits.items():
            readings = [r for r in audit.readings if r.channel == channel]
            if readings:
                intervals = [_interval(r, seed, draws) for r in readings]
                curves[name][model] = {
                    "step": [r.strength for r in readings],
                    "held_out": [i[0] for i in intervals],
                    "low": [i[1] for i in intervals],
                    "high": [i[2] for i in intervals],
                }
    return curves
