"""Certified removal: minima, the bound on what a step leaves, its order, and the budget."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from expunge.errors import InputError
from expunge.recommend.methods._certified import (
    Labelled,
    gradients,
    hessians,
    left_by,
    left_by_rounding,
    losses,
    minimise,
    removal_step,
    singular,
    slopes,
)
from expunge.recommend.methods.certified_removal import CertifiedRemoval
from expunge.recommend.models.certified import CertifiedMF
from expunge.recommend.subject import Subject, load_subject
from expunge.recommend.unlearn import unlearn
from recommend.tiny import changed, forget_of, job_of, state, world

RIDGE, D = 0.5, 4


def problem(n: int, users: int = 3, seed: int = 0) -> tuple[Labelled, Tensor]:
    """n rows of several users, labelled by noisy preferences, and random linear terms."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(n, D, generator=draw, dtype=torch.float64)
    user = torch.arange(n) % users
    taste = torch.randn(users, D, generator=draw, dtype=torch.float64)
    noise = torch.randn(n, generator=draw, dtype=torch.float64)
    labels = ((taste[user] * x).sum(1) + noise > 0).double()
    return Labelled(user, x, labels), 0.3 * torch.randn(users, D, generator=draw, dtype=torch.float64)


def test_slopes_and_hessians_are_derivatives_of_the_loss() -> None:
    rows, noise = problem(40)
    w = torch.randn(3, D, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def whole(w: Tensor) -> Tensor:
        return losses(w, rows, RIDGE, noise).sum()

    assert torch.allclose(gradients(w, rows, RIDGE, noise), torch.func.grad(whole)(w))
    dense = torch.func.hessian(whole)(w)  # [3, D, 3, D]
    mine = hessians(w, rows, RIDGE)
    for u in range(3):
        assert torch.allclose(dense[u, :, u], mine[u])
        assert not bool(dense[u, :, (u + 1) % 3].any())


def test_the_minimum_is_one() -> None:
    rows, noise = problem(60)
    w = minimise(rows, RIDGE, noise)
    assert float(gradients(w, rows, RIDGE, noise).norm()) < 1e-8
    nobody = minimise(rows.take(rows.users != 1), RIDGE, noise)
    assert torch.allclose(nobody[1], -noise[1] / RIDGE)  # who has no row is moved by the random term alone
    assert torch.allclose(nobody[0], w[0], atol=1e-8)


def test_what_the_step_leaves_is_within_the_bound() -> None:
    """And the bound is within a hundred times of it: it is of use."""
    rows, noise = problem(90)
    w = minimise(rows, RIDGE, noise)
    for count in (3, 12, 30):
        gone = torch.arange(90) < count
        kept = rows.take(~gone)
        step = removal_step(w, kept, rows.take(gone), RIDGE)
        left = gradients(w + step, kept, RIDGE, noise).norm(dim=1)
        bound = left_by(step, kept)
        assert bool((left <= bound + 1e-9).all())
        assert bool((bound < 100 * left).all())


def test_removing_everything_of_a_user_is_exact() -> None:
    rows, noise = problem(60)
    w = minimise(rows, RIDGE, noise)
    gone = rows.users == 2
    step = removal_step(w, rows.take(~gone), rows.take(gone), RIDGE)
    assert torch.allclose((w + step)[2], -noise[2] / RIDGE, atol=1e-7)
    assert float(left_by(step, rows.take(~gone))[2]) == 0


def test_the_error_shrinks_at_least_quadratically_with_the_share_removed() -> None:
    """Six rows removed of n: |w' - w_K| falls with (|D| / n)^2 or faster, over ten draws of the rows."""
    errors = []
    for n in (300, 4800):
        mean = 0.0
        for seed in range(10):
            rows, noise = problem(n, users=1, seed=seed)
            gone = torch.arange(n) < 6
            w = minimise(rows, RIDGE, noise)
            exact = minimise(rows.take(~gone), RIDGE, noise)
            step = removal_step(w, rows.take(~gone), rows.take(gone), RIDGE)
            assert float((w + step - exact).norm()) < 0.2 * float((w - exact).norm())
            mean += float((w + step - exact).norm()) / 10
        errors.append(mean)
    assert errors[1] < 1.2 * errors[0] / 16**2


def test_rounding_is_bounded() -> None:
    rows, noise = problem(90)
    w = minimise(rows, RIDGE, noise)
    error = w.float().double() - w
    moved = gradients(w + error, rows, RIDGE, noise).norm(dim=1)
    assert bool((moved <= left_by_rounding(error, rows, RIDGE) + 1e-8).all())
    assert torch.allclose(singular(rows, 3)[1], torch.linalg.matrix_norm(rows.x[rows.users == 1], 2))


def run(request: str = "edges", kind: str = "lightgcn", seed: int = 0, **settings: Any) -> Subject:
    return unlearn(CertifiedRemoval(**settings), job_of(request=request, kind=kind, seed=seed))


def users_rows(subject: Subject) -> Labelled:
    """The labelled rows a certified subject holds, over its own items."""
    model = subject.model
    assert isinstance(model, CertifiedMF)
    user, positive, negative = model.labelled.unbind(1)
    items = model.table[60:].detach().double()
    labels = torch.cat([torch.ones(len(user)), torch.zeros(len(user))]).double()
    return Labelled(torch.cat([user, user]), items[torch.cat([positive, negative])], labels)


@pytest.mark.parametrize("kind", ["bpr-mf", "mmgcn"])
@pytest.mark.parametrize("request_", ["users", "edges"])
def test_rows_are_those_of_a_fit_to_the_kept_interactions(kind: str, request_: str) -> None:
    """By the gradient of the kept rows' loss, with the noise that its seed draws: small, within what was spent."""
    method = CertifiedRemoval(sigma=1.0)
    subject = unlearn(method, job_of(request=request_, kind=kind))
    rows, model = users_rows(subject), subject.model
    assert isinstance(model, CertifiedMF)
    assert len(model.labelled) == len(subject.served)
    assert not bool(forget_of(request_).contains(model.labelled[:, :2]).any())
    w = model.table[:60].detach().double()
    g = slopes(w, rows) + method.ridge * w  # is -b at the minimum
    assert 0.7 < float(g.std()) < 1.3  # of 60 x 8 draws of N(0, 1)
    noise = -g
    exact = minimise(rows, method.ridge, noise)
    assert torch.allclose(exact, w, atol=1e-5)
    assert 0 < float(model.spent) < method.budget
    assert float(model.table[60:].detach().norm(dim=1).max()) == pytest.approx(1, abs=1e-5)


def test_the_gradient_left_is_within_what_was_spent() -> None:
    """Against the noise itself, recovered from a fit that forgets one interaction of one user."""
    method = CertifiedRemoval()
    one = forget_of("edges").take([0])
    users = torch.arange(60) != int(one.pairs[0, 0])
    job = job_of(forget=one, retain=world().train.without(one))
    whole = method.fitted(job)
    noise = -(slopes(whole.table[:60].detach().double(), rows_of(whole)) + method.ridge * whole.table[:60].double())
    subject = unlearn(method, job_of(forget=one, retain=world().train.without(one)))
    model = subject.model
    assert isinstance(model, CertifiedMF)
    left = gradients(model.table[:60].detach().double(), users_rows(subject), method.ridge, noise.detach())
    assert float(left.norm()) <= 2 * float(model.spent)
    assert torch.equal(model.table[:60][users], whole.table[:60][users])  # nobody else moves


def rows_of(model: CertifiedMF) -> Labelled:
    user, positive, negative = model.labelled.unbind(1)
    labels = torch.cat([torch.ones(len(user)), torch.zeros(len(user))]).double()
    return Labelled(
        torch.cat([user, user]), model.table[60:].detach().double()[torch.cat([positive, negative])], labels
    )


def test_a_budget_that_is_exceeded_is_named_and_nothing_happens() -> None:
    job = job_of(request="edges")
    before = state(job.subject.model)
    method = CertifiedRemoval(sigma=1e-4)
    with pytest.raises(InputError, match=rf"the budget sigma\*epsilon/c is {method.budget:.3g}"):
        unlearn(method, job)
    assert not changed(before, state(job.subject.model))
    # sigma epsilon / sqrt(2 log(1.5 / delta))
    assert CertifiedRemoval(epsilon=2, delta=1.5 / torch.e**2, sigma=3).budget == pytest.approx(3.0)


def test_requests_add_up_until_the_budget_is_used(tmp_path: Path) -> None:
    """The second goes on from the first, saved and loaded in between; no row is fitted anew."""
    forget = forget_of("edges")
    first, second = forget.take(range(20)), forget.take(range(20, 40))
    kept = world().train.without(first)
    subject = unlearn(CertifiedRemoval(), job_of(forget=first, retain=kept))
    subject.save(tmp_path / "model", "# card\n")
    loaded = load_subject(str(tmp_path / "model"))
    assert not changed(state(subject.model), state(loaded.model))
    later = job_of(subject=loaded, forget=second, retain=kept.without(second), seed=5)
    end = unlearn(CertifiedRemoval(), later)
    assert isinstance(subject.model, CertifiedMF)
    assert isinstance(end.model, CertifiedMF)
    assert float(end.model.spent) > float(subject.model.spent) > 0
    assert len(end.model.labelled) == len(kept.without(second))
    still = ~torch.isin(torch.arange(60), second.pairs[:, 0])
    assert torch.equal(end.model.table[:60][still], subject.model.table[:60][still])
    tight = CertifiedRemoval(sigma=0.3 * float(subject.model.spent) * 1.0001 / CertifiedRemoval().budget)
    with pytest.raises(InputError, match="before it"):
        unlearn(tight, job_of(subject=loaded, forget=second, retain=kept.without(second)))


def test_the_noise_is_not_kept_and_follows_the_seed() -> None:
    subject = run()
    assert set(state(subject.model)) == {"table", "labelled", "spent"}
    assert not changed(state(subject.model), state(run().model))
    assert "table" in changed(state(subject.model), state(run(seed=1).model))


def test_settings_out_of_range_are_named_together() -> None:
    with pytest.raises(InputError, match="out of range: delta=2, sigma=0"):
        CertifiedRemoval(delta=2, sigma=0)
