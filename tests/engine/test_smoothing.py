"""Sharpness-aware smoothing on l(x) = x'Hx / 2, where everything is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from expunge.engine.smoothing import SAM, plain, smoothing
from expunge.engine.training import Training


class Quadratic:
    """l = (x, y)' H (x, y) / 2 over two parameters of different shape; remembers where it was asked."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        draw = torch.Generator().manual_seed(0)
        root = torch.randn(5, 5, generator=draw, dtype=dtype)
        self.H = root @ root.T
        self.x = torch.randn(3, generator=draw, dtype=dtype).requires_grad_()
        self.y = torch.randn(2, 1, generator=draw, dtype=dtype).requires_grad_()
        self.seen: list[Tensor] = []

    @property
    def parameters(self) -> list[Tensor]:
        return [self.x, self.y]

    @property
    def point(self) -> Tensor:
        return torch.cat([p.flatten() for p in self.parameters])

    @property
    def gradient(self) -> Tensor:
        return torch.cat([p.grad.flatten() for p in self.parameters if p.grad is not None])

    def backward(self) -> None:
        self.seen.append(self.point.detach().clone())
        (0.5 * self.point @ self.H @ self.point).backward()


@pytest.mark.parametrize("rho", [0.01, 0.5, 3.0])
def test_gradient_is_taken_at_the_worst_point_of_the_ball(rho: float) -> None:
    """g = Hx; the gradient used is H(x + rho g/||g||) with the norm over BOTH parameters."""
    toy = Quadratic()
    start = toy.point.detach().clone()
    g = toy.H @ start
    SAM(rho)(toy.parameters, toy.backward)
    torch.testing.assert_close(toy.gradient, toy.H @ (start + rho * g / g.norm()))
    assert len(toy.seen) == 2
    assert float((toy.seen[1] - start).norm()) == pytest.approx(rho, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_weights_come_back_byte_for_byte(dtype: torch.dtype) -> None:
    toy = Quadratic(dtype)
    start = [p.detach().clone() for p in toy.parameters]
    SAM(0.3)(toy.parameters, toy.backward)
    assert not torch.equal(toy.seen[0], toy.seen[1])
    assert all(torch.equal(p, s) for p, s in zip(toy.parameters, start, strict=True))


def test_weights_come_back_when_the_second_pass_fails() -> None:
    toy = Quadratic()
    start = toy.point.detach().clone()

    def once() -> None:
        if toy.seen:
            raise MemoryError
        toy.backward()

    with pytest.raises(MemoryError):
        SAM(0.3)(toy.parameters, once)
    assert torch.equal(toy.point, start)


def test_radius_zero_is_the_plain_gradient_bit_for_bit() -> None:
    smooth, direct = Quadratic(torch.float32), Quadratic(torch.float32)
    SAM(0.0)(smooth.parameters, smooth.backward)
    plain(direct.parameters, direct.backward)
    assert torch.equal(smooth.gradient, direct.gradient)


def test_a_zero_gradient_moves_nothing() -> None:
    toy = Quadratic()
    with torch.no_grad():
        for p in toy.parameters:
            p.zero_()
    SAM(0.5)(toy.parameters, toy.backward)
    assert torch.equal(toy.gradient, torch.zeros(5, dtype=torch.float64))


def test_a_parameter_the_loss_does_not_touch_stays_out() -> None:
    toy = Quadratic()
    idle = torch.ones(4, requires_grad=True)
    SAM(0.5)([*toy.parameters, idle], toy.backward)
    assert idle.grad is None
    assert torch.equal(idle, torch.ones(4))


def test_no_gradient_at_all_is_no_error() -> None:
    idle = torch.ones(4, requires_grad=True)
    SAM(0.5)([idle], lambda: None)
    assert idle.grad is None


def test_a_gradient_that_is_not_finite_is_left_for_the_loop_to_refuse() -> None:
    toy = Quadratic()
    with torch.no_grad():
        toy.x[0] = float("inf")
    start = toy.point.detach().clone()
    SAM(0.5)(toy.parameters, toy.backward)
    assert not torch.isfinite(toy.gradient).all()
    assert torch.equal(toy.point, start)
    assert len(toy.seen) == 1


def test_the_settings_choose() -> None:
    assert smoothing(Training()) is plain
    chosen = smoothing(Training(smoothing="sam", rho=0.07))
    assert isinstance(chosen, SAM)
    assert chosen.rho == 0.07
