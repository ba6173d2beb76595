"""Recommenders: one timed piece of work per call, `python -m benchmarks.recommend NAME`, in seconds of processor time.

Steps are timed on random interactions of MovieLens-100k's size (943 users, 1,682 items, 70,771 interactions). What
unlearning costs is timed on MovieLens-100k itself, in one process, because every method starts from the same target:
`python -m benchmarks.recommend costs`.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.timing import run_piece
from expunge.engine.loop import Observers
from expunge.engine.method import Method
from expunge.engine.training import Training
from expunge.errors import InputError
from expunge.recommend.benchmarks.recommend import Recommend
from expunge.recommend.data import Interactions
from expunge.recommend.files import ml_100k_folder
from expunge.recommend.graph import Graph
from expunge.recommend.methods.drop_edges import DropEdges
from expunge.recommend.methods.fine_tune import FineTune
from expunge.recommend.methods.mmrecun import MMRecUn
from expunge.recommend.methods.retrain import Retrain
from expunge.recommend.methods.row_reset import RowReset
from expunge.recommend.methods.unlearnrec import UnlearnRec
from expunge.recommend.models.lightgcn import LightGCN
from expunge.recommend.subject import Subject, fresh
from expunge.recommend.unlearn import UnlearnJob, unlearn

USERS, ITEMS, EDGES, D, LAYERS = 943, 1682, 70_771, 64, 3
BATCH, STEPS, PASSES = 2048, 60, 40
REG, LR = 1e-3, 5e-3


def interactions() -> Interactions:
    """Random interactions; few items have many of them, as in MovieLens."""
    g = torch.Generator().manual_seed(0)
    popular = torch.rand(ITEMS, generator=g).pow(3)
    keys = torch.rand(USERS, ITEMS, generator=g) * popular[None]
    chosen = keys.flatten().topk(EDGES).indices.sort().values
    return Interactions(USERS, ITEMS, torch.stack([chosen // ITEMS, chosen % ITEMS], 1))


# -- a step ---------------------------------------------------------------------------------------------


def step() -> float:
    """Ordinary training of LightGCN as the runner does it."""
    train = interactions()
    subject = fresh(LightGCN(USERS, ITEMS, D, LAYERS, reg=REG), train)
    training = Training(steps=STEPS + 1, batch_size=BATCH, lr=LR, schedule="constant", warmup=0.0, weight_decay=0.0,
                        clip=None)  # fmt: skip
    clock: list[float] = []
    observers = Observers(progress=lambda *_: clock.append(time.process_time()))
    UnlearnJob(subject, train.take([]), train, training, observers=observers).train(FineTune(), subject)
    return clock[-1] - clock[0]


def by_hand() -> float:
    """The loop anybody who knows LightGCN well would write: the same product, the same negatives, nothing around it."""
    train, table = interactions(), torch.nn.Parameter(torch.randn(USERS + ITEMS, D) * 0.1)
    graph, seen, adam = Graph(train), train.mask(), torch.optim.Adam([table], lr=LR)
    times = []
    for _ in range(STEPS + 1):
        started = time.process_time()
        users, positives = train.pairs[torch.randint(EDGES, (BATCH,))].unbind(1)
        negatives = torch.randint(ITEMS, (BATCH,))
        while bool((again := seen[users, negatives]).any()):
            negatives[again] = torch.randint(ITEMS, (int(again.sum()),))
        x: Tensor = table
        z = x
        for _ in range(LAYERS):
            x = graph.propagate(x)
            z = z + x
        z = z / (LAYERS + 1)
        user, pair = z[users], (z[USERS + positives], z[USERS + negatives])
        rows = (table[users], table[USERS + positives], table[USERS + negatives])
        penalty = sum(row.square().sum() for row in rows) / 2 / BATCH
        loss = F.softplus((user * (pair[1] - pair[0])).sum(1)).mean() + REG * penalty
        adam.zero_grad()
        loss.backward()
        adam.step()
        times.append(time.process_time() - started)
    return sum(times[1:])


# -- three layers, forward and backward -------------------------------------------------------------------


def passes(forward: Callable[[], Tensor], parameter: Tensor) -> float:
    """Forward and backward passes after one that warms up."""
    times = []
    for _ in range(PASSES + 1):
        started = time.process_time()
        parameter.grad = None
        forward().square().sum().backward()
        times.append(time.process_time() - started)
    return sum(times[1:])


def product() -> float:
    """Ours: the gradient of a product with a symmetric matrix is the same product."""
    model = LightGCN(USERS, ITEMS, D, LAYERS)
    graph = Graph(interactions())
    return passes(lambda: torch.cat(model(graph)), model.table)


def product_csr() -> float:
    """The same through torch's own autograd on a matrix in compressed rows."""
    model, graph = LightGCN(USERS, ITEMS, D, LAYERS), Graph(interactions())
    matrix = _matrix(graph).to_sparse_csr()

    def forward() -> Tensor:
        x: Tensor = model.table
        z = x
        for _ in range(LAYERS):
            x = matrix @ x
            z = z + x
        return z / (LAYERS + 1)

    return passes(forward, model.table)


def _matrix(graph: Graph) -> Tensor:
    """D^-1/2 B D^-1/2 as coordinates."""
    ends = torch.stack([graph.pairs[:, 0], graph.pairs[:, 1] + USERS])
    both = torch.cat([ends, ends.flip(0)], 1)
    scale = graph.degree.clamp_min(1).rsqrt()
    return torch.sparse_coo_tensor(both, scale[both[0]] * scale[both[1]], (graph.nodes, graph.nodes)).coalesce()


def geometric(*, compressed: bool) -> float:
    """torch_geometric's LightGCN, given the edges as a list (its default) or as a matrix in compressed rows."""
    from torch_geometric.nn.models import LightGCN as Theirs

    graph = Graph(interactions())
    ends = torch.stack([graph.pairs[:, 0], graph.pairs[:, 1] + USERS])
    edges = torch.cat([ends, ends.flip(0)], 1)
    model = Theirs(USERS + ITEMS, D, LAYERS)
    given: Any = edges
    if compressed:
        given = torch.sparse_coo_tensor(edges, torch.ones(edges.shape[1]), (graph.nodes, graph.nodes)).to_sparse_csr()
    return passes(lambda: model.get_embedding(given), model.embedding.weight)


# -- what unlearning costs --------------------------------------------------------------------------------


def costs() -> dict[str, float]:
    """Seconds of retraining on MovieLens-100k without 5% of the users, and of methods from the same target."""
    bench = Recommend("ml-100k", "users")
    work, training = bench.load(0), bench.target_training
    train = work.forget.union(work.retain)
    target = fresh(bench.network(0).model, train)
    UnlearnJob(target, train.take([]), train, training).train(FineTune(), target)

    def seconds(method: Method, train: Training) -> float:
        model = type(target.model).from_origin({k: v for k, v in target.origin.items() if k != "network"})
        model.load_state_dict(target.model.state_dict())
        subject = target.with_model(model.eval())
        subject.graph  # noqa: B018  it is there before a request comes
        job = UnlearnJob(subject, work.forget, work.retain, train, base=base, base_training=training,
                         held_out=work.valid)  # fmt: skip
        started = time.process_time()
        unlearn(method, job)
        return time.process_time() - started

    def base() -> Subject:
        return fresh(bench.network(0).model, train)

    tuning = replace(training, epochs=1)
    found = {"retrain": seconds(Retrain(), training)}
    with tempfile.TemporaryDirectory() as folder:
        found["unlearnrec-first"] = seconds(UnlearnRec(zero_shot=True, stored=folder), tuning)
        found["unlearnrec-next"] = seconds(UnlearnRec(zero_shot=True, stored=folder), tuning)
        found["unlearnrec-tuned"] = seconds(UnlearnRec(stored=folder), tuning)
    found["mmrecun"] = seconds(MMRecUn(), replace(training, steps=100))
    found["row-reset"] = seconds(RowReset(), training)
    found["drop-edges"] = seconds(DropEdges(), training)
    return found


def missing() -> str | None:
    """Why the costs cannot be timed; None if they can."""
    try:
        ml_100k_folder()
    except InputError as error:
        return str(error)
    return None


PIECES: dict[str, Callable[[], float]] = {
    "lightgcn": step,
    "lightgcn-by-hand": by_hand,
    "product": product,
    "product-csr": product_csr,
    "geometric": lambda: geometric(compressed=False),
    "geometric-csr": lambda: geometric(compressed=True),
}


if __name__ == "__main__":
    warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
    if sys.argv[1] == "costs":
        torch.set_num_threads(1)
        print(json.dumps({"missing": reason} if (reason := missing()) else costs()))
    else:
        run_piece(PIECES)
