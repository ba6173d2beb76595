"""IFRU: which rows move, limits of damping, solvers, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from expunge.errors import InputError
from expunge.recommend.methods._rows import entries, neighbourhood, nodes_of
from expunge.recommend.methods.drop_edges import DropEdges
from expunge.recommend.methods.ifru import IFRU, Validation
from expunge.recommend.subject import Subject
from expunge.recommend.unlearn import unlearn
from recommend.tiny import apart, changed, forget_of, forget_scores, job_of, state, trained, world


def run(request: str = "users", kind: str = "lightgcn", seed: int = 0, **settings: Any) -> Subject:
    return unlearn(IFRU(**settings), job_of(request=request, kind=kind, seed=seed))


def table(subject: Subject) -> Tensor:
    return subject.model.get_parameter("table").detach()


@pytest.mark.parametrize("request_", ["users", "items", "edges"])
@pytest.mark.parametrize("kind", ["bpr-mf", "lightgcn"])
def test_forgets_more_than_dropping_the_edges(request_: str, kind: str) -> None:
    dropped = unlearn(DropEdges(), job_of(request=request_, kind=kind))
    found = run(request_, kind)
    assert forget_scores(found, request_) < forget_scores(dropped, request_) - 0.05
    assert found.served.digest == job_of(request=request_).retain.digest


def test_only_the_rows_of_the_hops_move() -> None:
    forget = forget_of("edges").take([0, 1])
    job = job_of(forget=forget, retain=world().train.without(forget))
    target = table(trained())
    for rows, hops in (("hop-0", 0), ("hop-1", 1)):
        job = job_of(forget=forget, retain=world().train.without(forget))
        moved = (table(unlearn(IFRU(rows=rows), job)) != target).any(1).nonzero()[:, 0]  # type: ignore[arg-type]
        assert torch.equal(moved, neighbourhood(nodes_of(forget), world().train, hops))
    job = job_of(forget=forget, retain=world().train.without(forget))
    moved = (table(unlearn(IFRU(rows="relevance", percentile=0.9), job)) != target).any(1)
    assert 0 < int(moved.sum()) < len(neighbourhood(nodes_of(forget), world().train, 1))


def test_endless_damping_is_dropping_the_edges() -> None:
    """x = g / damping in the limit: the first order is met before it vanishes."""
    dropped = table(unlearn(DropEdges(), job_of()))
    steps = [table(run(damping=d)) - dropped for d in (1e4, 1e5)]
    assert torch.allclose(steps[0], 10 * steps[1], atol=2e-5)
    assert float(steps[0].abs().max()) < 1e-2
    assert bool(steps[0].any())


def test_less_damping_is_a_longer_step() -> None:
    target = table(trained())
    lengths = [float((table(run(damping=d)) - target).norm()) for d in (0.1, 1.0, 10.0)]
    assert lengths[0] > lengths[1] > lengths[2]


def test_spill_over_is_for_graphs() -> None:
    for kind in ("bpr-mf", "lightgcn"):
        counted, left = (state(run(kind=kind, spill_over=s).model) for s in (True, False))
        assert (apart(counted, left) > 1e-3) == (kind == "lightgcn")


def test_variants_differ_and_a_table_without_propagation_is_that_of_a_factor_model() -> None:
    plain = state(run().model)
    for settings in ({"propagated": False}, {"over": "all"}, {"loss": "bce"}, {"newton": True}):
        assert apart(plain, state(run(**settings).model)) > 1e-3, settings
    same = (state(run(kind="bpr-mf", propagated=p).model) for p in (True, False))
    assert not changed(*same)
    with pytest.raises(InputError, match="VBPR has other parameters"):
        run(kind="vbpr", propagated=False)


@pytest.mark.parametrize("kind", ["vbpr", "mmgcn"])
def test_models_with_shared_parameters_keep_them(kind: str) -> None:
    before, subject = state(trained(kind).model), run(kind=kind)
    moved = changed(before, state(subject.model))
    assert moved
    assert moved <= set(subject.model.node_rows)


def test_the_exact_hessian_of_a_model_stopped_early_needs_damping() -> None:
    with pytest.raises(InputError, match="set damping"):
        run(hessian="exact", damping=0.0)
    with pytest.raises(InputError, match=r"singular|curvature"):
        run(damping=0.0)  # users of whom nothing is kept have no curvature
    assert bool(table(run(hessian="exact", damping=20.0)).isfinite().all())


def test_adam_arrives_where_conjugate_gradients_do() -> None:
    job = job_of(held_out=None)
    exact = table(run(damping=5.0, tolerance=1e-6))
    found = table(unlearn(IFRU(damping=5.0, solver="adam", iterations=400, lr=5e-3), job))
    assert float((found - exact).abs().max()) < 0.02 * float((exact - table(trained())).abs().max())


def test_adam_keeps_the_step_with_the_best_validation() -> None:
    settings: dict[str, Any] = {"solver": "adam", "iterations": 60, "lr": 0.1, "patience": 3}
    job = job_of()
    nodes = nodes_of(forget_of())
    chosen = entries(job.subject.model, nodes)
    score = Validation(job.subject.model, job.dropped().graph, chosen, job)
    target = table(trained())
    found = table(run(**settings)) - target
    last = table(unlearn(IFRU(**settings), job_of(held_out=None))) - target
    flat = [step.reshape(-1)[chosen].double() for step in (found, last)]
    assert score(flat[0]) >= score(flat[1])
    assert not torch.equal(*flat)
    assert score(torch.zeros(len(chosen)).double()) > 0.6
    assert table(job.subject).equal(target)


def test_the_same_seed_draws_the_same_negatives() -> None:
    first, again, other = (state(run(seed=s).model) for s in (0, 0, 1))
    assert not changed(first, again)
    assert changed(first, other)


def test_settings_out_of_range_are_named_together() -> None:
    with pytest.raises(InputError, match=r"ifru: out of range: damping=-1, rows='hop-9', ratio=2"):
        IFRU(damping=-1, rows="hop-9", ratio=2)  # type: ignore[arg-type]
