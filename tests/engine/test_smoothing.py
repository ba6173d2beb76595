"""Smoothing on l(x) = x'Hx / 2 and l(x) = sum x^4, where everything is known."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from expunge.engine.smoothing import (
    SAM,
    CurvatureRegularisation,
    GradientPenalty,
    RandomisedSmoothing,
    Smoothing,
    in_first_blocks,
    plain,
    smoothing,
)
from expunge.engine.training import Training
from expunge.engine.weights import Weights

Loss = Callable[[Tensor], Tensor]


class Toy(nn.Module):
    """A loss over two parameters of different shape; remembers where it was asked."""

    def __init__(self, loss: Loss | None = None, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        root = torch.randn(5, 5, generator=draw, dtype=torch.float64)
        self.H = (root @ root.T).to(dtype)
        self.x = nn.Parameter(torch.randn(3, generator=draw, dtype=torch.float64).to(dtype))
        self.y = nn.Parameter(torch.randn(2, 1, generator=draw, dtype=torch.float64).to(dtype))
        self.loss = loss or (lambda point: 0.5 * point @ self.H @ point)
        self.seen: list[Tensor] = []
        self.weights = Weights(self, ["x", "y"])

    @property
    def point(self) -> Tensor:
        return torch.cat([self.x.flatten(), self.y.flatten()])

    @property
    def gradient(self) -> Tensor:
        return torch.cat([p.grad.flatten() for p in self.weights.parameters if p.grad is not None])

    def backward(self) -> None:
        self.seen.append(self.point.detach().clone())
        with self.weights.attached():
            self.loss(self.point).backward()

    def backward_along(self, vector: list[Tensor | None]) -> None:
        slopes = torch.autograd.grad(self.loss(self.point), self.weights.leaves(), create_graph=True, allow_unused=True)
        with self.weights.attached():
            self.weights.along(slopes, vector).backward()

    def generator(self, draw: int) -> torch.Generator:
        return torch.Generator().manual_seed(draw)


def smoothed(how: Smoothing, loss: Loss | None = None, dtype: torch.dtype = torch.float64) -> Toy:
    toy = Toy(loss, dtype)
    how(toy)
    return toy


@pytest.mark.parametrize("rho", [0.01, 0.5, 3.0])
def test_gradient_is_taken_at_the_worst_point_of_the_ball(rho: float) -> None:
    """g = Hx; the gradient used is H(x + rho g/||g||) with the norm over BOTH parameters."""
    toy = smoothed(SAM(rho))
    start = toy.seen[0]
    g = toy.H @ start
    torch.testing.assert_close(toy.gradient, toy.H @ (start + rho * g / g.norm()))
    assert len(toy.seen) == 2
    assert float((toy.seen[1] - start).norm()) == pytest.approx(rho, rel=1e-6)


EVERY = [SAM(0.3), RandomisedSmoothing(0.1, 3), GradientPenalty(0.5), CurvatureRegularisation(0.5, 0.1)]


@pytest.mark.parametrize("how", EVERY, ids=lambda h: type(h).__name__)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_weights_come_back_byte_for_byte(how: Smoothing, dtype: torch.dtype) -> None:
    start = Toy(dtype=dtype)
    toy = smoothed(how, lambda point: (point**4).sum(), dtype)
    assert torch.equal(toy.x, start.x)
    assert torch.equal(toy.y, start.y)
    assert len(toy.gradient) == 5


def test_weights_come_back_when_the_second_pass_fails() -> None:
    toy = Toy()
    start = toy.point.detach().clone()

    class Failing(Toy):
        def backward(self) -> None:
            if self.seen:
                raise MemoryError
            super().backward()

    failing = Failing()
    with pytest.raises(MemoryError):
        SAM(0.3)(failing)
    assert torch.equal(failing.point, start)


OFF = [
    SAM(0.0),
    RandomisedSmoothing(0.0, 3),
    GradientPenalty(0.0),
    CurvatureRegularisation(0.0, 0.1),
    smoothing(Training(smoothing="wa")),
]


@pytest.mark.parametrize("how", OFF, ids=lambda h: type(h).__name__)
def test_at_strength_zero_it_is_the_plain_gradient_bit_for_bit(how: Smoothing) -> None:
    assert torch.equal(smoothed(how, dtype=torch.float32).gradient, smoothed(plain, dtype=torch.float32).gradient)


def test_gradient_penalty_on_a_quadratic() -> None:
    """l + c ||Hx|| has gradient Hx + c H'Hx / ||Hx||."""
    toy = smoothed(GradientPenalty(0.7))
    g = toy.H @ toy.point.detach()
    torch.testing.assert_close(toy.gradient, g + 0.7 * toy.H @ g / g.norm())


def test_the_penalty_moves_the_gradient_as_finite_differences_say() -> None:
    """On l = sum x^4 with g = 4x^3: the gradient of l + c ||4x^3||, by differences of its value."""
    c = 0.3

    def penalised(x: Tensor) -> Tensor:
        return (x**4).sum() + c * (4 * x**3).norm()

    toy = smoothed(GradientPenalty(c), lambda point: (point**4).sum())
    torch.testing.assert_close(toy.gradient, differences(penalised, toy.point.detach()), rtol=1e-6, atol=1e-8)


def differences(value: Loss, x: Tensor, h: float = 1e-5) -> Tensor:
    steps = h * torch.eye(len(x), dtype=x.dtype)
    return torch.stack([(value(x + e) - value(x - e)) / (2 * h) for e in steps])


def test_curvature_on_a_quadratic_is_constant() -> None:
    """There ||g(x + mu v) - g(x)|| = mu ||Hv|| with v held: its gradient is zero."""
    toy = smoothed(CurvatureRegularisation(0.7, 0.1))
    torch.testing.assert_close(toy.gradient, toy.H @ toy.point.detach())


def test_curvature_moves_the_gradient_as_finite_differences_say() -> None:
    """On l = sum x^4 with v = g/||g|| held constant."""
    c, mu = 0.3, 0.05
    start = Toy().point.detach()
    v = 4 * start**3 / (4 * start**3).norm()

    def penalised(x: Tensor) -> Tensor:
        return (x**4).sum() + c * (4 * (x + mu * v) ** 3 - 4 * x**3).norm()

    toy = smoothed(CurvatureRegularisation(c, mu), lambda point: (point**4).sum())
    torch.testing.assert_close(toy.gradient, differences(penalised, start), rtol=1e-6, atol=1e-8)


def test_noise_cancels_on_a_quadratic_and_counts_on_a_quartic() -> None:
    """E grad (x+z)^4 = 4x^3 + 12 sigma^2 x; E grad of the quadratic is Hx."""
    sigma, draws = 0.5, 20_000
    toy = smoothed(RandomisedSmoothing(sigma, draws), lambda point: (point**4).sum())
    x = toy.point.detach()
    torch.testing.assert_close(toy.gradient, 4 * x**3 + 12 * sigma**2 * x, rtol=0.05, atol=0.15)
    quadratic = smoothed(RandomisedSmoothing(sigma, 4_000))
    torch.testing.assert_close(quadratic.gradient, quadratic.H @ x, rtol=0.05, atol=0.15)


def test_every_draw_of_noise_is_its_own() -> None:
    toy = smoothed(RandomisedSmoothing(0.1, 3))
    assert len({tuple(p.tolist()) for p in toy.seen}) == 3
    spread = torch.stack(toy.seen) - toy.point.detach()
    assert 0.03 < float(spread.std()) < 0.3


def test_only_the_first_blocks_are_perturbed() -> None:
    """Names without a block number, and blocks beyond, stay where they are; the norm is over what moves."""

    class Blocks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(2, 1, bias=False) for _ in range(2)])
            self.weights = Weights(self, ["layers.0.weight", "layers.1.weight"])
            self.seen: list[list[Tensor]] = []

        def backward(self) -> None:
            self.seen.append([p.detach().clone() for p in self.parameters()])
            sum((p**2).sum() for p in self.parameters()).backward()  # type: ignore[union-attr]

    toy = Blocks()
    SAM(0.5, blocks=1)(toy)  # type: ignore[arg-type]
    (a, b), (c, d) = toy.seen
    assert float((c - a).norm()) == pytest.approx(0.5, rel=1e-5)
    assert torch.equal(b, d)
    assert in_first_blocks("model.layers.0.mlp.experts.3.up_proj.weight", 1)


def test_a_zero_gradient_moves_nothing() -> None:
    for how in EVERY[:1] + EVERY[2:]:
        toy = Toy()
        with torch.no_grad():
            for p in toy.parameters():
                p.zero_()
        how(toy)
        assert torch.equal(toy.gradient, torch.zeros(5, dtype=torch.float64))


def test_a_parameter_the_loss_does_not_touch_stays_out() -> None:
    for how in EVERY[:1] + EVERY[2:]:
        toy = Toy()
        toy.idle = nn.Parameter(torch.ones(4))
        toy.weights = Weights(toy, ["idle", "x", "y"])  # first: what is None must keep its place
        how(toy)
        assert toy.idle.grad is None
        assert torch.equal(toy.idle, torch.ones(4))
        torch.testing.assert_close(toy.gradient, smoothed(how).gradient)


@pytest.mark.parametrize("how", [EVERY[0], *EVERY[2:]], ids=lambda h: type(h).__name__)
def test_a_gradient_that_is_not_finite_is_left_for_the_loop_to_refuse(how: Smoothing) -> None:
    toy = Toy()
    with torch.no_grad():
        toy.x[0] = float("inf")
    start = toy.point.detach().clone()
    how(toy)
    assert not torch.isfinite(toy.gradient).all()
    assert torch.equal(toy.point, start)
    assert len(toy.seen) == 1


def test_the_settings_choose() -> None:
    assert smoothing(Training()) is plain
    assert smoothing(Training(smoothing="wa")) is plain
    chosen = smoothing(Training(smoothing="sam", rho=0.07, smoothed_blocks=3))
    assert isinstance(chosen, SAM)
    assert (chosen.rho, chosen.blocks) == (0.07, 3)
    noise = smoothing(Training(smoothing="rs", sigma=0.2, draws=5))
    assert isinstance(noise, RandomisedSmoothing)
    assert (noise.sigma, noise.draws) == (0.2, 5)
    penalty = smoothing(Training(smoothing="gp", penalty=2.0))
    assert isinstance(penalty, GradientPenalty)
    assert penalty.weight == 2.0
    curvature = smoothing(Training(smoothing="cr", penalty=3.0, mu=0.2))
    assert isinstance(curvature, CurvatureRegularisation)
    assert (curvature.weight, curvature.mu) == (3.0, 0.2)
