"""Recommenders whose scores are given, and evidence about them, for tests that work numbers out by hand."""

from __future__ import annotations

import torch
from torch import Tensor

from expunge.recommend.data import Interactions
from expunge.recommend.evidence import EvidenceStore
from expunge.recommend.models.lightgcn import BPRMF
from expunge.recommend.subject import Subject, fresh


def pairs(users: int, items: int, *of: tuple[int, int]) -> Interactions:
    """Interactions written out."""
    return Interactions(users, items, torch.tensor(of, dtype=torch.long).view(-1, 2))


def given(table: Tensor, catalogue: Tensor | None = None) -> Subject:
    """A factorisation whose items are the axes, so that its scores are a table [users, items]."""
    users, items = table.shape
    model = BPRMF(users, items, d=items, reg=0.0)
    with torch.no_grad():
        model.table.copy_(torch.cat([table, torch.eye(items)]))
    subject = fresh(model, pairs(users, items))
    subject.catalogue = catalogue
    return subject


def store(name: str, table: Tensor, catalogue: Tensor | None = None, **splits: Interactions) -> EvidenceStore:
    """Evidence about such a model; splits that are not named are empty."""
    users, items = table.shape
    empty = pairs(users, items)
    names = ("forget", "retain", "valid", "test", "holdout", "non_interactions")
    return EvidenceStore(name, given(table, catalogue), {n: splits.get(n, empty) for n in names})
