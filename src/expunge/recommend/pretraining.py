"""Pre-training UnlearnRec's encoder on made-up requests: which requests, which loss, which checkpoint."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn

from expunge.engine.method import Step, Trained
from expunge.engine.sampling import generator
from expunge.engine.training import derive_seed
from expunge.errors import InputError
from expunge.recommend.data import Interactions
from expunge.recommend.graph import Graph
from expunge.recommend.losses import forward_bpr
from expunge.recommend.ranking import evaluate
from expunge.recommend.requests import non_interactions
from expunge.recommend.rewriting import InfluencePass, Request, Rewritten
from expunge.recommend.unlearnrec_losses import contrast, preserving, unlearning

Sampler = Literal["paper", "mixture"]
KINDS = ("edges", "users", "items", "hubs")
SIZES = (1e-3, 0.3)  # shares of the edges between which the sizes of a mixture lie
VALIDATED = 0.05  # share of the edges in each validation request of a mixture
RANKED = 20


def random_edges(train: Interactions, share: float, seed: int) -> Request:
    """A uniform random share of the edges, at least one and never all of them.

    Raises:
        InputError: A share outside (0, 1), or fewer than two edges.
    """
    if not 0 < share < 1:
        raise InputError(f"unlearnrec: pretrain_drop_rate={share} must lie between 0 and 1, both excluded.")
    return _request(train, torch.randperm(len(train), generator=generator(seed, "edges")), share)


def random_nodes(train: Interactions, share: float, seed: int, kind: str) -> Request:
    """All edges of users or items drawn one after the other, until a share of all edges is reached.

    Args:
        train: All edges.
        share: Of them; the last node drawn may exceed it.
        seed: Of the draws.
        kind: ``users`` or ``items``, all with the same chance, or ``hubs``: items with a chance in proportion to their
            degree.
    """
    side = 0 if kind == "users" else 1
    degree = train.degrees[side].double()
    weight = degree if kind == "hubs" else (degree > 0).double()
    draw = torch.rand(len(degree), generator=generator(seed, kind), dtype=torch.float64)
    order = (draw.log() / weight).argsort(descending=True)  # draws without replacement; weight 0 comes last
    before = degree[order].cumsum(0) - degree[order]
    chosen = order[before < share * len(train)]
    forgotten = torch.isin(train.pairs[:, side], chosen)
    if bool(forgotten.all()):  # one node has nearly all the edges
        return random_edges(train, share, seed)
    catalogue = None
    if side:
        catalogue = torch.ones(train.items, dtype=torch.bool)
        catalogue[chosen] = False
    return Request(train.take(forgotten), train.take(~forgotten), catalogue)


def _request(train: Interactions, order: Tensor, share: float) -> Request:
    if len(train) < 2:
        raise InputError(f"unlearnrec: {len(train)} edge cannot be divided into forgotten and kept ones.")
    count = min(max(1, round(share * len(train))), len(train) - 1)
    chosen = torch.zeros(len(train), dtype=torch.bool)
    chosen[order[:count]] = True
    return Request(train.take(chosen), train.take(~chosen))


@dataclass(frozen=True)
class RequestSampler:
    """Draws made-up requests, by number.

    Attributes:
        train: All edges.
        kind: ``paper``: random edges, always `rate` of them. ``mixture``: random edges, users, items and hubs in
            turn, of log-uniform sizes from 0.1% to 30% of the edges, because a request that touches few nodes looks
            nothing like one that touches all.
        rate: Share of ``paper``.
        seed: Of all draws.
    """

    train: Interactions
    kind: Sampler
    rate: float
    seed: int

    def __call__(self, number: int) -> Request:
        """The request of a number."""
        seed = derive_seed(self.seed, "request", number)
        if self.kind == "paper":
            return random_edges(self.train, self.rate, seed)
        low, high = map(math.log, SIZES)
        share = math.exp(low + (high - low) * float(torch.rand((), generator=generator(seed, "size"))))
        return self._of_kind(KINDS[number % len(KINDS)], share, seed)

    def _of_kind(self, kind: str, share: float, seed: int) -> Request:
        if kind == "edges":
            return random_edges(self.train, share, seed)
        return random_nodes(self.train, share, seed, kind)

    def validation(self) -> list[Request]:
        """Requests no step trains on: one of the paper's kind, or one of each kind of the mixture."""
        seed = derive_seed(self.seed, "validation request")
        if self.kind == "paper":
            return [random_edges(self.train, self.rate, seed)]
        return [self._of_kind(kind, VALIDATED, seed) for kind in KINDS]


@dataclass(frozen=True)
class EncoderLoss(Trained):
    """L = L_M + lambda_u L_u + lambda_p L_p + lambda_c L_c on a batch of kept triples; see `UnlearnRec`.

    Attributes:
        lambda_u: Weight of the unlearning term, over all forgotten edges.
        lambda_p: Weight of the preserving term, a sum over the batch.
        lambda_c: Weight of the contrast; 0 leaves it out.
        align_temp: Temperature of the preserving term.
        hyper_temp: Temperature of the contrast.
        unlearn_type: Version of the unlearning term.
        names: Parameters of the `Rewritten` recommender that are trained.
        keep_rate: Share of the forgotten edges that the contrast's other view keeps.
    """

    lambda_u: float
    lambda_p: float
    lambda_c: float
    align_temp: float
    hyper_temp: float
    unlearn_type: Literal["v1", "v2"]
    names: tuple[str, ...]
    keep_rate: float = 0.95

    def trainable(self, model: nn.Module) -> list[str]:
        """See `Trained`."""
        return [n for n, _ in model.named_parameters() if n.startswith(self.names)]

    def retain_loss(self, step: Step) -> Tensor:
        """See the class."""
        view: InfluencePass = step.retain
        z_u, z_i = view.embeddings
        loss = view.per_row(forward_bpr(view.margin)) + self.lambda_u * unlearning(
            view.forgotten_scores, self.unlearn_type
        )
        if view.model.table.requires_grad:  # else a constant
            base = view.model.base
            loss = loss + view.per_row(base.reg * base.penalty(view.users, view.positives, view.negatives))
        if self.lambda_p:
            scores = view.batch_scores(z_u, z_i)
            loss = loss + self.lambda_p * preserving(scores, view.original_scores, self.align_temp)
        if self.lambda_c:
            draw = generator(step.seed, "contrast", step.index)
            loss = loss + self.lambda_c * self._contrast(view, draw)
        return loss

    def _contrast(self, view: InfluencePass, draw: torch.Generator) -> Tensor:
        """Each layer of influence states against itself over fewer forgotten edges, on the batch's nodes."""
        thinned = Thinned(view.request.forgotten, view.request.forgotten_graph, self.keep_rate, draw)
        users, items = view.users.unique(), view.positives.unique() + view.model.base.users
        total = view.margin.new_zeros(())
        for before, after in zip(view.layers[:-1], view.layers[1:], strict=True):
            other = thinned.propagate(before)
            for nodes in (users, items):
                if len(nodes) > 1:  # the contrast of a row with itself alone is 0
                    total = total + contrast(after.detach()[nodes], other.index_select(0, nodes), self.hyper_temp)
        return total


class Thinned:
    """A(D) without some of its edges, the kept entries as they were but divided by the rate of keeping."""

    def __init__(self, edges: Interactions, graph: Graph, rate: float, draw: torch.Generator) -> None:
        kept = edges.take(torch.rand(len(edges), generator=draw) < rate)
        self.graph, self.rate = Graph(kept), rate
        # Graph normalises by its own degrees; these factors put the ones of the whole in their place.
        self.scale = (self.graph.degree / graph.degree.clamp_min(1)).sqrt()[:, None]

    def propagate(self, x: Tensor) -> Tensor:
        """[nodes, d]."""
        scale = self.scale.to(x)
        return scale * self.graph.propagate(scale * x) / self.rate


@dataclass
class Rewriter:
    """What ranking needs to know of a rewritten recommender: its embeddings and its catalogue."""

    vectors: tuple[Tensor, Tensor]
    catalogue: Tensor | None
    blocked: Interactions | None = None

    def embeddings(self) -> tuple[Tensor, Tensor]:
        """Of users and of items."""
        return self.vectors


class Validation:
    """Measures an encoder on requests that no step trains on and on validation interactions (never the test ones)."""

    def __init__(self, requests: list[Request], valid: Interactions | None, known: Interactions, seed: int) -> None:
        """Bind requests.

        Args:
            requests: See `RequestSampler.validation`.
            valid: Validation interactions; None for none, and no recall then.
            known: Every training interaction.
            seed: Draws the pairs that forgotten ones are compared with.
        """
        every = known if valid is None else known.union(valid)
        self.requests = requests
        self.others = [non_interactions(r.forgotten, every, seed) for r in requests]
        self.truths = [None if valid is None else valid.take(_supported(valid, r)) for r in requests]

    @torch.no_grad()
    def probe(self, model: nn.Module) -> dict[str, float]:
        """``retain``: mean validation recall; ``gap``: mean score of non-interactions less that of forgotten pairs."""
        found = [self._one(cast(Rewritten, model), i) for i in range(len(self.requests))]
        return {name: sum(one[name] for one in found) / len(found) for name in found[0]}

    def _one(self, model: Rewritten, i: int) -> dict[str, float]:
        request, truth = self.requests[i], self.truths[i]
        z_u, z_i = model.served(model.changed(request)[0], request)

        def mean(pairs: Tensor) -> float:
            return float((z_u[pairs[:, 0]] * z_i[pairs[:, 1]]).sum(1).mean())

        values = {"gap": mean(self.others[i].pairs) - mean(request.forgotten.pairs)}
        if truth is not None:
            k = min(RANKED, truth.items)
            ranking = evaluate(Rewriter((z_u, z_i), request.catalogue), truth, request.kept, [k])
            values["retain"] = ranking.mean("recall", k)
        return values

    @staticmethod
    def score(values: dict[str, float]) -> tuple[float, ...]:
        """The wider the gap the better; the floor on recall is the loop's."""
        return (values["gap"],)


def _supported(valid: Interactions, request: Request) -> Tensor:
    """Bool [n]: validation pairs whose user and item still have kept edges."""
    users, items = (degree > 0 for degree in request.kept.degrees)
    return users[valid.pairs[:, 0]] & items[valid.pairs[:, 1]]
