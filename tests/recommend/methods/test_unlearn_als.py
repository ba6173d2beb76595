"""Alternating least squares: each half a minimum, forgotten entries like unseen ones, the end that of retraining."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from expunge.errors import InputError
from expunge.recommend.methods.unlearn_als import UnlearnALS, solve, sweep
from expunge.recommend.models.lightgcn import BPRMF
from expunge.recommend.subject import fresh, load_subject
from expunge.recommend.unlearn import unlearn
from recommend.tiny import forget_of, forget_scores, job_of, state, trained, world

RIDGE, W0 = 1.0, 0.1


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def objective(p: Tensor, q: Tensor, pairs: Tensor) -> Tensor:
    target = torch.zeros(len(p), len(q), dtype=torch.float64)
    target[pairs[:, 0], pairs[:, 1]] = 1
    weight = W0 + (1 - W0) * target
    return (weight * (target - p @ q.T).square()).sum() + RIDGE * (p.square().sum() + q.square().sum())


def test_half_a_sweep_is_the_minimum_of_its_side() -> None:
    pairs = world().train.pairs
    q = draw(40, 5)
    p = solve(q, pairs, 60, RIDGE, W0).requires_grad_()
    (g,) = torch.autograd.grad(objective(p, q, pairs), p)
    assert float(g.norm()) < 1e-9
    assert float(p.detach().norm()) > 1


def test_the_objective_falls_with_every_sweep() -> None:
    pairs = world().train.pairs
    p, q = draw(60, 5), draw(40, 5, seed=1)
    values = [float(objective(*sweep(p, q, pairs, n, RIDGE, W0), pairs)) for n in range(6)]
    assert values == sorted(values, reverse=True)
    assert values[5] < 0.9 * values[1]


def test_no_sweep_changes_nothing_and_who_keeps_nothing_gets_nothing() -> None:
    p, q = draw(3, 2), draw(3, 2, seed=1)
    same = sweep(p, q, torch.tensor([[0, 0]]), 0, RIDGE, W0)
    assert torch.equal(same[0], p)
    assert torch.equal(same[1], q)
    p, q = sweep(p, q, torch.tensor([[0, 0], [1, 0], [1, 2]]), 2, RIDGE, W0)
    assert p[2].tolist() == [0, 0]
    assert q[1].tolist() == [0, 0]


def test_few_sweeps_from_the_old_factors_come_to_where_retraining_ends() -> None:
    """Retraining: from the initial factors over the kept interactions alone, until it rests."""
    train, forget = world().train, forget_of("edges")
    kept = train.without(forget).pairs
    start = draw(60, 2), draw(40, 2, seed=1)
    old = sweep(*start, train.pairs, 300, RIDGE, W0)
    gold = sweep(*start, kept, 300, RIDGE, W0)
    wanted = gold[0] @ gold[1].T

    def off(factors: tuple[Tensor, Tensor]) -> float:
        return float((factors[0] @ factors[1].T - wanted).norm())

    target = off(old)
    assert target > 0.5
    assert off(sweep(*old, kept, 3, RIDGE, W0)) < 0.2 * target
    assert off(sweep(*start, kept, 3, RIDGE, W0)) > off(sweep(*old, kept, 3, RIDGE, W0))
    assert off(sweep(*old, kept, 60, RIDGE, W0)) < 1e-3 * target


def test_the_result_is_a_factor_model_of_the_kept_interactions() -> None:
    """Forgotten users have no preference left; the pairs kept are scored above the rest."""
    job = job_of()
    subject = unlearn(UnlearnALS(), job)
    assert isinstance(subject.model, BPRMF)
    users = forget_of().pairs[:, 0].unique()
    assert not bool(subject.scores(users).any())
    assert float(subject.pair_scores(job.retain.pairs).mean()) > 1.5 * float(subject.scores(torch.arange(60)).mean())
    assert subject.served.digest == job.retain.digest
    again = unlearn(UnlearnALS(), job_of())
    assert torch.equal(state(subject.model)["table"], state(again.model)["table"])


def test_it_starts_from_the_vectors_over_the_kept_graph_whatever_the_model() -> None:
    """The first half sweep reads items' vectors only: those of the target over the retain graph."""
    for kind in ("lightgcn", "mmgcn"):
        job = job_of(kind=kind)
        items = job.dropped().embeddings()[1].double()
        p = solve(items, job.retain.pairs, 60, 3.0, 0.1)
        q = solve(p, job.retain.pairs.flip(1), 40, 3.0, 0.1)
        found = unlearn(UnlearnALS(sweeps=1), job).embeddings()
        assert torch.allclose(found[0], p.float(), atol=1e-6)
        assert torch.allclose(found[1], q.float(), atol=1e-6)


def test_saved_and_loaded_it_scores_the_same(tmp_path) -> None:  # type: ignore[no-untyped-def]
    subject = unlearn(UnlearnALS(), job_of())
    subject.save(tmp_path / "model", "# card\n")
    loaded = load_subject(str(tmp_path / "model"))
    assert torch.equal(loaded.scores(torch.arange(60)), subject.scores(torch.arange(60)))


def test_forgets_and_refuses_settings_out_of_range() -> None:
    target = trained()
    als = sweep(*(z.double() for z in target.embeddings()), world().train.pairs, 20, 3.0, 0.1)
    with_all = fresh(BPRMF(60, 40, 8), world().train)
    with_all.model.get_parameter("table").data.copy_(torch.cat(als))
    for request in ("users", "items", "edges"):
        forgotten = unlearn(UnlearnALS(), job_of(request=request))
        assert forget_scores(forgotten, request) < forget_scores(with_all, request) - 0.05
    with pytest.raises(InputError, match=r"ridge=0 \(above 0\)"):
        UnlearnALS(ridge=0)
