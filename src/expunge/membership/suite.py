"""All detectors of TDDBench on one case: one row each, with intervals, an honest threshold and what it cost.

A fitted scikit-learn estimator needs its training data, as many records it was not trained on, and how to fit more
of its kind. Reference models are trained on halves of these records and filed in a folder:

>>> from pathlib import Path
>>> from tempfile import mkdtemp
>>> from sklearn.ensemble import RandomForestClassifier
>>> from expunge.membership.case import audit_case
>>> from expunge.membership.classifier import Records, SklearnClassifier, TorchClassifier
>>> from expunge.membership.learners import SklearnLearner, TorchLearner, Training
>>> rng = np.random.default_rng(0)
>>> x, y = rng.normal(size=(160, 8)), rng.integers(2, size=160)
>>> member = np.arange(160) < 80
>>> forest = RandomForestClassifier(20, random_state=0).fit(x[member], y[member])
>>> more = SklearnLearner("forest", lambda seed: RandomForestClassifier(20, random_state=seed), classes=2)
>>> data = Records(x, y, "continuous", x.min(0), x.max(0))
>>> case = audit_case(SklearnClassifier(forest, 2), data, range(160), member, more, Path(mkdtemp()), models=4)
>>> loss, lira = run_suite(case, ["Metric-loss", "Model-lira"])
>>> loss.auroc.value > 0.8, loss.cost.trainings, lira.cost.trainings
(True, 0, 4)

Any torch module from records to logits goes the same way:

>>> import torch
>>> module = torch.nn.Linear(8, 2)  # as delivered
>>> more = TorchLearner("linear", lambda outputs: torch.nn.Linear(8, outputs), 2, Training(epochs=3))
>>> case = audit_case(TorchClassifier(module, classes=2), data, range(160), member, more, Path(mkdtemp()), models=4)
>>> [row.name for row in run_suite(case, ["Query-adv", "Query-ref"]) if row.status == "measured"]
['Query-adv']
>>> len(ALL)
21
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from expunge.errors import ExpungeError, InputError, nearest
from expunge.membership.case import Case
from expunge.membership.classifier import Floats, Ints
from expunge.membership.costs import Cost, Meter
from expunge.membership.curves import auroc_interval
from expunge.membership.evidence import Evidence
from expunge.membership.resolution import LowRate, resolution, tpr_at_low_fpr
from expunge.membership.roster import BASIC, Attack, Detector, Limits, Paradigm, Scored
from expunge.membership.roster_queries import QUERIES
from expunge.membership.thresholds import DecisionRates, PublishedRates, calibrated_threshold, published_rates, rates_at
from expunge.report.statistics import Interval

DETECTORS: Mapping[str, Detector] = {detector.name: detector for detector in (*BASIC, *QUERIES)}
ALL = tuple(DETECTORS)
LEVELS = (0.01, 0.001)
Status = Literal["measured", "not-applicable", "failed"]


@dataclass(frozen=True, eq=False)
class Detection:
    """What one detector found in one case.

    Attributes:
        name: As in the paper.
        paradigm: What it stands on.
        status: Whether there are numbers.
        notes: Why there are none, or what a reader should know about them.
        auroc: With its 95% interval over clusters; 0.5 is guessing.
        tpr: True positive rate at a low false positive rate, by that rate, where the non-members resolve it.
        published: The papers' numbers, whose threshold is chosen on the labels it is judged by.
        calibrated: Rates at a threshold chosen on a reference model in the place of the target; None where no
            reference model can be spared.
        members: Audited members that were scored.
        nonmembers: Non-members that were scored.
        comparable: Whether all audited records were scored, as other detectors do.
        cost: What it took, evidence and reference models included.
        scores: [k] of the audited records.
        rows: [k] which of the audited records.
    """

    name: str
    paradigm: Paradigm
    status: Status
    notes: tuple[str, ...] = ()
    auroc: Interval | None = None
    tpr: Mapping[float, LowRate] = field(default_factory=dict)
    published: PublishedRates | None = None
    calibrated: DecisionRates | None = None
    members: int = 0
    nonmembers: int = 0
    comparable: bool = True
    cost: Cost = field(default_factory=Cost)
    scores: Floats | None = None
    rows: Ints | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data without the scores; what is not finite is None."""
        low = {f"{level:g}": {"value": r.value, "low": r.low, "high": r.high} for level, r in self.tpr.items()}
        published = None
        if self.published is not None:
            published = {**self.published._asdict(), "best": self.published.best._asdict()}
        plain = {
            "name": self.name, "paradigm": self.paradigm, "status": self.status, "notes": list(self.notes),
            "auroc": None if self.auroc is None else self.auroc._asdict(), "tpr_at_fpr": low, "published": published,
            "calibrated": None if self.calibrated is None else self.calibrated._asdict(), "members": self.members,
            "nonmembers": self.nonmembers, "comparable": self.comparable, "cost": asdict(self.cost),
        }  # fmt: skip
        finite: dict[str, Any] = _finite(plain)
        return finite


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def run_suite(
    case: Case,
    detectors: Iterable[str] = ALL,
    *,
    limits: Limits | None = None,
    thresholds: Mapping[str, float] | None = None,
    draws: int = 1000,
    tell: Callable[[Detection], None] | None = None,
) -> list[Detection]:
    """Run detectors on a case.

    Args:
        case: The case.
        detectors: Names; all by default.
        limits: Settings of the detectors.
        thresholds: From `calibrate`, for cases that share reference models and audited records; None to calibrate
            here, which runs each detector a second time. An empty mapping leaves it out.
        draws: Resamples of each interval.
        tell: Called with every row when it is finished.

    Returns:
        One row for each name, in their order. A detector that does not apply, or that stops with a sentence, gets a
        row that says so.

    Raises:
        InputError: No such detector.
    """
    chosen, limits = [find_detector(name) for name in detectors], limits or Limits()
    if thresholds is None:
        thresholds = calibrate(case, [d.name for d in chosen], limits=limits)
    evidence, rows = Evidence(case), []
    for detector in chosen:
        row = _row(detector, case, evidence, limits, thresholds.get(detector.name), draws)
        rows.append(row)
        if tell is not None:
            tell(row)
    return rows


def calibrate(case: Case, detectors: Iterable[str] = ALL, *, limits: Limits | None = None) -> dict[str, float]:
    """A threshold for each detector, chosen on a reference model in the place of the target.

    That model's training data is known to the attacker, so the threshold with the best balanced accuracy on it can
    be found without looking at the target's members. It and its partner are left out of the references.

    Returns:
        Thresholds by name: a record is called a member when its score reaches it. Detectors that do not apply to the
        case, or that fail on it, are left out; so are all where no reference model can be spared.
    """
    stand_in = case.stand_in()
    found: dict[str, float] = {}
    if stand_in is None:
        return found
    evidence = Evidence(stand_in)
    for name in detectors:
        detector = find_detector(name)
        if detector.unfit(stand_in):
            continue
        try:
            scored, _, _ = _attacked(detector, stand_in, evidence, limits or Limits())
            member = stand_in.member if scored.rows is None else stand_in.member[scored.rows]
            found[name] = calibrated_threshold(scored.scores[None], member[None]).threshold
        except ExpungeError:
            continue  # the row of the target itself says what is wrong
    return found


def find_detector(name: str) -> Detector:
    """A detector by name; case makes no difference.

    Raises:
        InputError: No such detector.
    """
    known = {key.lower(): detector for key, detector in DETECTORS.items()}
    if name.lower() not in known:
        raise InputError(f"Unknown detector {name!r}.{nearest(name, ALL)}")
    return known[name.lower()]


def _attacked(detector: Detector, case: Case, evidence: Evidence, limits: Limits) -> tuple[Scored, Cost, list[str]]:
    """Scores, what they cost with the evidence they rest on, and the detector's remarks."""
    shared = [evidence.gather(name) for name in detector.needs]
    with Meter() as meter:
        attack = Attack(case, evidence, meter, limits)
        scored = detector.score(attack)
    return scored, sum(shared, meter.cost), attack.notes


def _row(
    detector: Detector, case: Case, evidence: Evidence, limits: Limits, threshold: float | None, draws: int
) -> Detection:
    if reason := detector.unfit(case):
        return Detection(detector.name, detector.paradigm, "not-applicable", (reason,))
    try:
        scored, cost, notes = _attacked(detector, case, evidence, limits)
        return judged(detector, case, scored, cost, notes, threshold, draws)
    except ExpungeError as error:
        return Detection(detector.name, detector.paradigm, "failed", (" ".join(str(error).split()),))


def judged(
    detector: Detector, case: Case, scored: Scored, cost: Cost, notes: list[str], threshold: float | None, draws: int
) -> Detection:
    """The row of some scores."""
    n = len(case.audited)
    rows = np.arange(n) if scored.rows is None else scored.rows
    if scored.scores.shape != rows.shape:
        raise InputError(f"{detector.name} gave scores of shape {scored.scores.shape} for {len(rows)} records.")
    member = case.member[rows]
    clusters = rows if case.clusters is None else case.clusters[rows]
    published = published_rates(scored.scores, member)
    sides = [(scored.scores[side], clusters[side]) for side in (member, ~member)]
    (inside, a), (outside, b) = sides
    low: dict[float, LowRate] = {}
    told = list(notes)
    for level in LEVELS:
        limit = resolution(len(outside), level)
        if limit.least <= level + 1e-12:
            low[level] = tpr_at_low_fpr(inside, outside, level, a, b, draws=draws)
        told += [limit.note] if limit.note else []
    if len(rows) < n and not any("not comparable" in note for note in told):
        told.append(f"{len(rows)} of {n} audited records only: not comparable with the other rows")
    return Detection(
        detector.name, detector.paradigm, "measured", tuple(told),
        auroc_interval(inside, outside, a, b, draws=draws), low, published,
        None if threshold is None else rates_at(threshold, scored.scores, member),
        len(inside), len(outside), len(rows) == n, cost, scored.scores, rows,
    )  # fmt: skip
