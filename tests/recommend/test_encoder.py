"""The influence encoder: by hand on one edge, its identities, its gradients, and against dense matrices."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from expunge.errors import InputError
from expunge.recommend.encoder import InfluenceEncoder
from expunge.recommend.graph import Graph

USERS, ITEMS, WIDTH = 4, 3, 5
NODES = USERS + ITEMS


def graph(*pairs: tuple[int, int]) -> Graph:
    return Graph.of(torch.tensor(pairs, dtype=torch.long).view(-1, 2), USERS, ITEMS)


def dense(*pairs: tuple[int, int]) -> Tensor:
    """A = D^-1/2 B D^-1/2, written out."""
    B = torch.zeros(NODES, NODES, dtype=torch.float64)
    for u, i in pairs:
        B[u, USERS + i] = B[USERS + i, u] = 1
    scale = B.sum(1).clamp_min(1).rsqrt()
    return scale[:, None] * B * scale


def values(seed: int) -> Tensor:
    return torch.randn(NODES, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def encoder(**settings: object) -> InfluenceEncoder:
    return InfluenceEncoder(NODES, WIDTH, **settings).double()  # type: ignore[arg-type]


def test_an_empty_request_changes_nothing() -> None:
    """A(D) = 0, so H = H0 = 0 and Q = 0; b = 0: E0' = E0 exactly."""
    E0, Z = values(0), values(1)
    assert torch.equal(encoder()(graph(), E0, Z), E0)


def test_an_empty_request_leaves_the_influence_states() -> None:
    """With D empty H is H0 (readout sum, no dense layer): E0' = E0 + H0 on every node."""
    E0, Z, g = values(0), values(1), encoder(dense=0)
    g.states.data = values(2)
    assert torch.allclose(g(graph(), E0, Z), E0 + values(2), atol=1e-15)


def test_without_influence_nothing_is_changed_by_any_request() -> None:
    E0, Z = values(0), values(1)
    assert torch.equal(encoder(start=0.0)(graph((0, 0), (1, 2), (1, 1)), E0, Z), E0)


@pytest.mark.parametrize("layers", [1, 2])
def test_one_forgotten_edge_by_hand(layers: int) -> None:
    """Degrees are 1, so A(D) swaps the rows of u and i: one layer withdraws c w Z of the OTHER end, two of the own."""
    E0, Z, (u, i) = values(0), values(1), (2, USERS + 1)
    changed = encoder(layers=layers, dense=0, start=0.5, withdraw=0.1)(graph((2, 1)), E0, Z) - E0
    source = {1: (i, u), 2: (u, i)}[layers]
    expected = torch.zeros_like(E0)
    expected[u], expected[i] = -0.1 * 0.5 * Z[source[0]], -0.1 * 0.5 * Z[source[1]]
    assert torch.allclose(changed, expected, atol=1e-14)


@pytest.mark.parametrize("readout", ["sum", "last"])
@pytest.mark.parametrize("smoothing", [0, 2])
def test_equals_the_formulas_in_dense_matrices(readout: str, smoothing: int) -> None:
    D, K = [(0, 0), (0, 1), (3, 1)], [(1, 0), (2, 1), (2, 2), (3, 2)]
    g = encoder(layers=2, dense=2, start=0.3, withdraw=0.2, slope=0.5, readout=readout, smoothing=smoothing)
    g.states.data, E0, Z = values(2), values(0), values(1)
    for b in g.biases:
        b.data += 0.1
    A, A_K = dense(*D), dense(*K)
    H = [values(2), A @ values(2), A @ A @ values(2)]
    H_read = sum(H) if readout == "sum" else H[-1]
    X = torch.linalg.matrix_power(A_K, smoothing) @ H_read - 0.2 * A @ A @ (0.3 * Z)
    for W, b in zip(g.weights, g.biases, strict=True):
        Y = X @ W + b
        X = torch.where(Y > 0, Y, 0.5 * Y) + X
    assert torch.allclose(g(graph(*D), E0, Z, graph(*K)), E0 + X, atol=1e-12)
    for ours, theirs in zip(g.change(graph(*D), Z, graph(*K))[1], H, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-12)


def test_gradients_reach_every_parameter_and_are_right() -> None:
    g = encoder(layers=2, dense=1, slope=0.5)
    g.states.data = values(3)
    D, E0, Z = graph((0, 0), (1, 2), (1, 1)), values(0), values(1)
    named = dict(g.named_parameters())

    def f(*parameters: Tensor) -> Tensor:
        found = torch.func.functional_call(g, dict(zip(named, parameters, strict=True)), (D, E0, Z))
        return found.square().sum()  # type: ignore[no-any-return]

    assert torch.autograd.gradcheck(f, tuple(p.detach().requires_grad_() for p in named.values()))
    g(D, E0, Z).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in g.parameters())


def test_equal_seeds_start_equal() -> None:
    assert torch.equal(encoder(seed=1).weights[0], encoder(seed=1).weights[0])
    assert not torch.equal(encoder(seed=1).weights[0], encoder(seed=2).weights[0])


def test_refuses_what_cannot_be() -> None:
    with pytest.raises(InputError, match="layers=-1"):
        encoder(layers=-1)
    with pytest.raises(InputError, match="smoothing=1 needs the graph of the kept edges"):
        encoder(smoothing=1)(graph((0, 0)), values(0), values(1))
