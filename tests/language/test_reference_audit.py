"""Reference models in an audit: asked for by the recipe, used by every benchmark, and missed in one sentence."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from expunge import stages
from expunge.errors import InputError
from expunge.language.audit import audit_model, audit_notes
from expunge.language.benchmarks import testbed
from expunge.language.data import Record
from expunge.language.metrics.membership import Membership
from expunge.language.metrics.reference_membership import ReferenceMembership
from expunge.language.wing import WING
from expunge.language.workload import Workload
from expunge.recipe import Recipe
from reference_bed import COUNT, TRAINING, ReferenceBed, make_reference_bed


@pytest.fixture(scope="session")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> ReferenceBed:
    return make_reference_bed(tmp_path_factory)


def workload_of(learnt: ReferenceBed, **changes: Any) -> Workload:
    records = learnt.records
    settings = {"splits": learnt.splits, "metrics": (Membership(draws=20),), "max_new_tokens": 8, **changes}
    return Workload(records["train_forget"], records["train_retain"], **settings)


class Context(SimpleNamespace):
    """What the stage reads of a run's context."""

    def __init__(self, learnt: ReferenceBed, workload: Workload, count: int, trained: bool = True) -> None:
        told: list[str] = []
        super().__init__(
            recipe=SimpleNamespace(
                audit=SimpleNamespace(references=count),
                target=SimpleNamespace(train=TRAINING) if trained else None,
                seed=0,
            ),
            wing=WING,
            workload=workload,
            models=learnt.models,
            asked=SimpleNamespace(trained_on=workload.retain + workload.forget),
            journal=SimpleNamespace(stage=lambda name: nullcontext(), note=told.append),
            told=told,
        )


def test_the_recipe_asks_for_an_even_number() -> None:
    assert Recipe.load("demo").audit.references == 0
    assert Recipe.load("demo", ["audit.references=8"]).audit.references == 8
    for value, message in (("3", "must be a multiple of 2"), ("-2", "greater than or equal to 0")):
        with pytest.raises(InputError, match=f"audit.references: {value} .*{message}"):
            Recipe.load("demo", [f"audit.references={value}"])


def test_the_stage_makes_what_the_recipe_asks_for(learnt: ReferenceBed) -> None:
    context: Any = Context(learnt, workload_of(learnt), COUNT)
    assert WING.references(context).key == learnt.references.key
    assert context.told == []
    assert WING.references(Context(learnt, workload_of(learnt), 0)) is None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("trained", "splits", "why"),
    [
        (False, ("forget", "holdout"), "nothing says how the target was trained (target.train)"),
        (True, ("forget",), "there is no split 'holdout'"),
    ],
)
def test_what_is_missing_is_said_once(learnt: ReferenceBed, trained: bool, splits: tuple[str, ...], why: str) -> None:
    workload = workload_of(learnt, splits={s: learnt.splits[s] for s in splits})
    context: Any = Context(learnt, workload, 4, trained)
    assert WING.references(context) is None
    assert context.told == [f"audit.references=4: no reference models, because {why}."]


def test_a_benchmark_without_the_metric_gets_its_default(learnt: ReferenceBed) -> None:
    workload = workload_of(learnt)
    plain = audit_model(learnt.target, learnt.gold, workload, {}, seed=0)
    audit = audit_model(learnt.target, learnt.gold, workload, {}, seed=0, references=learnt.references)
    added = {f.metric for f in audit.findings} - {f.metric for f in plain.findings}
    assert {"membership.lira.auroc", "membership.rmia.balanced_accuracy", "membership.usage"} <= added
    assert "membership.epsilon" not in added
    metrics = (ReferenceMembership(detectors=("lira",), random_split=True, draws=20),)
    own = audit_model(
        learnt.target, None, workload_of(learnt, metrics=metrics), {}, seed=0, references=learnt.references
    )
    found = {f.metric for f in own.findings}
    assert {"membership.lira.auroc", "membership.epsilon"} <= found
    assert "membership.rmia.auroc" not in found


def test_the_notes_are_told_and_bad_splits_refused_before_anything_is_trained(learnt: ReferenceBed) -> None:
    (note,) = audit_notes(workload_of(learnt))
    assert "96 non-members" in note
    twice = {"forget": learnt.splits["forget"], "holdout": [Record(" x ", "y"), learnt.splits["forget"][2]]}
    workload = workload_of(learnt, splits=twice)
    with pytest.raises(InputError, match="row 3 of 'forget' and row 2 of 'holdout'"):
        audit_notes(workload)
    with pytest.raises(InputError, match="row 3 of 'forget'"):
        stages.prepare(Context(learnt, workload, 0))  # type: ignore[arg-type]


def test_the_testbed_says_that_its_split_is_random_and_offers_gradient_norms() -> None:
    metrics = testbed.Testbed().load(0).metrics
    assert [m.random_split for m in metrics if isinstance(m, ReferenceMembership)] == [True]
    names = [type(m).__name__ for m in testbed.Testbed(gradient_norm=True).load(0).metrics]
    assert "GradientNorm" in names
    assert "GradientNorm" not in [type(m).__name__ for m in metrics]
