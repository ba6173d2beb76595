"""Amnesiac unlearning: recorded updates add up to the training, relabelled pairs are nobody's."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from expunge.engine.loop import Observers
from expunge.errors import InputError
from expunge.recommend.methods.amnesiac import Amnesiac, Recording, relabelled, without_updates
from expunge.recommend.methods.fine_tune import FineTune
from expunge.recommend.requests import edge_request
from expunge.recommend.unlearn import UnlearnJob, unlearn
from recommend.tiny import STEPS, TRAINING, changed, forget_of, forget_scores, job_of, state, trained, untrained, world

SGD = replace(TRAINING, optimizer="sgd", lr=1.0, steps=12, batch_size=64)


def test_taking_every_update_back_returns_the_initial_parameters_bit_for_bit() -> None:
    """Plain SGD; each batch holds a forgotten pair, so all are recorded: theta_T - sum of changes = theta_0."""
    job = job_of(SGD, base_training=SGD)
    job.forget = world().train.take(torch.arange(0, len(world().train), 2))
    job.retain = world().train.without(job.forget)
    taken = without_updates(job)
    assert "took back 12 of 12 updates" in job.logs[-1].notes[-1]
    assert not changed(state(untrained().model), state(taken.model))
    assert not bool(job.forget.contains(taken.served.pairs).any())


def test_only_the_updates_of_batches_with_a_forgotten_pair_are_taken_back() -> None:
    """One forgotten pair in 12 batches of 64 of 504: those without it keep their change."""
    train = world().train
    forget = train.take([3])
    job = UnlearnJob(trained(), forget, train.without(forget), SGD, base=untrained, base_training=SGD)
    taken = without_updates(job).model.get_parameter("table").detach().double()
    # by hand: the same training, its table after every step
    subject = untrained()
    tables = [subject.model.get_parameter("table").detach().double()]

    def keep(*_: object) -> None:
        tables.append(subject.model.get_parameter("table").detach().double())

    again = UnlearnJob(subject, train.take([]), train, SGD, observers=Observers(progress=keep))
    streams = again.streams(FineTune(), SGD, subject)
    rows = streams["retain"].examples.rows[streams["retain"].order]  # type: ignore[attr-defined]
    again.train(FineTune(), subject, streams=streams)
    held = (rows == 3).any(1)
    assert 0 < int(held.sum()) < len(held)
    expected = tables[-1] - sum(tables[k + 1] - tables[k] for k in held.nonzero()[:, 0].tolist())
    assert torch.allclose(taken, expected, atol=1e-7)
    assert not torch.allclose(taken, tables[0], atol=1e-3)


def test_a_recording_is_a_sum_of_changes() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(1.0)
    recording = Recording(model, torch.tensor([True, False, True]))
    see = recording.after(None)
    for step, value in enumerate((2.0, 5.0, 9.0), start=1):
        model.weight.data.fill_(value)
        see(step, 3, {})
    recording.take_back(model)
    assert float(model.weight.detach()) == 9.0 - (1.0 + 4.0)


@pytest.mark.parametrize("request_", ["users", "items", "edges"])
def test_relabelled_pairs_are_new_to_their_users(request_: str) -> None:
    job = job_of(request=request_)
    wrong = relabelled(job)
    assert not bool(world().train.contains(wrong.pairs).any())
    assert set(wrong.pairs[:, 0].tolist()) == set(job.forget.pairs[:, 0].tolist())
    assert len(wrong) <= len(job.forget)
    if request_ == "items":
        assert not bool(torch.isin(wrong.pairs[:, 1], job.forget.pairs[:, 1]).any())  # they left the catalogue
    assert torch.equal(relabelled(job).pairs, wrong.pairs)
    assert not torch.equal(relabelled(replace(job, seed=1)).pairs, wrong.pairs)


def test_relabelling_teaches_the_other_items() -> None:
    job = job_of(replace(TRAINING, steps=40))
    wrong = relabelled(job)
    before = [float(job.dropped().pair_scores(p).mean()) for p in (wrong.pairs, forget_of().pairs)]
    served = unlearn(Amnesiac(), job)
    after = [float(served.pair_scores(p).mean()) for p in (wrong.pairs, forget_of().pairs)]
    assert after[0] - before[0] > after[1] - before[1] + 0.5


def test_updates_train_on_what_is_kept_afterwards() -> None:
    """At the end: forgotten pairs score lower than under the target, and no forgotten edge is served."""
    train = world().train
    forget = edge_request(train, 0.01, 0)
    job = UnlearnJob(trained(), forget, train.without(forget), TRAINING, base=untrained, base_training=TRAINING)
    served = unlearn(Amnesiac(form="updates"), job)
    assert [len(log.steps) for log in job.logs] == [60, 60]
    assert float(served.pair_scores(forget.pairs).mean()) < float(trained().pair_scores(forget.pairs).mean())
    assert forget_scores(served) > 0  # the others' pairs are still known


def test_refuses_what_cannot_be() -> None:
    with pytest.raises(InputError, match="nothing says how the target was trained"):
        unlearn(Amnesiac(form="updates"), job_of(base=None))
    with pytest.raises(InputError, match="form='undo'"):
        Amnesiac(form="undo")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="alpha=0"):
        Amnesiac(alpha=0.0)


def test_alpha_1_never_reads_what_is_kept() -> None:
    assert changed(state(unlearn(Amnesiac(alpha=1.0), job_of(STEPS)).model), state(trained().model)) == {"table"}
