"""What the optimiser moves: whole parameters, slices, and masters of half-precision weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from expunge.engine.slices import check_names
from expunge.engine.weights import Weights
from expunge.errors import InputError


class Experts(nn.Module):
    """Four experts in one tensor, and a gate."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        self.fused = nn.Parameter(torch.randn(4, 3, 2, generator=draw).to(dtype))
        self.gate = nn.Parameter(torch.randn(4, generator=draw).to(dtype))

    def loss(self) -> torch.Tensor:
        return ((self.fused.float().sum((1, 2)) * self.gate.float()) ** 2).sum()


def trained(model: Experts, names: list[str], steps: int = 3, decay: float = 0.1) -> Weights:
    weights = Weights(model, names)
    optimizer = torch.optim.AdamW(weights.parameters, lr=0.01, weight_decay=decay)
    with weights.attached():
        for _ in range(steps):
            model.loss().backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            weights.sync()
    return weights


def test_only_the_slice_moves_weight_decay_included() -> None:
    start, model = Experts(), Experts()
    trained(model, ["fused[2]"])
    moved = [not torch.equal(model.fused[i], start.fused[i]) for i in range(4)]
    assert moved == [False, False, True, False]
    assert torch.equal(model.gate, start.gate)


def test_only_the_column_moves_weight_decay_included() -> None:
    start, model = Experts(), Experts()
    trained(model, ["fused[:,1]"])
    assert [torch.equal(model.fused[:, i], start.fused[:, i]) for i in range(3)] == [True, False, True]


def test_a_slice_is_trained_as_if_it_were_a_parameter_of_its_own() -> None:
    """Against the same expert as a plain parameter in a model where it stands alone."""
    model = Experts()
    piece = nn.Parameter(model.fused[2].detach().clone())
    scale = model.gate[2].detach()
    optimizer = torch.optim.AdamW([piece], lr=0.01, weight_decay=0.1)
    for _ in range(3):
        ((piece.sum() * scale) ** 2).backward()
        optimizer.step()
        optimizer.zero_grad()
    trained(model, ["fused[2]"])
    torch.testing.assert_close(model.fused[2], piece)


def test_several_backward_passes_add_up_in_the_slice() -> None:
    model = Experts()
    weights = Weights(model, ["fused[1]", "fused[3]"])
    with weights.attached():
        model.loss().backward()
        once = [p.grad.clone() for p in weights.parameters if p.grad is not None]
        model.loss().backward()
    assert model.fused.grad is None
    for p, g in zip(weights.parameters, once, strict=True):
        torch.testing.assert_close(p.grad, 2 * g)


def test_state_of_slices_is_small_and_comes_back() -> None:
    model = Experts()
    weights = trained(model, ["fused[2]", "gate"])
    state = {k: v.clone() for k, v in weights.state().items()}
    assert {k: tuple(v.shape) for k, v in state.items()} == {"fused[2]": (3, 2), "gate": (4,)}
    other = Experts()
    Weights(other, ["fused[2]", "gate"]).load(state)
    assert torch.equal(other.fused, model.fused)
    assert torch.equal(other.gate, model.gate)


def test_small_updates_of_half_precision_weights_are_not_lost() -> None:
    """A step of 1e-5 is below bfloat16's spacing; ten thousand of them are not."""
    model = Experts(torch.bfloat16)
    weights = Weights(model, ["gate"])
    assert weights.parameters[0].dtype == torch.float32
    start = model.gate.detach().clone()
    with torch.no_grad():
        for _ in range(10_000):
            weights.parameters[0].add_(1e-5)
    assert torch.equal(model.gate, start)
    weights.sync()
    torch.testing.assert_close(model.gate.float(), start.float() + 0.1, atol=1e-2, rtol=0)


def test_gradients_of_half_precision_weights_arrive_in_float32() -> None:
    model = Experts(torch.bfloat16)
    weights = Weights(model, ["fused[0]", "gate"])
    with weights.attached():
        model.loss().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in weights.parameters)
    assert model.gate.grad is None


def test_a_perturbation_that_rounding_swallows_is_noticed() -> None:
    model = Experts(torch.bfloat16)
    weights = Weights(model, ["gate"])
    with weights.moved_by([torch.full((4,), 1e-6)]):
        pass
    assert weights.visible == 0.0
    plain = Weights(Experts(), ["gate"])
    with plain.moved_by([torch.full((4,), 1e-6)]):
        pass
    assert plain.visible is None


def test_names_that_do_not_exist_are_refused() -> None:
    parameters = dict(Experts().named_parameters())
    check_names(parameters, ["fused[3]", "gate"], "Me")
    check_names(parameters, ["fused[:,2]"], "Me")
    for name in ("fused[4]", "fuse[0]", "gates", "fused[:,3]", "gate[:,0]"):
        with pytest.raises(InputError, match="which the model does not have"):
            check_names(parameters, [name], "Me")
