"""The detectors of TDDBench (Zhu et al. 2025, arXiv 2411.03363) by name: what each reads and how it scores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from expunge.membership import metric_based, model_based
from expunge.membership.attack_network import AttackSettings
from expunge.membership.case import Case
from expunge.membership.classifier import Floats, Ints
from expunge.membership.costs import Cost, Meter
from expunge.membership.evidence import Evidence, Taught, confidence, cross_entropy, of_references
from expunge.membership.learning_based import FEATURES, Features, learn, learning_score
from expunge.membership.references import References
from expunge.membership.robust import Population
from expunge.membership.signals import Signals

Paradigm = Literal["metric", "learning", "model", "query"]


@dataclass(frozen=True)
class Limits:
    """Settings of the detectors.

    Attributes:
        queries: Further queries Q for each record. Source: paper.
        network: Of the learning detectors and Query-augment. Source: reference code.
        gamma: Of RMIA. Source: reference code.
        a: Of RMIA where no reference model was trained on the audited records. Source: reference code.
        boundary_records: Records Query-adv looks at on images. Source: reference code.
        boundary_iterations: Iterations of HopSkipJump. Source: reference code.
        boundary_evaluations: Most evaluations in one iteration's gradient estimate. Source: reference code.
        regressor_epochs: Of the regression network of Query-qrm. Source: reference code.
        canary_steps: Steps of each query of Query-ref. Source: reference code.
        canary_records: Records whose canaries are optimised together. Source: ours.
    """

    queries: int = 10
    network: AttackSettings = field(default_factory=AttackSettings)
    gamma: float = 2.0
    a: float = 0.4
    boundary_records: int = 1000
    boundary_iterations: int = 50
    boundary_evaluations: int = 10_000
    regressor_epochs: int = 30
    canary_steps: int = 30
    canary_records: int = 256


@dataclass
class Attack:
    """What one detector works with.

    Attributes:
        case: The case.
        evidence: What it said it needs has been gathered.
        meter: Counts what it spends.
        limits: Settings.
        notes: Remarks for the reader, added by the detector.
    """

    case: Case
    evidence: Evidence
    meter: Meter
    limits: Limits
    notes: list[str] = field(default_factory=list)

    @property
    def answers(self) -> Signals:
        """The target on the audited records."""
        found: Signals = self.evidence["answers"]
        return found

    @property
    def phi(self) -> References:
        """The rescaled logit of the audited records under the reference models."""
        found: References = self.evidence["phi"]
        return found

    def trained(self) -> None:
        """Count one model that the detector trained itself."""
        self.meter.charge(Cost(trainings=1))

    def seed(self, name: str) -> int:
        """A seed for one detector."""
        return self.case.seed * 1000 + sum(map(ord, name))


@dataclass(frozen=True)
class Scored:
    """Scores of audited records.

    Attributes:
        scores: [k] higher = more like a member.
        rows: [k] which of the audited records; None for all of them.
    """

    scores: Floats
    rows: Ints | None = None


@dataclass(frozen=True)
class Detector:
    """One detector.

    Attributes:
        name: As in the paper.
        paradigm: What it stands on.
        score: Scores the audited records.
        needs: Evidence it reads.
        unfit: Why it does not apply to a case; empty where it does.
    """

    name: str
    paradigm: Paradigm
    score: Callable[[Attack], Scored]
    needs: tuple[str, ...] = ("answers",)
    unfit: Callable[[Case], str] = lambda case: ""


def metric(name: str, score: Callable[[Signals], Floats]) -> Detector:
    """A detector that reads the target's answers alone."""
    return Detector(name, "metric", lambda attack: Scored(score(attack.answers)))


def learning(name: str, features: Features) -> Detector:
    """A detector that learns from reference model 0."""

    def score(attack: Attack) -> Scored:
        taught: Taught = attack.evidence["taught"]
        network = learn(features, taught.signals, taught.inside, seed=attack.seed(name), settings=attack.limits.network)
        attack.trained()
        return Scored(learning_score(features, network, attack.answers))

    return Detector(name, "learning", score, ("answers", "taught"))


def _loss(attack: Attack) -> Scored:
    return Scored(model_based.model_loss(attack.answers.ce, of_references(attack.phi, cross_entropy)))


def _calibration(attack: Attack) -> Scored:
    return Scored(model_based.model_calibration(attack.answers.ce, of_references(attack.phi, cross_entropy)))


def _lira(attack: Attack) -> Scored:
    if not attack.case.online:
        attack.notes.append("offline: no reference model was trained on the audited records")
        return Scored(model_based.model_lira(attack.answers.rescaled, attack.phi, mode="offline"))
    return Scored(model_based.model_lira(attack.answers.rescaled, attack.phi, variance="pooled"))


def _fpr(attack: Attack) -> Scored:
    return Scored(model_based.model_fpr(attack.answers.rescaled, attack.phi, variance="record"))


def _robust(attack: Attack) -> Scored:
    case, evidence = attack.case, attack.evidence
    target: Signals = evidence["population answers"]
    population = Population(
        target.confidence, of_references(evidence["population phi"], confidence), case.population
    )  # fmt: skip
    if not case.online:
        attack.notes.append(f"offline with a = {attack.limits.a:g}: no reference model was trained on audited records")
    return Scored(
        model_based.model_robust(
            attack.answers.confidence, of_references(attack.phi, confidence), population, case.audited,
            mode="online" if case.online else "offline", a=attack.limits.a, gamma=attack.limits.gamma,
        )
    )  # fmt: skip


def online_only(case: Case) -> str:
    """Model-loss and Query-ref compare models that were trained on a record with models that were not."""
    return "" if case.online else "needs reference models trained on the audited records, and others"


def needs_population(case: Case) -> str:
    """RMIA and quantile regression look at records the target has not seen."""
    return "" if len(case.population) > 1 else "needs records the target was not trained on and that are not audited"


BASIC = (
    metric("Metric-loss", metric_based.metric_loss),
    metric("Metric-conf", metric_based.metric_conf),
    metric("Metric-corr", metric_based.metric_corr),
    metric("Metric-ent", metric_based.metric_ent),
    metric("Metric-ment", metric_based.metric_ment),
    *(learning(name, features) for name, features in FEATURES.items()),
    Detector("Model-loss", "model", _loss, ("answers", "phi"), online_only),
    Detector("Model-calibration", "model", _calibration, ("answers", "phi")),
    Detector("Model-lira", "model", _lira, ("answers", "phi")),
    Detector("Model-fpr", "model", _fpr, ("answers", "phi")),
    Detector(
        "Model-robust", "model", _robust, ("answers", "phi", "population answers", "population phi"), needs_population
    ),
)
