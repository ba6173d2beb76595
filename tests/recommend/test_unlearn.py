"""Requests: what is refused, what a method is shown, what leaves the catalogue."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from expunge.engine.method import Edit, Step, Trained
from expunge.errors import InputError
from expunge.recommend.data import Interactions
from expunge.recommend.forward import PairExamples
from expunge.recommend.methods.drop_edges import DropEdges
from expunge.recommend.methods.fine_tune import FineTune
from expunge.recommend.methods.ga import GA
from expunge.recommend.unlearn import emptied_nodes, erased_items, unlearn
from recommend.tiny import STEPS, job_of, trained, world


@dataclass(frozen=True)
class Both(Trained):
    """Ascent on D, descent on K."""

    def forget_loss(self, step: Step) -> Tensor:
        loss: Tensor = -step.forget.loss
        return loss

    def retain_loss(self, step: Step) -> Tensor:
        loss: Tensor = step.retain.objective
        return loss


@dataclass(frozen=True)
class Nothing(Edit):
    """Returns the target as it is."""

    def apply(self, job: Any) -> Any:
        return job.subject


def examples(stream: Any) -> PairExamples:
    found = stream.examples
    assert isinstance(found, PairExamples)
    return found


def test_an_epoch_passes_over_the_forget_set_beside_as_many_retained_pairs() -> None:
    job = job_of(replace(STEPS, steps=None, epochs=2, batch_size=10))
    streams = job.streams(Both(), job.training, job.dropped())
    count = len(job.forget)
    forget, retain = (examples(streams[name]) for name in ("forget", "retain"))
    assert streams["forget"].order.shape == streams["retain"].order.shape
    seen = torch.bincount(forget.rows[: 2 * count], minlength=count)
    assert seen.unique().tolist() == [2]
    assert torch.equal(forget.pairs, job.forget.pairs)
    assert torch.equal(retain.pairs, job.retain.pairs)


def test_without_a_forget_side_an_epoch_passes_over_the_retain_set() -> None:
    job = job_of(replace(STEPS, steps=None, epochs=1, batch_size=16))
    streams = job.streams(FineTune(), job.training, job.dropped())
    assert set(streams) == {"retain"}
    rows = examples(streams["retain"]).rows[: len(job.retain)]
    assert torch.equal(rows.sort().values, torch.arange(len(job.retain)))


def test_negatives_are_neither_kept_nor_asked_to_be_forgotten() -> None:
    """Fine-tuning, which never hears of D, may draw what was forgotten; a method that works on D may not."""
    job = job_of(replace(STEPS, steps=200), request="edges")
    with_forget = job.streams(Both(), job.training, job.dropped())
    for name in ("forget", "retain"):
        found = examples(with_forget[name])
        users, _, negatives = found.triples(torch.arange(len(found)))
        assert not world().train.contains(torch.stack([users, negatives], 1)).any()
    found = examples(job.streams(FineTune(), job.training, job.dropped())["retain"])
    users, _, negatives = found.triples(torch.arange(len(found)))
    drawn = torch.stack([users, negatives], 1)
    assert not job.retain.contains(drawn).any()
    assert job.forget.contains(drawn).any()


def test_streams_of_one_run_have_negatives_of_their_own() -> None:
    job = job_of()
    same = replace(job, retain=job.forget)
    streams = same.streams(Both(), STEPS, job.dropped())
    found = [examples(streams[name]) for name in ("forget", "retain")]
    users = torch.zeros(64, dtype=torch.long)
    drawn = [PairExamples(f.pairs, users, f.graph, f.negatives, f.seed).triples(torch.arange(64))[2] for f in found]
    assert not torch.equal(*drawn)


def test_losses_are_computed_over_the_retain_graph() -> None:
    job = job_of()
    streams = job.streams(Both(), STEPS, job.dropped())
    for stream in streams.values():
        assert not job.forget.contains(examples(stream).graph.pairs).any()
        assert int(examples(stream).graph.degree.sum()) == 2 * len(job.retain)


def test_erased_items_leave_the_catalogue_unless_they_are_to_stay() -> None:
    job = job_of(request="items")
    gone = job.forget.pairs[:, 1].unique()
    assert torch.equal(erased_items(job.forget), gone)
    offered = job.dropped().catalogue
    assert offered is not None
    assert (~offered).nonzero()[:, 0].tolist() == gone.tolist()
    found = examples(job.streams(Both(), replace(STEPS, steps=200), job.dropped())["retain"])
    drawn = found.triples(torch.arange(len(found)))[2].unique()
    assert not torch.isin(drawn, gone).any()
    kept = replace(job, keep_as_negatives=True)
    assert kept.dropped().catalogue is None
    found = examples(kept.streams(FineTune(), replace(STEPS, steps=200), kept.dropped())["retain"])
    assert torch.isin(gone, found.triples(torch.arange(len(found)))[2]).all()


def test_requests_in_a_row_leave_the_catalogue_together() -> None:
    first = job_of(request="items")
    after = unlearn(DropEdges(), first)
    item = int(after.served.pairs[0, 1])
    pairs = after.served.pairs[after.served.pairs[:, 1] == item]
    second = Interactions(60, 40, pairs, about=(f"item:{item}",) * len(pairs))
    job = replace(first, subject=after, forget=second, retain=after.served.without(second))
    offered = unlearn(DropEdges(), job).catalogue
    assert offered is not None
    assert set((~offered).nonzero()[:, 0].tolist()) == {item, *erased_items(first.forget).tolist()}
    assert after.catalogue is not None
    assert int((~after.catalogue).sum()) == len(erased_items(first.forget))


@pytest.mark.parametrize("request_kind", ["users", "edges"])
def test_other_requests_leave_the_catalogue_as_it_is(request_kind: str) -> None:
    assert job_of(request=request_kind).dropped().catalogue is None


def test_emptied_nodes_are_those_with_nothing_left() -> None:
    job = job_of()
    emptied = emptied_nodes(job)
    assert emptied[emptied < 60].tolist() == job.forget.pairs[:, 0].unique().tolist()
    items = job_of(request="items")
    assert emptied_nodes(items)[emptied_nodes(items) >= 60].tolist() == (erased_items(items.forget) + 60).tolist()


def test_a_request_that_cannot_be_carried_out_is_refused() -> None:
    job, train, method = job_of(), world().train, FineTune()
    nothing = train.take([])
    with pytest.raises(InputError, match="The forget set is empty"):
        unlearn(method, replace(job, forget=nothing))
    with pytest.raises(InputError, match="holds all 540 interactions the target serves: nothing would be retained"):
        unlearn(method, replace(job, forget=train, retain=nothing))
    unseen = world().test.take(torch.arange(4))
    first = ", ".join(f"({u}, {i})" for u, i in unseen.pairs[:3].tolist())
    with pytest.raises(InputError, match="forget: not among the interactions the target serves: 4 of 4") as caught:
        unlearn(method, replace(job, forget=unseen))
    assert first in str(caught.value)
    with pytest.raises(InputError, match="retain: not among the interactions the target serves"):
        unlearn(method, replace(job, retain=unseen))
    with pytest.raises(InputError, match=r"54 interactions are in the forget set and in the retain set"):
        unlearn(method, replace(job, retain=train))
    with pytest.raises(InputError, match="61 users"):
        unlearn(method, replace(job, forget=Interactions(61, 40, torch.tensor([[60, 0]]))))


def test_a_result_that_still_serves_a_forgotten_pair_is_refused() -> None:
    with pytest.raises(InputError, match="Nothing leaves 54 forgotten interactions in what the model serves from"):
        unlearn(Nothing(), job_of())


def test_a_set_the_method_needs_and_does_not_have_is_named() -> None:
    job = job_of()
    with pytest.raises(InputError, match="FineTune needs retain interactions and there are none"):
        replace(job, retain=world().train.take([])).streams(FineTune(), STEPS, job.dropped())
    with pytest.raises(InputError, match="GA needs forget interactions and there are none"):
        replace(job, forget=world().train.take([])).streams(GA(), STEPS, job.dropped())


def test_a_batch_that_is_penalised_as_a_whole_is_not_divided() -> None:
    with pytest.raises(InputError, match="micro_batch=4: the penalty of VBPR is a norm over the whole batch"):
        unlearn(FineTune(), job_of(replace(STEPS, micro_batch=4), kind="vbpr"))
    unlearn(GA(), job_of(replace(STEPS, micro_batch=4), kind="mmgcn"))


def test_something_else_is_no_method() -> None:
    with pytest.raises(InputError, match="object is neither a trained method nor an edit nor a guard"):
        unlearn(object(), job_of())  # type: ignore[arg-type]


def test_the_target_goes_on_serving_until_it_is_replaced() -> None:
    job = job_of()
    assert unlearn(DropEdges(), job).served is job.retain
    assert len(job.subject.served) == len(world().train)
    assert torch.equal(job.subject.scores(torch.arange(60)), trained().scores(torch.arange(60)))
