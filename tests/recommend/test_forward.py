"""Views of triples: formulas, totals of a step, negatives of visits, and the reference."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from expunge.engine.batches import Batches
from expunge.engine.method import Step, Trained
from expunge.engine.sampling import epochs
from expunge.errors import InputError
from expunge.recommend import forward
from expunge.recommend.forward import PairExamples, PairPass, pair_stream
from expunge.recommend.graph import Graph
from expunge.recommend.methods.fine_tune import FineTune
from expunge.recommend.sampling import Negatives
from recommend.tiny import STEPS, job_of, network, trained, untrained, world


def examples(visits: int = 200, seed: int = 0) -> PairExamples:
    train = world().train
    rows = epochs(len(train), visits // 20, 20, seed, "retain").flatten()
    return PairExamples(train.pairs, rows, Graph(train), Negatives(train), seed)


def view_of(found: PairExamples, rows: Tensor, total: int | None = None) -> PairPass:
    return found.view(trained().model, rows, (total or len(rows),) * 2, None)


def test_a_view_by_its_formulas() -> None:
    subject, rows = trained(), torch.arange(30)
    view = view_of(examples(), rows, total=60)
    scores = subject.scores(torch.arange(60))
    torch.testing.assert_close(view.positive_scores, scores[view.users, view.positives])
    torch.testing.assert_close(view.negative_scores, scores[view.users, view.negatives])
    torch.testing.assert_close(view.losses, -torch.sigmoid(view.margin).log())
    torch.testing.assert_close(view.loss, view.losses.sum() / 60)
    table = subject.model.get_parameter("table")
    squares = table[view.users] ** 2 + table[60 + view.positives] ** 2 + table[60 + view.negatives] ** 2
    torch.testing.assert_close(view.penalty, subject.model.reg * squares.sum() / 2 / 60)
    torch.testing.assert_close(view.objective, view.loss + view.penalty)
    assert torch.equal(view.signal("positive_scores"), view.positive_scores)
    with pytest.raises(KeyError):
        view.signal("margin")


def test_losses_of_extreme_margins_are_finite() -> None:
    z_user = torch.tensor([[1e4], [-1e4]], requires_grad=True)
    triples = torch.tensor([0, 1]), torch.tensor([0, 0]), torch.tensor([1, 1])
    view = PairPass(network(), None, triples, 2, vectors=(z_user, torch.tensor([[1.0], [0.0]])))  # type: ignore[arg-type]
    assert view.losses.tolist() == [0.0, 1e4]
    (slope,) = torch.autograd.grad(view.loss, z_user)
    assert slope.flatten().tolist() == [0.0, -0.5]


def test_without_a_weight_there_is_no_penalty() -> None:
    subject = trained()
    subject.model.reg = 0.0
    found = examples()
    view = found.view(subject.model, torch.arange(5), (5, 5), None)
    assert float(view.penalty.detach()) == 0


def test_negatives_are_a_function_of_the_visit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward, "BLOCK", 64)
    whole = examples().triples(torch.arange(200))
    assert not world().train.contains(torch.stack([whole[0], whole[2]], 1)).any()
    turned = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    late = examples()
    for rows in turned.split(17):  # straddles blocks, in any order, on examples that drew nothing before
        assert all(torch.equal(part, full[rows]) for part, full in zip(late.triples(rows), whole, strict=True))
    assert not torch.equal(examples(seed=1).triples(torch.arange(200))[2], whole[2])


def test_a_pair_met_again_has_another_negative() -> None:
    train = world().train
    rows = torch.zeros(40, dtype=torch.long)
    found = PairExamples(train.pairs, rows, Graph(train), Negatives(train), 0)
    users, positives, negatives = found.triples(torch.arange(40))
    assert (len(users.unique()), len(positives.unique())) == (1, 1)
    assert len(negatives.unique()) > 10


def test_micro_batches_hold_the_triples_of_the_whole_step() -> None:
    train = world().train
    order = epochs(len(train), 4, 32, 0, "retain")
    model, graph = trained().model, Graph(train)

    def batches(micro: int | None) -> Batches:
        stream = pair_stream(train.pairs, order, graph, Negatives(train), 7)
        return Batches(model, {"retain": stream}, 0, micro)

    for step in range(4):
        (whole,) = batches(None).micro(step, ("retain",))
        pieces = batches(10).micro(step, ("retain",))
        assert [len(p.retain.users) for p in pieces] == [10, 10, 10, 2]
        for name in ("users", "positives", "negatives"):
            joined = torch.cat([getattr(p.retain, name) for p in pieces])
            assert torch.equal(joined, getattr(whole.retain, name))
        torch.testing.assert_close(sum(p.retain.objective for p in pieces), whole.retain.objective)
        assert torch.equal(train.pairs[order[step]][:, 1], whole.retain.positives)


@dataclass(frozen=True)
class Anchored(Trained):
    """Reads both reference scores, and notes how far the model is from them."""

    def retain_loss(self, step: Step) -> Tensor:
        view = step.retain
        off = (view.margin - view.reference.margin).square()
        step.note("off", view.per_row(off))
        loss: Tensor = view.objective
        return loss


def test_the_reference_is_the_model_at_the_start() -> None:
    job = job_of(STEPS)
    job.train(Anchored(), job.dropped())
    log = job.logs[0]
    assert log.reference == "cache"
    assert log.steps[0]["off"] < 1e-10
    assert log.steps[-1]["off"] > 1e-4


def test_vectors_without_gradients_are_those_of_the_weights_as_they_stand() -> None:
    """They are computed once, and again as soon as a weight moves in place or another model asks."""
    found, subject, rows = examples(), trained(), torch.arange(8)
    with torch.no_grad():
        first = found.view(subject.model, rows, (8, 8), None)
        again = found.view(subject.model, rows, (8, 8), None)
        assert first.embeddings[0] is again.embeddings[0]
        subject.model.get_parameter("table").mul_(2.0)
        moved = found.view(subject.model, rows, (8, 8), None)
        torch.testing.assert_close(moved.margin, 4 * first.margin)
        other = found.view(untrained().model, rows, (8, 8), None)
        assert not torch.equal(other.margin, moved.margin)
    assert found.view(subject.model, rows, (8, 8), None).margin.requires_grad


def test_what_is_not_offered_is_refused() -> None:
    found = examples()
    alone = view_of(found, torch.arange(3))
    with pytest.raises(InputError, match="needs a reference model"):
        _ = alone.reference.margin
    with pytest.raises(InputError, match="not offered for recommenders"):
        found.checkpointing(trained().model)
    with pytest.raises(InputError, match="Linear is no recommender"):
        found.view(torch.nn.Linear(2, 2), torch.arange(3), (3, 3), None)


def test_training_is_ordinary_descent_on_the_same_triples() -> None:
    """The engine's steps equal a loop written out by hand."""
    job = job_of(STEPS)
    subject, hand = job.dropped(untrained()), untrained().with_served(job.retain)
    streams = job.streams(FineTune(), STEPS, subject)
    job.train(FineTune(), subject, streams=streams)
    model = hand.model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=STEPS.lr, weight_decay=0.0)
    for rows in streams["retain"].order:
        users, positives, negatives = streams["retain"].examples.triples(rows)  # type: ignore[attr-defined]
        z_user, z_item = model(hand.graph)
        margin = (z_user[users] * (z_item[positives] - z_item[negatives])).sum(1)
        loss = torch.nn.functional.softplus(-margin).mean()
        loss = loss + model.reg * model.penalty(users, positives, negatives).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.testing.assert_close(model.get_parameter("table"), subject.model.get_parameter("table"), atol=1e-5, rtol=0)
