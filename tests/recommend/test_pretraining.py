"""Pre-training the encoder: the made-up requests, the loss on a batch, what may move."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor

from expunge.engine.loop import Loop, Stream
from expunge.engine.method import Step
from expunge.engine.training import Training
from expunge.errors import InputError
from expunge.recommend.data import Interactions
from expunge.recommend.encoder import InfluenceEncoder
from expunge.recommend.graph import Graph
from expunge.recommend.models.lightgcn import LightGCN
from expunge.recommend.pretraining import (
    KINDS,
    EncoderLoss,
    RequestSampler,
    Thinned,
    Validation,
    random_edges,
    random_nodes,
)
from expunge.recommend.rewriting import Request, RequestTriples, Rewritten, rewritten
from expunge.recommend.synthetic import World

WORLD = World()
TRAINING = Training(batch_size=64, lr=1e-2, weight_decay=0.0, schedule="constant", warmup=0.0, clip=None)


def model() -> Rewritten:
    base = LightGCN(WORLD.users, WORLD.items, 8, 2, seed=1).requires_grad_(False)
    return rewritten(base, Graph(WORLD.train), InfluenceEncoder(100, 8, layers=2, seed=0))


def loss(**changes: object) -> EncoderLoss:
    settings = {"lambda_u": 1.0, "lambda_p": 0.01, "lambda_c": 1e-3, "align_temp": 1.0, "hyper_temp": 1.0,
                "unlearn_type": "v1", "names": ("encoder.",)}  # fmt: skip
    return EncoderLoss(**{**settings, **changes})  # type: ignore[arg-type]


def step(found: Rewritten, request: Request, rows: int = 64) -> Step:
    triples = RequestTriples(lambda _: request, rows, 1, 0)
    return Step(0, 0, {"retain": triples.view(found, torch.arange(rows), (rows, rows), None)}, {}, {})


def all_of(request: Request) -> Tensor:
    return torch.cat([request.forgotten.keys(), request.kept.keys()]).sort().values


@pytest.mark.parametrize("kind", KINDS)
def test_a_made_up_request_divides_the_edges(kind: str) -> None:
    made = (lambda seed: random_edges(WORLD.train, 0.1, seed)) if kind == "edges" else (
        lambda seed: random_nodes(WORLD.train, 0.1, seed, kind)
    )  # fmt: skip
    request = made(3)
    assert torch.equal(all_of(request), WORLD.train.keys().sort().values)
    assert not bool(request.kept.contains(request.forgotten.pairs).any())
    share = len(request.forgotten) / len(WORLD.train)
    assert share == pytest.approx(0.1, abs=0.06)
    assert torch.equal(made(3).forgotten.pairs, request.forgotten.pairs)
    assert not torch.equal(made(4).forgotten.keys(), request.forgotten.keys())
    if kind != "edges":  # nothing is kept of what was chosen
        column = 0 if kind == "users" else 1
        chosen, left = request.forgotten.pairs[:, column], request.kept.pairs[:, column]
        assert not bool(torch.isin(left, chosen).any())
        assert (request.catalogue is None) == (kind == "users")


def test_hubs_are_the_items_with_many_edges() -> None:
    degree = WORLD.train.degrees[1].double()

    def mean_degree(kind: str) -> float:
        found = [random_nodes(WORLD.train, 0.05, seed, kind).forgotten.pairs[:, 1].unique() for seed in range(40)]
        return float(degree[torch.cat(found)].mean())

    assert mean_degree("hubs") > 1.1 * mean_degree("items")


def test_mixture_takes_turns_and_varies_in_size_while_the_papers_does_not() -> None:
    mixture = RequestSampler(WORLD.train, "mixture", 0.2, 5)
    sizes = [len(mixture(n).forgotten) / len(WORLD.train) for n in range(24)]
    assert min(sizes) < 0.01
    assert max(sizes) > 0.1
    paper = RequestSampler(WORLD.train, "paper", 0.2, 5)
    assert Counter(len(paper(n).forgotten) for n in range(5)) == {round(0.2 * len(WORLD.train)): 5}
    assert not torch.equal(paper(0).forgotten.keys(), paper(1).forgotten.keys())


@pytest.mark.parametrize("kind", ["paper", "mixture"])
def test_validation_requests_are_never_trained_on(kind: str) -> None:
    sampler = RequestSampler(WORLD.train, kind, 0.2, 5)  # type: ignore[arg-type]
    held = sampler.validation()
    assert len(held) == (1 if kind == "paper" else len(KINDS))
    trained = {sampler(n).forgotten.digest for n in range(40)}
    assert not trained & {r.forgotten.digest for r in held}


def test_one_huge_node_cannot_take_every_edge() -> None:
    star = Interactions(1, 5, torch.stack([torch.zeros(5, dtype=torch.long), torch.arange(5)], 1))
    request = random_nodes(star, 0.2, 0, "users")
    assert len(request.kept)
    assert len(request.forgotten)


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1])
def test_a_rate_must_leave_something_on_both_sides(rate: float) -> None:
    with pytest.raises(InputError, match="pretrain_drop_rate"):
        random_edges(WORLD.train, rate, 0)


def test_thinned_keeps_entries_as_they_were() -> None:
    """Against the dense matrix: entries of A(D) at the kept edges, over the rate; rate 1 is A(D) itself."""
    request = random_edges(WORLD.train, 0.3, 0)
    whole, x = request.forgotten_graph, torch.eye(100, dtype=torch.float64)
    A = whole.propagate(x)
    assert torch.allclose(Thinned(request.forgotten, whole, 1.0, torch.Generator()).propagate(x), A, atol=1e-12)
    thin = Thinned(request.forgotten, whole, 0.6, torch.Generator().manual_seed(0)).propagate(x)
    kept = thin != 0
    assert torch.allclose(thin[kept], A[kept] / 0.6, atol=1e-12)
    assert torch.allclose(thin, thin.T, atol=1e-15)
    assert 0.4 < float(kept.sum() / (A != 0).sum()) < 0.8


def test_triples_are_kept_pairs_with_items_their_user_does_not_keep() -> None:
    request = random_edges(WORLD.train, 0.2, 0)
    triples = RequestTriples(lambda _: request, 700, 2, 0)
    first, second = triples.stretch(0)[1], triples.stretch(1)[1]
    assert bool(request.kept.contains(first[:, :2]).all())
    assert not bool(request.kept.contains(first[:, [0, 2]]).any())
    assert not torch.equal(first, second)
    whole_pass = first[: len(request.kept), 0] * WORLD.items + first[: len(request.kept), 1]
    assert torch.equal(whole_pass.sort().values, request.kept.keys().sort().values)
    assert torch.equal(triples.stretch(0)[1], first)


def test_the_terms_add_up() -> None:
    """Each weight adds its own term; without weights the loss is BPR on K."""
    found, request = model(), random_edges(WORLD.train, 0.2, 0)
    found.encoder.states.data.normal_(generator=torch.Generator().manual_seed(0))
    view = step(found, request).retain
    none = {"lambda_u": 0.0, "lambda_p": 0.0, "lambda_c": 0.0}
    bpr = torch.nn.functional.softplus(-view.margin).mean()

    def at(**weights: object) -> float:
        return float(loss(**{**none, **weights}).retain_loss(step(found, request)).detach())

    assert at() == pytest.approx(float(bpr.detach()), rel=1e-6)
    assert at(lambda_u=2.0) - at() == pytest.approx(
        2 * float(torch.nn.functional.softplus(view.forgotten_scores).mean().detach()), rel=1e-4
    )
    assert at(lambda_u=2.0, unlearn_type="v2") - at() == pytest.approx(
        2 * float(view.forgotten_scores.mean().detach()), abs=1e-5
    )
    assert at(lambda_p=0.02) - at(lambda_p=0.01) == pytest.approx(at(lambda_p=0.01) - at(), rel=1e-2)
    assert at(lambda_p=0.01) > at()
    assert at(lambda_c=1.0) > at()


def test_nothing_to_preserve_where_nothing_changed() -> None:
    """E0' = E0 and A(K) = A(train): L_p = 0."""
    found = model()
    nothing = Request(WORLD.train.take([]), WORLD.train)
    view = step(found, nothing).retain
    z_u, z_i = view.embeddings
    assert torch.allclose(view.batch_scores(z_u, z_i), view.original_scores, atol=1e-6)


def test_the_regulariser_counts_only_where_the_table_moves() -> None:
    found, request = model(), random_edges(WORLD.train, 0.2, 0)
    frozen = float(loss().retain_loss(step(found, request)).detach())
    found.base.requires_grad_(True)
    view = step(found, request).retain
    penalty = found.base.reg * float(found.base.penalty(view.users, view.positives, view.negatives).mean().detach())
    assert float(loss().retain_loss(step(found, request)).detach()) - frozen == pytest.approx(penalty, rel=1e-2)


def test_pretraining_moves_the_encoder_alone_and_is_deterministic() -> None:
    ends = []
    for _ in range(2):
        found = model()
        before = {n: p.detach().clone() for n, p in found.named_parameters()}
        sampler = RequestSampler(WORLD.train, "mixture", 0.2, 0)
        triples = RequestTriples(sampler, 2 * 64, 3, 0)
        Loop(found, loss(), {"retain": Stream(triples, torch.arange(6 * 64).view(6, 64))}, TRAINING, seed=0).run()
        moved = {n for n, p in found.named_parameters() if not torch.equal(p, before[n])}
        assert moved == {n for n in before if n.startswith("encoder.")}
        assert all(p.grad is None for p in found.parameters())
        ends.append(torch.cat([p.detach().flatten() for p in found.encoder.parameters()]))
    assert torch.equal(*ends)


def test_validation_measures_recall_and_the_gap() -> None:
    found, request = model(), random_edges(WORLD.train, 0.2, 0)
    values = Validation([request], WORLD.valid, WORLD.train, 0).probe(found)
    assert 0 <= values["retain"] <= 1
    pushed = rewritten(found.base, Graph(WORLD.train), InfluenceEncoder(100, 8, layers=0, dense=0, start=0.0))
    pushed.encoder.states.data[:] = -found.table  # all scores 0
    assert Validation([request], None, WORLD.train, 0).probe(pushed) == {"gap": pytest.approx(0.0, abs=1e-6)}
    assert Validation.score({"gap": 0.3}) > Validation.score({"gap": -0.1})
