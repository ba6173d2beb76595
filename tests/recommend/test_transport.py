"""Plans keep their marginals and are optimal; clusters are balanced."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment, linprog
from torch import Tensor

from expunge.errors import InputError
from expunge.recommend.transport import optimal_balanced, sinkhorn_plan, transport
from recommend.test_partition import blobs


def costs(n: int, shards: int, seed: int = 0) -> Tensor:
    return torch.rand(n, shards, generator=torch.Generator().manual_seed(seed)).double()


@pytest.mark.parametrize("solver", ["exact", "sinkhorn"])
@pytest.mark.parametrize(("n", "shards"), [(24, 4), (25, 4), (9, 5), (30, 1)])
def test_marginals(solver: str, n: int, shards: int) -> None:
    plan = transport(costs(n, shards), solver)  # type: ignore[arg-type]
    assert bool((plan >= -1e-15).all())
    torch.testing.assert_close(plan.sum(1), torch.full((n,), 1 / n).double(), rtol=0, atol=1e-8)
    torch.testing.assert_close(plan.sum(0), torch.full((shards,), 1 / shards).double(), rtol=0, atol=1e-8)


def test_exact_is_the_assignment_to_copies_of_the_centroids() -> None:
    for seed in range(5):
        cost = costs(24, 4, seed)
        rows, columns = linear_sum_assignment(cost.repeat_interleave(6, 1).numpy())
        best = cost.repeat_interleave(6, 1).numpy()[rows, columns].sum() / 24
        plan = transport(cost)
        assert float((plan * cost).sum()) == pytest.approx(best, abs=1e-9)
        assert torch.equal(plan.argmax(1), torch.from_numpy(columns) // 6)
        assert torch.equal(transport(1e-9 * cost).argmax(1), plan.argmax(1))


@pytest.mark.parametrize(("n", "shards"), [(26, 4), (31, 7), (12, 5), (5, 5), (40, 3)])
def test_exact_is_the_solution_of_the_linear_programme(n: int, shards: int) -> None:
    """Masses that do not divide, ties, and costs that differ by orders of magnitude."""
    cells = np.arange(n * shards)
    sums = np.zeros((n + shards, n * shards))
    sums[cells // shards, cells] = sums[n + cells % shards, cells] = 1
    masses = np.concatenate([np.full(n, 1 / n), np.full(shards, 1 / shards)])
    for seed in range(4):
        drawn = costs(n, shards, seed)
        for cost in (drawn, (4 * drawn).round(), drawn**8, drawn * torch.tensor([1e-4] + [1.0] * (shards - 1))):
            solved = linprog(cost.numpy().ravel(), A_eq=sums, b_eq=masses)
            plan = transport(cost)
            assert float((plan * cost).sum()) == pytest.approx(solved.fun, rel=1e-6, abs=1e-7)
            torch.testing.assert_close(plan.sum(1), torch.full((n,), 1 / n).double())
            torch.testing.assert_close(plan.sum(0), torch.full((shards,), 1 / shards).double())


def test_a_mass_that_does_not_divide_splits_few_rows() -> None:
    plan = transport(costs(26, 4))
    assert int(((plan > 1e-12).sum(1) > 1).sum()) <= 3


def test_sinkhorn_nears_the_optimum_as_the_entropy_goes() -> None:
    cost = costs(40, 5)
    best = float((transport(cost) * cost).sum())
    gaps = [float((sinkhorn_plan(cost, e, 20_000) * cost).sum()) - best for e in (1.0, 0.1, 0.01)]
    assert gaps[0] > gaps[1] > gaps[2] > -1e-9
    assert gaps[2] < 0.01 * best
    flat = sinkhorn_plan(cost, 1e6)
    torch.testing.assert_close(flat, torch.full_like(flat, 1 / 200), rtol=1e-4, atol=0)


def test_sinkhorn_is_the_plan_of_a_product_form() -> None:
    """P = diag(a) exp(-C / eps) diag(b): the logarithm plus C / eps has rank one in the additive sense."""
    cost = costs(12, 3)
    plan = sinkhorn_plan(cost, 0.2)
    rest = plan.log() + cost / (0.2 * cost.mean())
    torch.testing.assert_close(rest - rest[:1], (rest - rest[:1])[:, :1].expand(-1, 3), rtol=0, atol=1e-9)


def test_very_unequal_costs_stay_finite() -> None:
    cost = torch.tensor([[0.0, 1e6], [1e6, 0.0], [5e5, 5e5 + 1], [5e5, 5e5 + 1]]).double()
    assert bool(sinkhorn_plan(cost, 0.01, 20_000).isfinite().all())
    zero = transport(torch.zeros(6, 3), "sinkhorn")
    torch.testing.assert_close(zero, torch.full((6, 3), 1 / 18).double())
    with pytest.raises(InputError, match="finite costs"):
        transport(torch.tensor([[0.0, torch.inf]]))
    with pytest.raises(InputError, match=r"did not converge in 2 rounds"):
        sinkhorn_plan(costs(30, 4), 1e-4, 2)
    with pytest.raises(InputError, match="epsilon=0 must be above 0"):
        sinkhorn_plan(cost, 0)


@pytest.mark.parametrize("solver", ["exact", "sinkhorn"])
def test_optimal_clusters_are_balanced_and_found(solver: str) -> None:
    for seed in range(4):
        points, which = blobs(seed=seed)
        labels = optimal_balanced(points, 2, seed, solver=solver)  # type: ignore[arg-type]
        assert bool((labels == which).all()) or bool((labels == 1 - which).all())
    points = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)) ** 3
    sizes = torch.bincount(optimal_balanced(points, 8, 0, solver=solver), minlength=8)  # type: ignore[arg-type]
    assert int(sizes.max()) == 7
    assert int(sizes.sum()) == 50
    with pytest.raises(InputError, match=r"shards=51 must be from 1 to the number of elements \(50\)"):
        optimal_balanced(points, 51, 0)


def test_every_round_lowers_the_cost() -> None:
    """Transport and means both lower the sum of squared distances, as in k-means."""
    points = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))

    def spread(rounds: int) -> float:
        labels = optimal_balanced(points, 5, 1, rounds=rounds)
        means = torch.stack([points[labels == s].mean(0) for s in range(5)])
        return float((points - means[labels]).square().sum())

    spreads = [spread(r) for r in (1, 2, 3, 10)]
    assert spreads == sorted(spreads, reverse=True)
    assert spreads[-1] < spreads[0]
