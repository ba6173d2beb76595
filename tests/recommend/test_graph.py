"""The sparse product against dense algebra, its gradients, and isolated nodes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from expunge.errors import InputError
from expunge.recommend.data import Interactions
from expunge.recommend.graph import Graph
from recommend.tiny import world


def dense(graph: Graph, pairs: Tensor) -> tuple[Tensor, Tensor]:
    """D^-1/2 B D^-1/2 and D^-1 B in float64, by their definitions."""
    b = torch.zeros(graph.nodes, graph.nodes, dtype=torch.float64)
    b[pairs[:, 0], pairs[:, 1] + graph.users] = 1
    b = b + b.T
    degree = b.sum(1)
    half = torch.where(degree > 0, degree.rsqrt(), torch.zeros(()).double())
    return half[:, None] * b * half, torch.where(degree > 0, 1 / degree, torch.zeros(()).double())[:, None] * b


@pytest.fixture
def pairs() -> Tensor:
    """Two users and five items; item 1 has no edge, and so has user 2."""
    return torch.tensor([[0, 0], [0, 2], [0, 3], [1, 3], [1, 4], [3, 0]])


@pytest.fixture
def graph(pairs: Tensor) -> Graph:
    return Graph.of(pairs, users=4, items=5)


def values(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_products_are_those_of_the_dense_matrices(graph: Graph, pairs: Tensor) -> None:
    x, (normal, mean) = values(9, 3), dense(graph, pairs)
    torch.testing.assert_close(graph.propagate(x), normal @ x)
    torch.testing.assert_close(graph.mean(x), mean @ x)
    torch.testing.assert_close(graph.propagate(x.float()), (normal @ x).float())
    assert graph.propagate(x.float()).dtype == torch.float32
    assert graph.degree.tolist() == [3, 2, 0, 1, 2, 0, 1, 2, 1]


def test_rows_of_isolated_nodes_are_zero(graph: Graph) -> None:
    x = values(9, 3)
    for product in (graph.propagate(x), graph.mean(x)):
        assert not product[[2, 5]].any()
        assert bool(product.isfinite().all())


def test_gradients_are_those_of_the_dense_matrices(graph: Graph, pairs: Tensor) -> None:
    weights = values(9, 3, seed=1)
    for product, matrix in zip((graph.propagate, graph.mean), dense(graph, pairs), strict=True):
        x = values(9, 3).requires_grad_()
        (ours,) = torch.autograd.grad((product(x).tanh() * weights).sum(), x)
        (theirs,) = torch.autograd.grad(((matrix @ x).tanh() * weights).sum(), x)
        torch.testing.assert_close(ours, theirs)
        assert torch.autograd.gradcheck(product, x)
        assert torch.autograd.gradgradcheck(product, x)


def test_products_work_under_function_transforms(graph: Graph, pairs: Tensor) -> None:
    x = values(9, 3)
    matrix = dense(graph, pairs)[0]
    found = torch.func.grad(lambda v: graph.propagate(v).square().sum())(x)
    torch.testing.assert_close(found, 2 * matrix.T @ matrix @ x)


def test_propagation_is_symmetric_and_does_not_grow() -> None:
    graph = Graph(world().train)
    matrix = graph.propagate(torch.eye(graph.nodes, dtype=torch.float64))
    torch.testing.assert_close(matrix, matrix.T, atol=0, rtol=0)
    largest = torch.linalg.eigvalsh(matrix)[-1]
    assert float(largest) == pytest.approx(1.0, abs=1e-9)  # its vector is sqrt(degree)


def test_the_mean_of_a_constant_is_the_constant() -> None:
    graph = Graph(world().train)
    held = graph.degree > 0
    torch.testing.assert_close(
        graph.mean(torch.full((graph.nodes, 2), 7.0))[held], torch.full((int(held.sum()), 2), 7.0)
    )


def test_the_order_of_the_pairs_makes_no_difference(pairs: Tensor) -> None:
    x = values(9, 3)
    turned = Graph.of(pairs.flip(0), 4, 5)
    assert torch.equal(turned.propagate(x), Graph.of(pairs, 4, 5).propagate(x))


def test_without_any_edge_everything_is_zero() -> None:
    graph = Graph(Interactions(2, 3, torch.zeros(0, 2, dtype=torch.long)))
    assert not graph.propagate(torch.ones(5, 2)).any()
    assert not graph.mean(torch.ones(5, 2)).any()


def test_bad_input_is_named(graph: Graph) -> None:
    with pytest.raises(InputError, match=r"9 nodes .4 users and 5 items.; found values of shape \[8, 3\]"):
        graph.propagate(torch.zeros(8, 3))
    with pytest.raises(InputError, match=r"\[9\]"):
        graph.mean(torch.zeros(9))
    with pytest.raises(InputError, match="item 5 is outside 0 to 4"):
        Graph.of(torch.tensor([[0, 5]]), 4, 5)
    with pytest.raises(InputError, match="more than once"):
        Graph.of(torch.tensor([[0, 4], [0, 4]]), 4, 5)
