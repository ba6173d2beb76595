"""A world of 60 users and 40 items, and recommenders that learn it in a moment."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from expunge.engine.training import Training
from expunge.recommend.data import Interactions
from expunge.recommend.methods.fine_tune import FineTune
from expunge.recommend.models.base import Recommender
from expunge.recommend.models.lightgcn import BPRMF, LightGCN
from expunge.recommend.models.mmgcn import MMGCN
from expunge.recommend.models.vbpr import VBPR
from expunge.recommend.requests import edge_request, item_request, user_request
from expunge.recommend.subject import Subject, fresh
from expunge.recommend.synthetic import World
from expunge.recommend.unlearn import UnlearnJob

KINDS = ("bpr-mf", "lightgcn", "vbpr", "mmgcn")
REQUESTS = ("users", "items", "edges")
TRAINING = Training(
    steps=60, batch_size=128, lr=2e-2, schedule="constant", warmup=0.0, weight_decay=0.0, clip=None
)  # fmt: skip
STEPS = replace(TRAINING, steps=5, batch_size=16)


@cache
def world() -> World:
    """60 users, 40 items, and features of the items."""
    return World(60, 40, 0)


def network(kind: str = "lightgcn", seed: int = 0) -> Recommender:
    """An untrained recommender of 8 numbers a node over the tiny world."""
    users, items = world().train.users, world().train.items
    if kind == "bpr-mf":
        return BPRMF(users, items, d=8, seed=seed)
    if kind == "lightgcn":
        return LightGCN(users, items, d=8, layers=2, seed=seed)
    return {"vbpr": VBPR, "mmgcn": MMGCN}[kind](users, items, world().features, d=8, seed=seed)


def untrained(kind: str = "lightgcn", seed: int = 0) -> Subject:
    """An untrained recommender serving the training interactions."""
    return fresh(network(kind, seed), world().train)


@cache
def _trained(kind: str, seed: int) -> Subject:
    subject = untrained(kind, seed)
    train = world().train
    none = train.take(torch.zeros(0, dtype=torch.long))
    return UnlearnJob(subject, none, train, TRAINING, seed).train(FineTune(), subject)


def trained(kind: str = "lightgcn", seed: int = 0) -> Subject:
    """A copy of a recommender that has learnt the tiny world; trained once in a session."""
    subject = _trained(kind, seed)
    return subject.with_model(copy.deepcopy(subject.model))


@cache
def forget_of(request: str = "users") -> Interactions:
    """A request for 10% of the users, of the items or of the edges."""
    train = world().train
    if request == "users":
        return user_request(train, 0.1, 0)
    return item_request(train, 0.1, 0) if request == "items" else edge_request(train, 0.1, 0)


def job_of(training: Training = STEPS, request: str = "users", kind: str = "lightgcn", **changes: Any) -> UnlearnJob:
    """A request on a trained tiny recommender."""
    forget = forget_of(request)
    job = UnlearnJob(trained(kind), forget, world().train.without(forget), training, held_out=world().valid)
    job.base, job.base_training = (lambda: untrained(kind)), TRAINING
    job.features = dict(world().features)
    return replace(job, **changes)


def state(model: nn.Module) -> dict[str, Tensor]:
    """A copy of parameters and buffers."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def changed(a: dict[str, Tensor], b: dict[str, Tensor]) -> set[str]:
    """Names of tensors that differ in a bit."""
    assert a.keys() == b.keys()
    return {name for name in a if not torch.equal(a[name], b[name])}


def apart(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """Largest difference."""
    return max(float((a[name].double() - b[name].double()).abs().max()) for name in a)


def forget_scores(subject: Subject, request: str = "users") -> float:
    """Mean score of the forgotten pairs, over the mean of all pairs."""
    everything = subject.scores(torch.arange(subject.served.users))
    return float(subject.pair_scores(forget_of(request).pairs).mean() - everything.mean())
