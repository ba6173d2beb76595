"""The six query-based detectors of TDDBench by name: what they are given of a case, and how their cost is counted."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np

from expunge.membership.canary import CanarySettings, query_ref
from expunge.membership.case import Case
from expunge.membership.classifier import Classifier, Records, TorchClassifier
from expunge.membership.costs import Cost
from expunge.membership.evidence import models_cost
from expunge.membership.hopskipjump import BoundarySettings
from expunge.membership.learners import TorchLearner
from expunge.membership.quantile import LinearRegressor, NetworkRegressor, Regressor, TreeRegressor, query_qrm
from expunge.membership.query_based import Queried, query_adv, query_augment, query_neighbor, query_transfer
from expunge.membership.roster import Attack, Detector, Scored, needs_population, online_only


def _scored(attack: Attack, queried: Queried) -> Scored:
    """Questions were counted where they were asked; models trained are told."""
    attack.meter.charge(Cost(trainings=queried.trainings))
    attack.notes.extend(queried.notes)
    return Scored(queried.scores, queried.rows)


def _target(attack: Attack) -> Classifier:
    return attack.meter.counted(attack.case.target)


def _neighbor(attack: Attack) -> Scored:
    case = attack.case
    return _scored(attack, query_neighbor(
        _target(attack), case.records, seed=attack.seed("Query-neighbor"), queries=attack.limits.queries,
        neighbours=case.neighbours,
    ))  # fmt: skip


def _augment(attack: Attack) -> Scored:
    case, models = attack.case, attack.case.references
    reference = attack.meter.counted(models.classifier(0), attacked=False)
    attack.meter.charge(models_cost(models.seconds[:1], 0))
    return _scored(attack, query_augment(
        _target(attack), case.records, reference, case.data.take(case.pool), models.inside[0, case.pool],
        seed=attack.seed("Query-augment"), queries=attack.limits.queries, settings=attack.limits.network,
        neighbours=case.neighbours,
    ))  # fmt: skip


def _adv(attack: Attack) -> Scored:
    case, limits, seed = attack.case, attack.limits, attack.seed("Query-adv")
    n = len(case.audited)
    rows = np.sort(np.random.default_rng([seed, 1]).permutation(n)[: limits.boundary_records])
    settings = BoundarySettings(iterations=limits.boundary_iterations, evaluations=limits.boundary_evaluations)
    queried = query_adv(
        _target(attack), case.records, seed=seed, queries=limits.queries, rows=rows if len(rows) < n else None,
        limit=None, settings=settings, neighbours=case.neighbours,
    )  # fmt: skip
    return _scored(attack, queried)


def _transfer(attack: Attack) -> Scored:
    case = attack.case
    assert case.learner is not None
    learner = case.learner

    def train(records: Records, seed: int) -> Classifier:
        return attack.meter.counted(learner.fit(records, seed), attacked=False)

    return _scored(attack, query_transfer(
        _target(attack), case.records, case.data.take(case.pool), train, seed=attack.seed("Query-transfer")
    ))  # fmt: skip


def _qrm(attack: Attack) -> Scored:
    case = attack.case
    regressor, note = regressor_of(case, attack.limits.regressor_epochs)
    attack.notes.extend([note] if note else [])
    population = case.data.take(case.population)
    return _scored(attack, query_qrm(
        _target(attack), case.records, population, regressor, seed=attack.seed("Query-qrm")
    ))  # fmt: skip


def _ref(attack: Attack) -> Scored:
    case, limits, models = attack.case, attack.limits, attack.case.references
    chosen = [attack.meter.counted(models.classifier(m), attacked=False) for m in range(len(models))]
    attack.meter.charge(models_cost(models.seconds, 0))
    settings = CanarySettings(queries=limits.queries, steps=limits.canary_steps, together=limits.canary_records)
    return _scored(attack, query_ref(
        _target(attack), case.records, chosen, models.inside[:, case.audited], seed=attack.seed("Query-ref"),
        settings=settings,
    ))  # fmt: skip


def regressor_of(case: Case, epochs: int) -> tuple[Regressor, str]:
    """The regressor for the records of a case, and a remark.

    Images and texts: the architecture of the target. Features: boosted trees, or a line without scikit-learn.
    """
    learner = case.learner
    if case.data.kind in ("image", "text") and isinstance(learner, TorchLearner):
        return NetworkRegressor(learner.build, epochs=epochs, encode=learner.encode, device=learner.device), ""
    if find_spec("sklearn") is None:
        return LinearRegressor(), "a linear regressor, since scikit-learn is not installed"
    return TreeRegressor(), ""


# -- what they need -----------------------------------------------------------------------------------


def _similar_texts(case: Case) -> str:
    needed = case.data.kind == "text" and case.neighbours is None
    return "needs similar texts (neighbours)" if needed else ""


def _architecture(case: Case) -> str:
    return "" if case.learner is not None else "needs to know how a model like the target is trained"


def _regressed(case: Case) -> str:
    if reason := needs_population(case):
        return reason
    known = case.data.kind != "text" or isinstance(case.learner, TorchLearner)
    return "" if known else "needs a network for texts"


def _pixels(case: Case) -> str:
    if case.data.kind != "image":
        return "optimises pixels: for images only"
    if reason := online_only(case):
        return reason
    return "" if isinstance(case.references.classifier(0), TorchClassifier) else "needs the gradients of torch models"


QUERIES = (
    Detector("Query-neighbor", "query", _neighbor, (), _similar_texts),
    Detector("Query-augment", "query", _augment, (), _similar_texts),
    Detector("Query-adv", "query", _adv, (), _similar_texts),
    Detector("Query-transfer", "query", _transfer, (), _architecture),
    Detector("Query-qrm", "query", _qrm, (), _regressed),
    Detector("Query-ref", "query", _ref, (), _pixels),
)
