"""Base models against their formulas, an independent library, and each other."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor

from expunge.errors import InputError
from expunge.recommend.graph import Graph
from expunge.recommend.models.base import Recommender
from expunge.recommend.models.lightgcn import BPRMF, LightGCN
from expunge.recommend.models.mmgcn import MMGCN
from expunge.recommend.models.rebuild import rebuilt
from expunge.recommend.models.vbpr import VBPR
from recommend.tiny import KINDS, network, state, world

TRIPLES = torch.tensor([0, 0, 7, 3]), torch.tensor([2, 5, 2, 9]), torch.tensor([1, 1, 30, 4])


def graph_of() -> Graph:
    return Graph(world().train)


def objective(model: Recommender, graph: Graph) -> Tensor:
    """BPR and penalty of four triples."""
    z_user, z_item = model(graph)
    users, positives, negatives = TRIPLES
    margin = (z_user[users] * (z_item[positives] - z_item[negatives])).sum(1)
    return torch.nn.functional.softplus(-margin).mean() + model.reg * model.penalty(*TRIPLES).mean()


# -- LightGCN and matrix factorisation ---------------------------------------------------------------


def test_zero_layers_are_matrix_factorisation() -> None:
    graph, mf, gcn = graph_of(), BPRMF(60, 40, d=8, reg=1e-2, seed=3), LightGCN(60, 40, d=8, layers=0, reg=1e-2, seed=3)
    assert all(map(torch.equal, mf(graph), gcn(graph)))
    assert torch.equal(mf.penalty(*TRIPLES), gcn.penalty(*TRIPLES))
    ours, theirs = (torch.autograd.grad(objective(m, graph), m.table)[0] for m in (mf, gcn))
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("layers", [1, 3])
def test_lightgcn_scores_like_an_independent_library(layers: int) -> None:
    geometric: Any = pytest.importorskip("torch_geometric.nn.models")
    graph, model = graph_of(), LightGCN(60, 40, d=8, layers=layers, seed=0)
    other = geometric.LightGCN(100, 8, layers)
    with torch.no_grad():
        other.embedding.weight.copy_(model.table)
    ends = (world().train.pairs + torch.tensor([0, 60])).T
    edges = torch.cat([ends, ends.flip(0)], 1)
    z = other.get_embedding(edges)
    torch.testing.assert_close(torch.cat(model(graph)), z, atol=1e-6, rtol=0)
    z_user, z_item = model(graph)
    torch.testing.assert_close(z_user @ z_item.T, z[:60] @ z[60:].T, atol=1e-6, rtol=0)


def test_the_ranking_loss_is_that_of_an_independent_library() -> None:
    geometric: Any = pytest.importorskip("torch_geometric.nn.models.lightgcn")
    positives, negatives = torch.randn(2, 50, generator=torch.Generator().manual_seed(0))
    theirs = geometric.BPRLoss(0.0)(positives, negatives)
    torch.testing.assert_close(torch.nn.functional.softplus(negatives - positives).mean(), theirs)


def test_one_edge_by_hand() -> None:
    model = LightGCN(1, 1, d=4, layers=1)
    z_user, z_item = model(Graph.of(torch.tensor([[0, 0]]), 1, 1))
    middle = model.table.mean(0, keepdim=True)
    torch.testing.assert_close(z_user, middle)
    torch.testing.assert_close(z_item, middle)
    summed = LightGCN(1, 1, d=4, layers=1, readout="sum")
    torch.testing.assert_close(summed(Graph.of(torch.tensor([[0, 0]]), 1, 1))[0], 2 * middle)


def test_isolated_nodes_keep_their_share() -> None:
    model = LightGCN(3, 2, d=4, layers=3)
    z_user, _ = model(Graph.of(torch.tensor([[0, 0], [1, 1]]), 3, 2))
    torch.testing.assert_close(z_user[2], model.table[2] / 4)


def test_the_penalty_is_half_the_squares_of_the_three_rows() -> None:
    model = LightGCN(60, 40, d=8)
    e_u, e_i, e_j = model.table[TRIPLES[0]], model.table[60 + TRIPLES[1]], model.table[60 + TRIPLES[2]]
    wanted = (e_u.square() + e_i.square() + e_j.square()).sum(1) / 2
    torch.testing.assert_close(model.penalty(*TRIPLES), wanted)


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(InputError, match="layers=-1"):
        LightGCN(2, 2, layers=-1)
    with pytest.raises(InputError, match="readout='max'"):
        LightGCN(2, 2, readout="max")  # type: ignore[arg-type]


# -- VBPR --------------------------------------------------------------------------------------------


def test_vbpr_by_its_formula() -> None:
    model = VBPR(60, 40, world().features, d=8, seed=1)
    with torch.no_grad():
        model.projection.bias.normal_(generator=torch.Generator().manual_seed(0))
    f = torch.cat([world().features["text"], world().features["visual"]], 1)
    items = torch.cat([model.table, f @ model.projection.weight.T + model.projection.bias], 1)
    z_user, z_item = model(graph_of())
    assert torch.equal(z_user, model.preferences)
    assert z_user.shape == (60, 16)
    torch.testing.assert_close(z_item, items)
    matrices = [model.preferences[TRIPLES[0]], items[TRIPLES[1]], items[TRIPLES[2]]]
    wanted = torch.stack([m.norm() for m in matrices]).sum() / 4
    ours = model.penalty(*TRIPLES).mean()
    torch.testing.assert_close(ours, wanted)
    names = [p for _, p in model.named_parameters()]
    for a, b in zip(torch.autograd.grad(ours, names), torch.autograd.grad(wanted, names), strict=True):
        torch.testing.assert_close(a, b)


def test_the_penalty_of_a_zero_vector_has_no_slope() -> None:
    model = VBPR(60, 40, world().features, d=8)
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    slopes = torch.autograd.grad(model.penalty(*TRIPLES).sum(), list(model.parameters()))
    assert all(bool((slope == 0).all()) for slope in slopes)


# -- MMGCN -------------------------------------------------------------------------------------------


def by_hand(model: MMGCN, modality: str) -> Tensor:
    """One network of MMGCN with a dense mean, line by line."""
    pairs, t = world().train.pairs, model.identities
    b = torch.zeros(100, 100)
    b[pairs[:, 0], pairs[:, 1] + 60] = 1
    b = b + b.T
    b = b / b.sum(1, keepdim=True).clamp_min(1)
    p = dict(model.networks[modality].named_parameters())
    f = world().features[modality]
    if modality == "visual":
        f = f @ p["map.weight"].T + p["map.bias"]
    x = torch.cat([p["preferences"], f])
    x = x / x.norm(dim=1, keepdim=True)
    lrelu = torch.nn.functional.leaky_relu
    for k in range(3):
        h = lrelu(b @ (x @ p[f"received.{k}.weight"].T), 0.01)
        e = lrelu(x @ p[f"own.{k}.weight"].T + p[f"own.{k}.bias"], 0.01) + t
        x = lrelu(torch.cat([h, e], 1) @ p[f"mixed.{k}.weight"].T + p[f"mixed.{k}.bias"], 0.01)
    return x


def test_mmgcn_by_its_formula() -> None:
    model = MMGCN(60, 40, world().features, d=8, seed=1)
    wanted = (by_hand(model, "text") + by_hand(model, "visual")) / 2
    torch.testing.assert_close(torch.cat(model(graph_of())), wanted, atol=1e-5, rtol=1e-4)
    assert model.networks["visual"].preferences.shape == (60, 256)
    assert model.networks["text"].preferences.shape == (60, 16)


def test_the_penalty_of_mmgcn_by_its_formula() -> None:
    model = MMGCN(60, 40, world().features, d=8, seed=1)
    users, items = TRIPLES[0].repeat(2), torch.cat(TRIPLES[1:])
    t = model.identities
    wanted = (t[users] ** 2 + t[60 + items] ** 2).mean() + (model.networks["visual"].preferences ** 2).mean()
    torch.testing.assert_close(model.penalty(*TRIPLES).mean(), wanted)
    text = MMGCN(60, 40, {"text": world().features["text"]}, d=8)
    t = text.identities
    wanted = (t[users] ** 2 + t[60 + items] ** 2).mean() + (text.networks["text"].preferences ** 2).mean()
    torch.testing.assert_close(text.penalty(*TRIPLES).mean(), wanted)


def test_preferences_and_identities_are_trained_and_saved() -> None:
    model = MMGCN(60, 40, world().features, d=8)
    slopes = dict(zip(dict(model.named_parameters()), torch.autograd.grad(
        objective(model, graph_of()), list(model.parameters())), strict=True))  # fmt: skip
    for name in ("identities", "networks.text.preferences", "networks.visual.preferences"):
        assert bool(slopes[name].any())
        assert name in model.state_dict()


# -- all of them -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_rebuilt_from_its_origin_with_the_same_weights_it_answers_the_same(kind: str) -> None:
    model = network(kind, seed=2)
    again = rebuilt(json.loads(json.dumps(model.origin())))
    again.load_state_dict(model.state_dict())
    assert all(map(torch.equal, model(graph_of()), again(graph_of())))
    assert again.reg == model.reg


@pytest.mark.parametrize("kind", KINDS)
def test_initial_values_are_a_function_of_the_seed(kind: str) -> None:
    torch.manual_seed(11)
    first = state(network(kind, seed=2))
    torch.manual_seed(12)
    assert all(torch.equal(v, first[n]) for n, v in state(network(kind, seed=2)).items())
    other = network(kind, seed=3)
    assert all(not torch.equal(p, first[n]) for n, p in other.named_parameters() if p.ndim == 2)


@pytest.mark.parametrize("kind", KINDS)
def test_reset_rows_are_those_of_a_fresh_model_and_nothing_else_moves(kind: str) -> None:
    model, before, wanted = network(kind, seed=2), state(network(kind, seed=2)), network(kind, seed=9)
    nodes = torch.tensor([4, 17, 60 + 3])
    model.reset_rows(nodes, seed=9)
    for name, p in model.named_parameters():
        if name not in model.node_rows:
            assert torch.equal(p, before[name])
            continue
        rows = model.rows_of(name, nodes)
        assert len(rows) == {"node": 3, "user": 2, "item": 1}[model.node_rows[name]]
        rest = torch.ones(len(p), dtype=torch.bool)
        rest[rows] = False
        assert torch.equal(p[rows], wanted.get_parameter(name)[rows])
        assert torch.equal(p[rest], before[name][rest])


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_the_ones_they_are_said_to_be(kind: str) -> None:
    """A user's row moves the scores of no other user where nothing is propagated, and theirs everywhere."""
    graph = Graph.of(torch.zeros(0, 2, dtype=torch.long), 60, 40)  # without edges nobody hears of anybody
    model = network(kind, seed=2)
    for node, side, place in ((4, 0, 4), (60 + 3, 1, 3)):
        before = [z.clone() for z in model(graph)]
        model.reset_rows(torch.tensor([node]), seed=9)
        after = model(graph)
        moved = (after[side] != before[side]).any(1).nonzero()[:, 0]
        assert moved.tolist() == [place]
        assert torch.equal(after[1 - side], before[1 - side])


@pytest.mark.parametrize("kind", KINDS)
def test_other_weights_can_be_put_in(kind: str) -> None:
    model, other = network(kind, seed=2), network(kind, seed=3)
    put = torch.func.functional_call(model, dict(other.named_parameters()), (graph_of(),))
    assert all(map(torch.equal, put, other(graph_of())))


@pytest.mark.parametrize("kind", KINDS)
def test_second_derivatives_are_right(kind: str) -> None:
    """A Hessian-vector product in float64 equals the difference of two gradients."""
    model, graph = network(kind, seed=2).double(), graph_of()
    weights = list(model.parameters())
    generator = torch.Generator().manual_seed(0)
    along = [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in weights]
    slopes = torch.autograd.grad(objective(model, graph), weights, create_graph=True)
    product = torch.autograd.grad(sum((s * v).sum() for s, v in zip(slopes, along, strict=True)), weights)
    ends, step = [], 1e-7
    for sign in (1, -1):
        with torch.no_grad():
            for p, v in zip(weights, along, strict=True):
                p.add_(v, alpha=sign * step)
        ends.append(torch.autograd.grad(objective(model, graph), weights))
        with torch.no_grad():
            for p, v in zip(weights, along, strict=True):
                p.sub_(v, alpha=sign * step)
    for found, up, down in zip(product, *ends, strict=True):
        torch.testing.assert_close(found, (up - down) / (2 * step), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("made", [VBPR, MMGCN])
def test_features_that_do_not_fit_are_named(made: type[VBPR] | type[MMGCN]) -> None:
    good = world().features
    with pytest.raises(InputError, match="needs features of the items; none were given"):
        made(60, 40, {})
    with pytest.raises(InputError, match="39 rows"):
        made(60, 40, {"text": good["text"][:39]})
    broken = good["text"].clone()
    broken[3, 1] = float("nan")
    with pytest.raises(InputError, match="item 3 has a number that is not finite"):
        made(60, 40, {"text": broken})
    with pytest.raises(InputError, match="letters, digits and _"):
        made(60, 40, {"alt text": good["text"]})


def test_an_unknown_kind_is_refused_with_the_nearest() -> None:
    with pytest.raises(InputError, match=r"Unknown recommender 'lightgcnn'.*lightgcn"):
        rebuilt({"network": "lightgcnn"})
