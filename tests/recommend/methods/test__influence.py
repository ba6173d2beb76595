"""What a removal changes: curvature against differences of gradients, spill-over, and the rows that move."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from expunge.errors import InputError
from expunge.recommend.data import Interactions
from expunge.recommend.graph import Graph
from expunge.recommend.influence import Product, conjugate_gradient, curvature_range, flatten, gradient
from expunge.recommend.methods._influence import LOSSES, Removal, Triples, frozen, joined, total
from expunge.recommend.methods._rows import (
    beside,
    entries,
    move,
    neighbourhood,
    nodes_of,
    opened,
    relevant,
    removed_share,
)
from expunge.recommend.models.base import Recommender
from expunge.recommend.models.lightgcn import BPRMF, LightGCN
from recommend.tiny import job_of, network

USERS, ITEMS, D = 5, 6, 3


def toy(kind: str = "lightgcn", loss: str = "bpr") -> Removal:
    """5 users x 6 items in double precision; user 0 and item 0 lose an interaction."""
    draw = torch.Generator().manual_seed(2)
    taken = torch.rand(USERS, ITEMS, generator=draw) < 0.5
    taken[0, :3] = True
    pairs = taken.nonzero()
    gone = torch.zeros(len(pairs), dtype=torch.bool)
    gone[0] = True
    negatives = torch.stack([(~taken[u]).nonzero()[0, 0] for u in pairs[:, 0]])
    every = Triples(pairs[:, 0], pairs[:, 1], negatives)
    model = LightGCN(USERS, ITEMS, D, 2, reg=0.05) if kind == "lightgcn" else BPRMF(USERS, ITEMS, D, reg=0.05)
    model.double().table.data.mul_(10)
    before, after = Graph.of(pairs, USERS, ITEMS), Graph.of(pairs[~gone], USERS, ITEMS)
    values = LOSSES[loss]  # type: ignore[index]
    whole = entries(model, torch.arange(USERS + ITEMS))
    return Removal(model, before, after, every.take(gone), every.take(~gone), values, whole)


def differences(removal: Removal, graph: Graph | None, triples: Triples) -> Tensor:
    """The Hessian of `total` by central differences of its gradient."""
    size, step = len(removal.chosen), 1e-5
    columns = []
    for direction in torch.eye(size, dtype=torch.float64):
        ends = []
        for sign in (1, -1):
            move(removal.model, removal.chosen, sign * step * direction)
            value = total(removal.model, graph, triples, removal.values)
            ends.append(gradient(value, list(removal.model.parameters()), removal.chosen))
            move(removal.model, removal.chosen, -sign * step * direction)
        columns.append((ends[0] - ends[1]) / (2 * step))
    return torch.stack(columns)


def dense(product: Product, size: int) -> Tensor:
    return torch.stack([product(e) for e in torch.eye(size, dtype=torch.float64)])


@pytest.mark.parametrize("loss", ["bpr", "bce"])
def test_curvature_is_the_change_of_the_gradient_over_each_graph(loss: str) -> None:
    removal = toy(loss=loss)
    size, every = len(removal.chosen), joined(removal.forget, removal.retain)
    cases = (
        ({}, removal.after, removal.retain),
        ({"over": "all"}, removal.before, every),
        ({"propagated": False}, None, removal.retain),
    )
    found = []
    for options, graph, triples in cases:
        found.append(dense(removal.curvature("exact", **options), size))  # type: ignore[arg-type]
        assert torch.allclose(found[-1], differences(removal, graph, triples), atol=1e-7)
    assert not torch.allclose(found[0], found[1], atol=1e-2)
    assert not torch.allclose(found[0], found[2], atol=1e-2)


def test_the_gauss_newton_curvature_is_never_negative() -> None:
    """The exact one of the same model, which is no minimum, is."""
    removal = toy()
    low, high = curvature_range(removal.curvature("gauss-newton"), removal.chosen)
    assert low > -1e-9
    assert high > 0.5
    assert curvature_range(removal.curvature("exact"), removal.chosen)[0] < -0.1


def test_on_one_side_of_a_factor_model_both_curvatures_are_the_same() -> None:
    """Scores are linear in the users' rows while the items' rest."""
    removal = toy("bpr-mf")
    removal = replace(removal, chosen=entries(removal.model, torch.arange(USERS)))
    found = [dense(removal.curvature(kind), USERS * D) for kind in ("exact", "gauss-newton")]  # type: ignore[arg-type]
    assert torch.allclose(*found, atol=1e-12)


def test_with_everything_spilled_the_newton_direction_is_the_gradient_over_the_kept_graph() -> None:
    """sum_D l(A) + sum_K (l(A) - l(A')) - sum_R l(A) = -sum_K l(A')."""
    removal = toy()
    everything = torch.ones(len(removal.retain), dtype=torch.bool)
    kept = total(removal.model, removal.after, removal.retain, removal.values)
    wanted = -gradient(kept, list(removal.model.parameters()))
    assert torch.allclose(removal.direction(everything, newton=True), wanted, atol=1e-12)
    assert not torch.allclose(removal.direction(everything), removal.direction(~everything), atol=1e-3)


def test_nothing_spills_over_without_a_graph() -> None:
    removal = toy("bpr-mf")
    everything = torch.ones(len(removal.retain), dtype=torch.bool)
    own = gradient(
        total(removal.model, removal.before, removal.forget, removal.values), list(removal.model.parameters())
    )
    assert torch.allclose(removal.direction(everything), own, atol=1e-12)
    assert torch.allclose(removal.direction(~everything), own, atol=1e-12)


def test_one_step_is_retraining_up_to_second_order() -> None:
    """Users' rows over frozen items are a convex problem: from its minimum, one step against the true minimum."""
    removal = toy("bpr-mf")
    removal = replace(removal, chosen=entries(removal.model, torch.arange(USERS)))
    nothing = torch.zeros(len(removal.retain), dtype=torch.bool)

    def descend(value_of: Removal, everything: bool) -> Tensor:
        """The minimum, by Newton steps."""
        triples = joined(value_of.forget, value_of.retain) if everything else value_of.retain
        for _ in range(30):
            value = total(value_of.model, value_of.after, triples, value_of.values)
            g = gradient(value, list(value_of.model.parameters()), value_of.chosen)
            product = value_of.curvature("exact", "all" if everything else "retain")
            move(value_of.model, value_of.chosen, -conjugate_gradient(product, g, 1e-12, 200, 1e-12).x)
        return flatten(list(value_of.model.parameters()), value_of.chosen)

    start = descend(removal, True)
    step = conjugate_gradient(removal.curvature("exact"), removal.direction(nothing), 0.0, 200, 1e-12).x
    wanted = descend(removal, False) - start
    assert float(wanted.norm()) > 0.05
    assert float((step - wanted).norm()) < 0.35 * float(wanted.norm())
    assert float(torch.cosine_similarity(step, wanted, 0)) > 0.95


def test_rows_of_nodes_and_nothing_else_move() -> None:
    """User 3 and item 5 in tables of users, of items and of nodes; shared parameters only when asked for."""
    nodes = torch.tensor([3, 60 + 5])
    for kind in ("bpr-mf", "vbpr"):
        model: Recommender = network(kind)
        before = {n: p.detach().clone() for n, p in model.named_parameters()}
        chosen = entries(model, nodes)
        move(model, chosen, torch.ones(len(chosen), dtype=torch.float64))
        for name, p in model.named_parameters():
            rows = model.rows_of(name, nodes) if name in model.node_rows else torch.zeros(0, dtype=torch.long)
            wanted = before[name].clone()
            wanted[rows] += 1
            assert torch.equal(p.detach(), wanted), name
        assert (len(entries(model, nodes, shared=True)) > len(chosen)) == (kind == "vbpr")


def test_neighbourhoods_shares_and_relevance_of_a_chain() -> None:
    """u0 - i0 - u1 - i1 - u2, whose first edge goes: u0 loses all, i0 half; relevance spreads to u1."""
    pairs = torch.tensor([[0, 0], [1, 0], [1, 1], [2, 1]])
    chain = Interactions(3, 2, pairs)
    first = chain.take([0])
    before, after = Graph(chain), Graph(chain.take([1, 2, 3]))
    assert nodes_of(first).tolist() == [0, 3]
    assert [neighbourhood(nodes_of(first), chain, h).tolist() for h in range(4)] == [
        [0, 3], [0, 1, 3], [0, 1, 3, 4], [0, 1, 2, 3, 4],
    ]  # fmt: skip
    assert removed_share(before, after).tolist() == [1, 0, 0, 0.5, 0]
    # r = s + A s: u0 1 + .5/sqrt 2 = 1.35; i0 .5 + 1/sqrt 2 = 1.21; u1 .5/2 = .25; the others 0
    assert relevant(before, after, 0.0).tolist() == [0, 1, 3]
    assert relevant(before, after, 0.4).tolist() == [0, 3]
    assert relevant(before, after, 0.99).tolist() == [0]
    triples = Triples(*chain.pairs.T, torch.zeros(4, dtype=torch.long))
    assert beside(triples, torch.tensor([0, 4]), 3, 5).tolist() == [True, False, True, True]


def test_negatives_are_frozen_and_never_what_the_user_took() -> None:
    job = job_of()
    forget, retain = frozen(job)
    assert torch.equal(frozen(job)[1].negatives, retain.negatives)
    assert not torch.equal(frozen(replace(job, seed=9))[1].negatives, retain.negatives)
    every = joined(forget, retain)
    assert len(every) == len(job.subject.served)
    assert not bool(job.subject.served.contains(torch.stack([every.users, every.negatives], 1)).any())


def test_flags_and_mode_are_put_back() -> None:
    model = network().train()
    model.requires_grad_(False)
    with opened(model) as parameters:
        assert all(p.requires_grad for p in parameters.values())
        assert not model.training
    assert model.training
    assert not any(p.requires_grad for p in model.parameters())


def test_a_model_of_several_tables_has_no_hessian_without_propagation() -> None:
    job = job_of(kind="vbpr")
    forget, retain = frozen(job)
    model = job.subject.model
    removal = Removal(
        model, job.subject.graph, job.dropped().graph, forget, retain, LOSSES["bpr"], entries(model, torch.arange(100))
    )
    with pytest.raises(InputError, match=r"VBPR has other parameters"):
        removal.curvature("exact", propagated=False)
