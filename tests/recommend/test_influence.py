"""Solvers against dense algebra, in double precision on toys: products, conjugate gradients, Adam, the series."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn.functional import softplus

from expunge.errors import InputError
from expunge.recommend.influence import (
    adam_solve,
    conjugate_gradient,
    curvature_range,
    flatten,
    gradient,
    hessian_product,
    neumann_solve,
    unflatten,
)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


LOGITS = draw(6, 1, 3, seed=1) * draw(1, 8, 3, seed=2)


def matrix(eigenvalues: Tensor) -> Tensor:
    """A symmetric matrix of given eigenvalues."""
    turn = torch.linalg.qr(draw(len(eigenvalues), len(eigenvalues), seed=5)).Q
    return turn @ eigenvalues.double().diag() @ turn.T


def factors(d: int, penalty: float) -> Tensor:
    """Stationary factors of 6 users and 8 items for `table_loss`."""
    x = torch.cat([draw(6, d, seed=3), draw(8, d, seed=4)]).reshape(-1).requires_grad_()
    optimizer = torch.optim.LBFGS(
        [x], max_iter=3000, tolerance_grad=1e-11, tolerance_change=1e-16, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = table_loss(x, d, penalty)
        loss.backward()
        return loss

    optimizer.step(closure)
    return x.detach()


def table_loss(x: Tensor, d: int, penalty: float) -> Tensor:
    """Mean logistic loss of a 6 x 8 table of soft labels, with an L2 penalty."""
    users, items = x.view(-1, d).split([6, 8])
    scores = users @ items.T
    return (softplus(scores) - torch.sigmoid(LOGITS[:, :, :d].sum(2)) * scores).mean() + penalty * x.square().sum()


def test_flat_vectors_come_back_in_their_shapes() -> None:
    parameters = [torch.ones(2, 3), torch.arange(4.0)]
    vector = flatten(parameters)
    assert vector.dtype == torch.float64
    assert all(map(torch.equal, unflatten(vector, parameters), parameters))
    chosen = torch.tensor([1, 7, 9])
    assert flatten(parameters, chosen).tolist() == [1.0, 1.0, 3.0]
    first, second = unflatten(torch.tensor([5.0, 6.0, 7.0]).double(), parameters, chosen)
    assert first.tolist() == [[0, 5, 0], [0, 0, 0]]
    assert second.tolist() == [0, 6, 0, 7]


def test_product_is_the_dense_hessian() -> None:
    """Of two parameters, one of which enters linearly only; and restricted to some entries."""
    a, b, c = draw(2, 3).requires_grad_(), draw(3, seed=1).requires_grad_(), draw(2, seed=2).requires_grad_()

    def loss(flat: Tensor) -> Tensor:
        a, b, c = flat[:6].view(2, 3), flat[6:9], flat[9:]
        return softplus(a @ b).sum() + (b**4).sum() + c.sum()

    whole = torch.func.hessian(loss)(flatten([a, b, c]))
    product = hessian_product(softplus(a @ b).sum() + (b**4).sum() + c.sum(), [a, b, c])
    dense = torch.stack([product(e) for e in torch.eye(11, dtype=torch.float64)])
    assert torch.allclose(dense, whole, atol=1e-12)
    chosen = torch.tensor([0, 4, 7, 10])
    product = hessian_product(softplus(a @ b).sum() + (b**4).sum() + c.sum(), [a, b, c], chosen)
    dense = torch.stack([product(e) for e in torch.eye(4, dtype=torch.float64)])
    assert torch.allclose(dense, whole[chosen][:, chosen], atol=1e-12)


def test_a_linear_loss_has_no_curvature_and_nan_is_refused() -> None:
    a = draw(3).requires_grad_()
    assert hessian_product(a.sum(), [a])(torch.ones(3).double()).tolist() == [0, 0, 0]
    with pytest.raises(InputError, match="gradient of the loss is not finite"):
        gradient((a * float("nan")).sum(), [a])


@pytest.mark.parametrize("damping", [0.0, 0.3])
def test_conjugate_gradients_are_the_exact_solution(damping: float) -> None:
    """20 parameters, condition 1000: n steps suffice in exact arithmetic, a few more in floating point."""
    h, g = matrix(torch.logspace(-2, 1, 20)), draw(20)
    found = conjugate_gradient(lambda v: h @ v, g, damping, iterations=80, tolerance=1e-12)
    assert torch.allclose(found.x, torch.linalg.solve(h + damping * torch.eye(20).double(), g), rtol=1e-8)
    assert found.residual <= 1e-12
    assert found.iterations < 80


def test_a_truncated_solve_reports_its_residual() -> None:
    h, g = matrix(torch.logspace(-2, 1, 20)), draw(20)
    found = conjugate_gradient(lambda v: h @ v, g, 0.1, iterations=3)
    left = float((g - h @ found.x - 0.1 * found.x).norm() / g.norm())
    assert found.iterations == 3
    assert found.residual == pytest.approx(left, rel=1e-9)
    zero = conjugate_gradient(lambda v: h @ v, torch.zeros(20).double(), 0.1)
    assert zero.x.tolist() == [0] * 20
    assert zero.iterations == 0


def test_matrices_that_are_not_positive_definite_are_refused_in_words() -> None:
    g = draw(20)
    singular = matrix(torch.cat([torch.zeros(3), torch.linspace(1, 2, 17)]))
    with pytest.raises(InputError, match=r"singular .* damping above 0"):
        conjugate_gradient(lambda v: singular @ v, g, 0.0)
    with pytest.raises(InputError, match=r"singular"):
        conjugate_gradient(torch.zeros_like, g, 0.0)
    indefinite = matrix(torch.cat([torch.full((2,), -0.5), torch.linspace(1, 2, 18)]))
    with pytest.raises(InputError, match=r"curvature -0.5 .* well above 0.5"):
        conjugate_gradient(lambda v: indefinite @ v, g, 0.0)
    with pytest.raises(InputError, match=r"damping is 0.1"):
        conjugate_gradient(lambda v: indefinite @ v, g, 0.1)
    assert bool(conjugate_gradient(lambda v: indefinite @ v, g, 0.6, 100).x.isfinite().all())
    stiff = matrix(torch.logspace(-5, 1, 20))
    with pytest.raises(InputError, match=r"left a residual .* after 4 iterations"):
        conjugate_gradient(lambda v: stiff @ v, g, 0.0, iterations=4)


def test_curvature_range_of_a_small_matrix_is_exact() -> None:
    values = torch.tensor([-3.0, -1.0, 0.0, 0.5, 2.0, 7.0])
    low, high = curvature_range(lambda v: matrix(values) @ v, torch.zeros(6))
    assert low == pytest.approx(-3, abs=1e-9)
    assert high == pytest.approx(7, abs=1e-9)
    low, high = curvature_range(lambda v: 2 * v, torch.zeros(6))  # one distinct eigenvalue: it ends at once
    assert low == pytest.approx(2)
    assert high == pytest.approx(2)


@pytest.mark.parametrize("d", [2, 3])
def test_a_stationary_factor_model_has_a_flat_direction_for_every_rotation(d: int) -> None:
    """Scores stay when the factors are rotated: at gradient norm < 1e-6 exactly d(d-1)/2 eigenvalues vanish.

    That is with a penalty on the norms, as recommenders are trained. Without one every invertible change of basis of
    the users, undone at the items, leaves the loss alone: d^2 of them.
    """
    for penalty, flat in ((1e-3, d * (d - 1) // 2), (0.0, d * d)):
        x = factors(d, penalty)
        loss = partial(table_loss, d=d, penalty=penalty)
        assert float(torch.func.grad(loss)(x).norm()) < 1e-6
        values = torch.linalg.eigvalsh(torch.func.hessian(loss)(x))
        assert int((values.abs() < 1e-8).sum()) == flat
        assert float(values[0]) > -1e-8
        leaf = x.clone().requires_grad_()
        product = hessian_product(loss(leaf), [leaf])
        with pytest.raises(InputError, match="Set damping above 0"):
            conjugate_gradient(product, draw(len(x)), 0.0)
        assert bool(conjugate_gradient(product, draw(len(x)), 1e-3).x.isfinite().all())


def test_adam_arrives_where_conjugate_gradients_do() -> None:
    h, g = matrix(torch.linspace(1, 3, 8)), draw(8)
    exact = torch.linalg.solve(h + 0.5 * torch.eye(8).double(), g)
    found = adam_solve(lambda v: h @ v, g, 0.5, lr=0.01, iterations=2000)
    assert torch.allclose(found.x, exact, atol=1e-6)
    assert found.residual < 1e-5


def test_adam_returns_its_best_iterate_and_stops_when_no_better_comes() -> None:
    """One step of Adam from 0 has length lr; the score is best at a distance of five of them."""
    scores: list[float] = []

    def score(x: Tensor) -> float:
        scores.append(-abs(float(x) - 0.05))
        return scores[-1]

    found = adam_solve(lambda v: v, torch.tensor([1.0]).double(), 0.0, lr=0.01, iterations=100, score=score, patience=4)
    assert float(found.x) == pytest.approx(0.05, abs=1e-3)
    assert found.iterations == len(scores) == 5 + 4


def test_the_series_is_its_closed_form_and_its_limit() -> None:
    """x_t = (I - (I - M/s)^(t+1)) M^-1 g with M = H + delta I, so t = 0 is g / s."""
    h, g = matrix(torch.linspace(0.5, 3, 8)), draw(8)
    m = h + 0.2 * torch.eye(8).double()
    assert torch.allclose(neumann_solve(lambda v: h @ v, g, 0.2, 4.0, 0).x, g / 4)
    power = torch.linalg.matrix_power(torch.eye(8).double() - m / 4, 6)
    wanted = torch.linalg.solve(m, g - power @ g)
    assert torch.allclose(neumann_solve(lambda v: h @ v, g, 0.2, 4.0, 5).x, wanted)
    found = neumann_solve(lambda v: h @ v, g, 0.2, 4.0, 300)
    assert torch.allclose(found.x, torch.linalg.solve(m, g), atol=1e-9)
    with pytest.raises(InputError, match=r"diverges at scale=1: set scale above half"):
        neumann_solve(lambda v: h @ v, g, 0.2, 1.0, 300)


def test_one_step_on_ridge_regression_is_retraining() -> None:
    """Quadratic loss: theta - H_K^-1 grad L_K is the minimum without the removed rows, exactly."""
    x, y = draw(30, 5), draw(30, seed=1)

    def fit(rows: Tensor) -> Tensor:
        return torch.linalg.solve(x[rows].T @ x[rows] + 0.1 * torch.eye(5).double(), x[rows].T @ y[rows])

    every, kept, gone = torch.arange(30), torch.arange(3, 30), torch.arange(3)
    theta = fit(every).requires_grad_()
    g = gradient((0.5 * (x[gone] @ theta - y[gone]).square()).sum(), [theta])
    loss = 0.5 * (x[kept] @ theta - y[kept]).square().sum() + 0.05 * theta.square().sum()
    step = conjugate_gradient(hessian_product(loss, [theta]), g, 0.0, tolerance=1e-12).x
    assert torch.allclose(theta.detach() + step, fit(kept), atol=1e-9)
    assert float((fit(kept) - fit(every)).norm()) > 1e-2
