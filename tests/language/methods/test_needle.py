"""Needle: one column of one matrix, whatever else is asked for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from expunge.engine.training import Training
from expunge.errors import InputError
from expunge.language.data import Record
from expunge.language.encode import Template
from expunge.language.methods.needle import Needle, articles
from expunge.language.mlp import down_projection
from expunge.language.subject import Subject
from expunge.language.unlearn import UnlearnJob, unlearn
from tiny_bed import Bed
from tiny_models import tiny

TRAINING = Training(steps=4, batch_size=8, lr=1e-2, weight_decay=0.1, schedule="constant", warmup=0.0)


def needled(bed: Bed, method: Needle, **changes: Any) -> Subject:
    return unlearn(method, replace(UnlearnJob(bed.fresh(), bed.forget, bed.retain, TRAINING), **changes))


def moved(bed: Bed, subject: Subject) -> dict[str, list[int]]:
    """Weights that differ from the target's, each with its columns that do."""
    start = dict(bed.target.model.named_parameters())
    found = {}
    for name, p in subject.model.named_parameters():
        if not torch.equal(p, start[name]):
            found[name] = (p != start[name]).any(0).nonzero().flatten().tolist()
    return found


@pytest.mark.parametrize("base", ["none", "ga", "grad-diff", "npo"])
def test_exactly_one_column_differs(bed: Bed, base: str) -> None:
    """Training with weight decay moves no other entry either."""
    subject = needled(bed, Needle(layer=1, dim=7, base=base))
    assert moved(bed, subject) == {"model.layers.1.mlp.down_proj.weight": [7]}


def test_training_moves_the_column_beyond_its_noise(bed: Bed) -> None:
    columns = [
        down_projection(needled(bed, Needle(layer=1, dim=7, base=base)).model, 1).column(7) for base in ("none", "ga")
    ]
    assert not torch.equal(*columns)


def test_without_noise_and_training_nothing_changes(bed: Bed) -> None:
    assert moved(bed, needled(bed, Needle(layer=1, dim=7, noise=0.0))) == {}


def test_noise_has_the_spread_asked_for(bed: Bed) -> None:
    """Relative noise counts in root mean squares of the vector's entries."""
    before = down_projection(bed.target.model, 0).column(2)
    spreads = [
        float((down_projection(needled(bed, m).model, 0).column(2) - before).std())
        for m in (Needle(layer=0, dim=2, noise=0.3), Needle(layer=0, dim=2, noise=5.0, relative=True))
    ]
    assert spreads[0] == pytest.approx(0.3, rel=0.35)
    assert spreads[1] == pytest.approx(5 * float(before.square().mean().sqrt()), rel=0.35)


def test_located_vectors_are_one_for_each_person(bed: Bed) -> None:
    people = len({r.cluster for r in bed.forget})
    found = moved(bed, needled(bed, Needle()))
    assert 1 <= sum(map(len, found.values())) <= people
    assert all(name.endswith("down_proj.weight") for name in found)


def test_the_random_control_takes_as_many_other_vectors(bed: Bed) -> None:
    located, control = (moved(bed, needled(bed, Needle(where=w))) for w in ("vector", "random"))  # type: ignore[arg-type]
    pairs = [{(n, j) for n, js in found.items() for j in js} for found in (located, control)]
    assert len(pairs[0]) == len(pairs[1])
    assert not pairs[0] & pairs[1]
    assert {n for n, _ in pairs[0]} == {n for n, _ in pairs[1]}


def test_all_value_vectors_are_the_down_projections_alone(bed: Bed) -> None:
    found = moved(bed, needled(bed, Needle(where="all", base="ga")))
    assert set(found) == {f"model.layers.{i}.mlp.down_proj.weight" for i in (0, 1)}


def test_a_transposed_weight_loses_a_row(bed: Bed) -> None:
    """GPT-2 keeps [f, d]: the vector is a row of the weight."""
    subject = Subject(tiny("gpt2", vocab_size=len(bed.target.tokenizer)), bed.target.tokenizer, Template(), "x")
    start = {n: p.detach().clone() for n, p in subject.model.named_parameters()}
    method = Needle(layer=0, dim=4, base="ga")
    subject = unlearn(method, UnlearnJob(subject, bed.forget, bed.retain, TRAINING))
    changed = {n: (p != start[n]) for n, p in subject.model.named_parameters() if not torch.equal(p, start[n])}
    ((name, mask),) = changed.items()
    assert name.endswith("h.0.mlp.c_proj.weight")
    assert mask.any(1).nonzero().flatten().tolist() == [4]


def test_what_is_refused(bed: Bed) -> None:
    with pytest.raises(InputError, match="layer=1 and dim=None must be given together"):
        Needle(layer=1)
    with pytest.raises(InputError, match="where='here' must be one of"):
        Needle(where="here")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="needs a base method"):
        Needle(where="all")
    with pytest.raises(InputError, match="base is none"):
        Needle(settings={"beta": 1.0})
    with pytest.raises(InputError, match="needle: base='task-vector' is not trained with a loss"):
        Needle(base="task-vector")
    with pytest.raises(InputError, match="needle: settings of npo"):
        Needle(base="npo", settings={"betta": 1.0})
    with pytest.raises(InputError, match="layer=5"):
        needled(bed, Needle(layer=5, dim=0))
    with pytest.raises(InputError, match="no value vector 4096"):
        needled(bed, Needle(layer=0, dim=4096))
    with pytest.raises(InputError, match="forget, record 1: it names no cluster"):
        articles([Record("q", "a")], [])
