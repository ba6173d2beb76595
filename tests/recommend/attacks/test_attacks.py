"""Attacks on recommenders: the model is left as it was; what is held out comes back only if it was there."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

from expunge.engine.loop import Stream
from expunge.errors import InputError
from expunge.recommend.attacks._common import AttackSetting, found
from expunge.recommend.attacks.benign_relearn import BenignRelearn
from expunge.recommend.attacks.quantise import Quantise, quantise_tables
from expunge.recommend.attacks.relearn import Relearn
from expunge.recommend.data import Interactions
from expunge.recommend.forward import pair_stream
from expunge.recommend.models.lightgcn import BPRMF
from expunge.recommend.requests import item_request
from expunge.recommend.subject import Subject
from expunge.recommend.workload import Workload
from expunge.report.readings import divide
from recommend.tiny import forget_of, trained, world

FEW = {"steps": (1, 4), "batch_size": 16, "seeds": 1}


@cache
def setting(request: str = "users") -> AttackSetting:
    forget = forget_of(request)
    retain = world().train.without(forget)
    splits = {"forget": forget, "retain": retain}
    names = sorted(set(forget.clusters))
    groups = divide([names.index(c) for c in forget.clusters], 0, 0.4, 0.2)
    return AttackSetting(Workload(forget, retain, world().valid, world().test, splits, (), k=10), 0, groups)


def served(subject: Subject) -> Subject:
    return subject.with_served(setting().workload.retain)


@pytest.mark.parametrize("attack", [Relearn(**FEW), BenignRelearn(**FEW), Quantise()], ids=lambda a: type(a).__name__)
@pytest.mark.parametrize("kind", ["lightgcn", "vbpr"])
def test_the_model_is_left_as_it_was(attack, kind: str) -> None:  # type: ignore[no-untyped-def]
    """Weights, mode, random state; and a second run reads the same."""
    subject = served(trained(kind))
    before, state = subject.fingerprint(), torch.random.get_rng_state()
    first, second = (attack.run(subject, setting()) for _ in range(2))
    assert first
    assert subject.fingerprint() == before
    assert all(p.grad is None and p.requires_grad for p in subject.model.parameters())
    assert torch.equal(torch.random.get_rng_state(), state)
    for a, b in zip(first, second, strict=True):
        assert np.array_equal(a.scores, b.scores)
        assert a.scores.shape[1] == len(a.rows)
        assert set(np.unique(a.scores)) <= {0.0, 1.0}


def test_relearning_starts_at_the_model_and_scores_others_than_it_used() -> None:
    it, subject = setting(), served(trained())
    readings = Relearn(**FEW).run(subject, it)  # type: ignore[arg-type]
    assert [r.strength for r in readings] == [0.0, 1.0, 4.0]
    assert readings[0].rows == it.groups["scored"]
    used = {it.workload.forget.clusters[i] for i in it.groups["attacker"]}
    assert not used & {it.workload.forget.clusters[i] for i in readings[0].rows}
    scored = it.workload.forget.take(readings[0].rows)
    assert np.array_equal(readings[0].scores[0], found(subject, scored, it.workload.retain, 10))
    with pytest.raises(InputError, match="at least two users or items"):
        Relearn(**FEW).run(subject, AttackSetting(it.workload, 0, {**it.groups, "scored": []}))  # type: ignore[arg-type]


def test_items_whose_erasure_was_asked_for_are_no_negatives_of_the_attack(monkeypatch: pytest.MonkeyPatch) -> None:
    import expunge.recommend.attacks.relearn as module

    drawn: list[torch.Tensor] = []

    def watched(*given: object) -> Stream:
        stream = pair_stream(*given)  # type: ignore[arg-type]
        drawn.append(stream.examples.triples(stream.order.flatten())[2])  # type: ignore[attr-defined]
        return stream

    monkeypatch.setattr(module, "pair_stream", watched)
    for attack in (Relearn(**FEW), BenignRelearn(**FEW)):  # type: ignore[arg-type]
        attack.run(served(trained()), setting("items"))
    gone = setting("items").workload.forget.pairs[:, 1].unique()
    assert len(drawn) == 2
    assert not bool(torch.isin(torch.cat(drawn), gone).any())


def test_benign_relearning_never_sees_a_forgotten_interaction(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Interactions] = []
    import expunge.recommend.attacks.relearn as module

    original = module.pair_stream

    def watched(pairs: torch.Tensor, *rest: object) -> object:
        seen.append(Interactions(60, 40, pairs))
        return original(pairs, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "pair_stream", watched)
    readings = BenignRelearn(**FEW).run(served(trained()), setting())  # type: ignore[arg-type]
    assert len(seen) == 1
    assert not bool(seen[0].contains(setting().workload.forget.pairs).any())
    scored = set(setting().groups["attacker"]) | set(setting().groups["scored"])
    assert set(readings[0].rows) == scored


def behind_a_switch(fresh_rows: bool) -> Subject:
    """A factorisation with one more column that takes 4 from the score of every forgotten item, for everybody."""
    forget = item_request(world().train, 0.2, 0)
    target, items = trained("bpr-mf"), forget.pairs[:, 1].unique()
    if fresh_rows:
        target.model.reset_rows(60 + items, 5)
    model = BPRMF(60, 40, d=9, reg=0.0)
    with torch.no_grad():
        model.table[:, :8] = target.model.table  # type: ignore[index]
        model.table[:60, 8], model.table[60:, 8] = 1.0, 0.0
        model.table[60 + items, 8] = -4.0
    return target.with_model(model).with_served(world().train.without(forget))


def test_what_was_only_switched_off_comes_back_and_what_was_never_there_does_not() -> None:
    forget = item_request(world().train, 0.2, 0)
    retain = world().train.without(forget)
    names = sorted(set(forget.clusters))
    groups = divide([names.index(c) for c in forget.clusters], 0, 0.4, 0.1)
    it = AttackSetting(Workload(forget, retain, world().valid, world().test, {}, (), k=10), 0, groups)
    attack, after = Relearn(steps=(64,), lr=2e-2, batch_size=128, seeds=1), {}
    for fresh_rows in (False, True):
        start, end = attack.run(behind_a_switch(fresh_rows), it)
        assert start.scores.mean() < 0.1
        after[fresh_rows] = end.scores.mean()
    assert after[False] > 0.3
    assert after[True] < after[False] - 0.2


def test_quantisation_rounds_each_row_of_tables_by_at_most_half_a_level() -> None:
    subject = trained("vbpr")
    before = {n: p.detach().clone() for n, p in subject.model.named_parameters()}
    quantise_tables(subject.model, 4)
    for name, parameter in subject.model.named_parameters():
        if parameter.ndim != 2:
            assert torch.equal(parameter, before[name])
            continue
        level = before[name].abs().amax(1, keepdim=True) / 7
        assert bool(((parameter - before[name]).abs() <= level / 2 + 1e-6).all())
        assert not torch.equal(parameter, before[name])
    with pytest.raises(InputError, match="bits="):
        Quantise(bits=(1,))
    with pytest.raises(InputError, match="lr=0"):
        Relearn(lr=0)
