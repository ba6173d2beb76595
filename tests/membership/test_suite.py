"""All detectors on one case: they find what a model knows by heart, nothing in one that never saw it, and say so."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from expunge.errors import InputError
from expunge.membership.attack_network import AttackSettings
from expunge.membership.case import Case, HeldModels, audit_case, tddbench_case
from expunge.membership.classifier import Records, SklearnClassifier, TorchClassifier
from expunge.membership.curves import tpr_at_fpr
from expunge.membership.learners import SklearnLearner, TorchLearner, Training, TrainOn
from expunge.membership.roster import Limits
from expunge.membership.suite import ALL, Detection, calibrate, run_suite
from tiny_detection import division, memorised, never_seen

LIMITS = Limits(
    boundary_records=60, boundary_iterations=3, boundary_evaluations=60, canary_steps=12,
    network=AttackSettings(epochs=120),
)  # fmt: skip


@lru_cache(maxsize=2)
def rows_of(make: Any) -> dict[str, Detection]:
    """All detectors; of the memorised case with thresholds from the stand-in."""
    thresholds = None if make is memorised else {}
    return {row.name: row for row in run_suite(make(), limits=LIMITS, thresholds=thresholds, draws=200)}


@pytest.mark.parametrize("name", [name for name in ALL if name != "Query-neighbor"])
def test_every_detector_finds_what_a_model_knows_by_heart(name: str) -> None:
    row = rows_of(memorised)[name]
    assert row.status == "measured", row.notes
    assert row.auroc is not None
    assert row.auroc.low > 0.5
    assert row.auroc.low <= row.auroc.value <= row.auroc.high


class Kernel(nn.Module):
    """Remembers its records: a class is likely near those of the class; far from all records none is."""

    def __init__(self, data: Records) -> None:
        super().__init__()
        self.known = torch.tensor(np.asarray(data.inputs)).flatten(1)
        self.labels = torch.tensor(data.labels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        near = -((x.double().flatten(1)[:, None] - self.known) ** 2).sum(-1) / 0.1
        every = [near.masked_fill(self.labels != y, -1e3).logsumexp(1) for y in range(20)]
        return torch.stack(every, 1).logaddexp(torch.tensor(-20.0))


def test_neighbours_find_the_dips_of_a_loss() -> None:
    """Noise moves a remembered record away from where it is remembered, and any other record nowhere in particular.

    Networks of straight pieces have no dips at their records, and there the detector does find next to nothing.
    """
    case = memorised()
    model = TorchClassifier(Kernel(case.data.take(case.audited[case.member])), classes=20)
    (row,) = run_suite(replace(case, target=model), ["Query-neighbor"], thresholds={}, draws=100)
    assert row.auroc is not None
    assert row.auroc.low > 0.6
    assert row.cost.queries == 11 * len(case.audited)


@pytest.mark.parametrize("name", ALL)
def test_no_detector_finds_anything_in_a_model_that_never_saw_the_data(name: str) -> None:
    row = rows_of(never_seen)[name]
    assert row.auroc is not None
    assert row.auroc.low <= 0.5 <= row.auroc.high
    assert abs(row.auroc.value - 0.5) <= 3 / np.sqrt(6 * min(row.members, row.nonmembers))


@pytest.mark.parametrize("name", ALL)
def test_permuted_memberships_leave_nothing(name: str) -> None:
    """No detector may look at the answers: with other answers the same scores come out, and AUROC is 0.5."""
    row = permuted()[name]
    assert row.auroc is not None
    assert abs(row.auroc.value - 0.5) <= 3 / np.sqrt(6 * min(row.members, row.nonmembers))
    np.testing.assert_array_equal(row.scores, rows_of(memorised)[name].scores)


@lru_cache(maxsize=1)
def permuted() -> dict[str, Detection]:
    case = memorised()
    shuffled = np.random.default_rng(3).permutation(case.member)
    return {row.name: row for row in run_suite(replace(case, member=shuffled), limits=LIMITS, thresholds={}, draws=20)}


@pytest.mark.parametrize("name", ["Model-lira", "Model-robust"])
def test_reference_models_pay_at_a_low_false_positive_rate(name: str) -> None:
    case, rows = memorised(), rows_of(memorised)

    def low(row: Detection) -> float:
        assert row.scores is not None
        return tpr_at_fpr(row.scores[case.member], row.scores[~case.member], 0.02)

    assert low(rows[name]) >= low(rows["Metric-loss"])


def test_thresholds_are_found_without_the_answers() -> None:
    rows = rows_of(memorised)
    for row in rows.values():
        assert row.calibrated is not None
        assert row.published is not None
        assert row.calibrated.accuracy <= row.published.best.accuracy + 1e-12
    assert rows["Metric-loss"].calibrated.accuracy > 0.65  # type: ignore[union-attr]
    flipped = replace(memorised(), member=~memorised().member)
    names = ["Metric-loss", "Model-lira", "Learn-top3"]
    assert calibrate(flipped, names) == calibrate(memorised(), names)


def test_costs_are_what_was_done() -> None:
    rows, n = rows_of(memorised), len(memorised().audited)
    z = len(memorised().population)
    cost = {name: row.cost for name, row in rows.items()}
    assert (cost["Metric-loss"].queries, cost["Metric-loss"].trainings) == (n, 0)
    assert (cost["Learn-sorted"].trainings, cost["Learn-sorted"].other_queries) == (2, n)
    assert (cost["Model-lira"].trainings, cost["Model-lira"].other_queries) == (8, 8 * n)
    assert (cost["Model-robust"].queries, cost["Model-robust"].trainings) == (n + z, 16)
    assert cost["Query-neighbor"].queries == cost["Query-augment"].queries == 11 * n
    assert (cost["Query-transfer"].queries, cost["Query-transfer"].trainings) == (n, 1)
    assert (cost["Query-qrm"].queries, cost["Query-qrm"].trainings) == (n + z, 1)
    assert 60 * 60 < cost["Query-adv"].queries < 60 * 1000
    ref = cost["Query-ref"]
    assert (ref.queries, ref.other_queries, ref.gradients, ref.trainings) == (10 * n, 80 * n, 2 * 12 * 10 * n, 8)
    assert cost["Model-lira"].training_seconds == pytest.approx(division().references.seconds.sum())
    assert all(c.seconds > 0 for c in cost.values())


def test_low_rates_are_given_where_the_non_members_carry_them() -> None:
    row = rows_of(memorised)["Metric-loss"]
    assert list(row.tpr) == [0.01]
    assert any("FPR 0.01 the threshold rests on 1 of 150" in note for note in row.notes)
    assert any("FPR 0.001 cannot be measured on 150" in note for note in row.notes)


def test_rows_are_plain_data() -> None:
    plain = rows_of(memorised)["Model-lira"].to_dict()
    again = json.loads(json.dumps(plain, allow_nan=False))
    assert again == plain
    assert plain["tpr_at_fpr"]["0.01"]["low"] <= plain["tpr_at_fpr"]["0.01"]["high"]
    assert set(plain["published"]["best"]) >= {"accuracy", "precision", "recall", "f1", "fnr", "fpr", "advantage"}


def test_a_subset_is_marked() -> None:
    rows = rows_of(memorised)
    assert [name for name, row in rows.items() if not row.comparable] == ["Query-adv"]
    assert rows["Query-adv"].members + rows["Query-adv"].nonmembers == 60
    assert "60 of 300 records: not comparable" in rows["Query-adv"].notes[0]
    assert sum("not comparable" in note for note in rows["Query-adv"].notes) == 1


def test_clusters_widen_the_interval() -> None:
    """Every record twice, as two records of one person: the same AUROC, an interval as if half as many were there."""
    case = memorised()
    some = replace(case, audited=case.audited[:40], member=case.member[:40], clusters=np.arange(40) // 8)
    (grouped,) = run_suite(some, ["Metric-loss"], thresholds={})
    (alone,) = run_suite(replace(some, clusters=None), ["Metric-loss"], thresholds={})
    assert grouped.auroc is not None
    assert alone.auroc is not None
    assert grouped.auroc.value == alone.auroc.value
    assert grouped.auroc[1:] != alone.auroc[1:]


def test_names_and_order() -> None:
    rows = run_suite(memorised(), ["metric-ENT", "Metric-loss"], thresholds={}, draws=10)
    assert [row.name for row in rows] == ["Metric-ent", "Metric-loss"]
    with pytest.raises(InputError, match="Did you mean 'Metric-loss'"):
        run_suite(memorised(), ["Metric-los"])


def test_detectors_that_do_not_apply_say_why() -> None:
    case = memorised()
    offline = replace(case, references=HeldModels(
        [case.references.classifier(0)] * 2, np.zeros((2, len(case.data)), bool), case.data
    ))  # fmt: skip
    rows = {row.name: row for row in run_suite(offline, ["Model-loss", "Model-lira", "Model-robust"], draws=10)}
    assert rows["Model-loss"].status == "not-applicable"
    assert "needs reference models trained on the audited records" in rows["Model-loss"].notes[0]
    assert rows["Model-lira"].status == rows["Model-robust"].status == "measured"
    assert rows["Model-lira"].notes[0].startswith("offline")
    assert rows["Model-lira"].calibrated is None
    alone = replace(case, population=np.zeros(0, dtype=np.int64))
    (row,) = run_suite(alone, ["Model-robust"], thresholds={}, draws=10)
    assert (row.status, row.auroc, row.cost.seconds) == ("not-applicable", None, 0.0)


def test_a_detector_that_stops_is_one_row() -> None:
    case = memorised()
    untaught = replace(case, references=HeldModels(
        [case.references.classifier(0)] * 2, np.ones((2, len(case.data)), bool), case.data
    ))  # fmt: skip
    learn, loss = run_suite(untaught, ["Learn-top3", "Metric-loss"], thresholds={}, draws=10)
    assert learn.status == "failed"
    assert "0 non-members are too few" in learn.notes[0]
    assert loss.status == "measured"


# -- a model of one's own -----------------------------------------------------------------------------


def test_an_overfit_mlp_on_random_labels(tmp_path: Path) -> None:
    """200 points with random labels against 200 fresh ones; the same network before its first step knows nothing."""
    rng = np.random.default_rng(0)
    data = Records(rng.normal(size=(400, 40)), rng.integers(10, size=400), "continuous", -5.0, 5.0)
    build = lambda outputs: nn.Sequential(nn.Linear(40, 128), nn.ReLU(), nn.Linear(128, outputs))  # noqa: E731
    learner = TorchLearner("mlp", build, 10, Training(epochs=60, lr=0.01, batch=50, weight_decay=0.0))
    rows = np.arange(400)

    def loss_auroc(model: TorchClassifier) -> Detection:
        held = HeldModels([model] * 2, np.zeros((2, 400), bool), data)
        case = Case(model, data, rows, rows < 200, held, np.zeros(0, dtype=np.int64))
        return run_suite(case, ["Metric-loss"], thresholds={})[0]

    trained = loss_auroc(TrainOn(learner, data)(rows[:200], 0)).auroc  # type: ignore[arg-type]
    torch.manual_seed(0)
    untrained = loss_auroc(TorchClassifier(build(10), classes=10)).auroc
    assert trained is not None
    assert untrained is not None
    assert trained.value > 0.95
    assert abs(untrained.value - 0.5) <= 3 / np.sqrt(6 * 200)
    assert untrained.low <= 0.5 <= untrained.high


def test_a_fitted_estimator(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    from sklearn.datasets import load_breast_cancer
    from sklearn.ensemble import RandomForestClassifier

    x, y = load_breast_cancer(return_X_y=True)
    y = np.where(np.random.default_rng(0).random(len(y)) < 0.3, 1 - y, y)  # something only memory can know

    def fit(seed: int) -> RandomForestClassifier:
        return RandomForestClassifier(30, random_state=seed)

    member = np.arange(len(y)) < 200
    estimator = fit(0).fit(x[member], y[member])
    data = Records(x, y, "continuous", x.min(0), x.max(0))
    case = audit_case(
        SklearnClassifier(estimator, 2), data, np.arange(400), member[:400], SklearnLearner("forest", fit, 2),
        tmp_path, models=4,
    )  # fmt: skip
    loss, lira = run_suite(case, ["Metric-loss", "Model-lira"], draws=100)
    assert loss.auroc is not None
    assert lira.auroc is not None
    assert loss.auroc.low > 0.5
    assert lira.auroc.value > 0.8


# -- other kinds of records ---------------------------------------------------------------------------


def test_features_and_texts_have_all_detectors_but_one(tmp_path: Path) -> None:
    """Query-ref optimises pixels; everything else runs on binary features and on texts with similar texts."""
    rng = np.random.default_rng(0)
    labels = rng.integers(6, size=120)
    binary = Records((rng.random((120, 30)) < 0.4).astype(float), labels, "binary")
    texts = Records(["".join("abcd"[k] for k in rng.integers(4, size=8)) for _ in labels], labels, "text")

    def encode(some: Any) -> torch.Tensor:
        return torch.tensor([["abcd".index(c) for c in text] for text in some]).reshape(-1, 8)

    def similar(some: Any, count: int) -> list[list[str]]:
        return [[text[:i] + "abcd"[("abcd".index(text[i]) + 1) % 4] + text[i + 1 :] for i in range(8)] for text in some]

    training = Training(epochs=40, lr=0.02, batch=20)
    read = lambda outputs: nn.Sequential(nn.Embedding(4, 6), nn.Flatten(), nn.Linear(48, outputs))  # noqa: E731
    line = lambda outputs: nn.Linear(30, outputs)  # noqa: E731
    for data, learner in (
        (binary, TorchLearner("line", line, 6, training)),
        (texts, TorchLearner("read", read, 6, training, encode)),
    ):
        division = tddbench_case(data, learner, tmp_path, targets=1, models=4)
        case = division.case(0, similar if data is texts else None)
        rows = {row.name: row for row in run_suite(case, thresholds={}, draws=20)}
        assert {name for name, row in rows.items() if row.status != "measured"} == {"Query-ref"}, data.kind
        assert (rows["Query-ref"].status, rows["Query-ref"].auroc) == ("not-applicable", None)
        assert all(row.comparable for row in rows.values())
        assert rows["Query-adv"].cost.queries == (11 if data is binary else 9) * 60
        assert rows["Model-loss"].auroc is not None
        assert rows["Model-loss"].auroc.value > 0.7
    unlike = run_suite(division.case(0), ["Query-neighbor", "Query-augment", "Query-adv"], thresholds={}, draws=20)
    assert [row.notes for row in unlike] == [("needs similar texts (neighbours)",)] * 3


def test_what_is_not_known_about_a_model_is_said() -> None:
    alone = replace(memorised(), learner=None, population=np.zeros(0, dtype=np.int64))
    rows = run_suite(alone, ["Query-transfer", "Query-qrm"], thresholds={})
    assert [row.status for row in rows] == ["not-applicable"] * 2
    assert "how a model like the target is trained" in rows[0].notes[0]
    assert "records the target was not trained on" in rows[1].notes[0]
