"""Training in shards: what a request trains again, what it leaves alone, and that the result is exact."""

from __future__ import annotations

import copy
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from expunge.engine.checkpoint import Checkpoints
from expunge.engine.loop import Observers
from expunge.errors import InputError
from expunge.recommend.data import Interactions
from expunge.recommend.ensemble import ShardEnsemble
from expunge.recommend.graph import Graph
from expunge.recommend.methods.fine_tune import FineTune
from expunge.recommend.methods.grapheraser import GraphEraser
from expunge.recommend.methods.receraser import RecEraser
from expunge.recommend.methods.retrain import Retrain
from expunge.recommend.methods.sisa import SISA
from expunge.recommend.methods.ultrare import UltraRE
from expunge.recommend.partition import Partition
from expunge.recommend.ranking import evaluate
from expunge.recommend.sharded import Sharded
from expunge.recommend.subject import Subject, load_subject
from expunge.recommend.unlearn import UnlearnJob, unlearn
from recommend.tiny import TRAINING, apart, changed, forget_of, job_of, state, untrained, world

METHODS: dict[str, Sharded] = {
    "sisa": SISA(shards=4, epochs=4),
    "own": SISA(shards=4, epochs=4, aggregate="own"),
    "dealt": SISA(shards=4, epochs=4, by="interaction"),
    "receraser": RecEraser(shards=4, epochs=4, aggregator_epochs=2),
    "ubp": RecEraser(shards=4, epochs=4, aggregator_epochs=2, by="user"),
    "ibp": RecEraser(shards=4, epochs=4, aggregator_epochs=2, by="item"),
    "blpa": GraphEraser(shards=4, epochs=4, aggregator_epochs=3),
    "bekm": GraphEraser(shards=4, epochs=4, aggregator_epochs=3, strategy="bekm"),
    "ultrare": UltraRE(shards=4, epochs=4),
    "entropic": UltraRE(shards=4, epochs=4, solver="sinkhorn", by="item"),
}


@pytest.fixture(params=METHODS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def ensemble(subject: Subject) -> ShardEnsemble:
    assert isinstance(subject.model, ShardEnsemble)
    return subject.model


def few(count: int = 1) -> Interactions:
    """The interactions of one user, or some of them."""
    train = world().train
    rows = (train.pairs[:, 0] == 7).nonzero().flatten()
    found = train.take(rows if count == 0 else rows[:count])
    return replace(found, about=("user:7",) * len(found))


def small(forget: Interactions | None = None, **changes: Any) -> UnlearnJob:
    forget = few() if forget is None else forget
    return job_of(forget=forget, retain=world().train.without(forget), **changes)


@cache
def done(name: str) -> tuple[Subject, Subject, tuple[str, ...]]:
    """The original, the result for one interaction, and what was noted; not to be changed."""
    job = small()
    method = METHODS[name]
    original = method.original(small())
    result = unlearn(method, job)
    return original, result, tuple(n for log in job.logs for n in log.notes)


def test_only_shards_of_what_is_forgotten_are_trained_again(name: str) -> None:
    original, result, notes = done(name)
    before, after = ensemble(original), ensemble(result)
    home = int(before.partition.of(few().pairs))
    for k, (old, new) in enumerate(zip(before.shard_models, after.shard_models, strict=True)):
        assert bool(changed(state(old), state(new))) == (k == home)
    assert len(notes) == 2
    assert "original was trained, 4 shards" in notes[0]
    kept = len(before.partition.split(world().train)[home]) - 1
    total = len(world().train) - 1
    assert f"1 of 4 shards held forgotten interactions; trained again on {kept} of {total} retained ones" in notes[1]


def test_the_result_is_that_of_training_without_by_the_same_partition(name: str) -> None:
    """Bit for bit: every shard, and what combines them."""
    original, result, _ = done(name)
    job, method = small(), METHODS[name]
    partition = ensemble(original).partition
    fresh = [method._trained(job, k, part, "original") for k, part in enumerate(partition.split(job.retain))]
    scratch = method._assembled(job, fresh, partition.only(job.retain), job.dropped(), "original")
    assert scratch.weights_hash() == result.weights_hash()
    assert scratch.fingerprint() == result.fingerprint()


def test_everybody_has_one_shard_and_no_shard_is_too_large(name: str) -> None:
    original, _, _ = done(name)
    partition = ensemble(original).partition
    parts = partition.split(world().train)
    keys = torch.cat([p.keys() for p in parts])
    assert torch.equal(keys.sort().values, world().train.keys().sort().values)
    n = len(partition.elements)
    limits = {"sisa": -(-n // 4), "own": -(-n // 4), "dealt": -(-n // 4), "blpa": 16, "bekm": 16, "ultrare": 15}
    limits |= {"receraser": -(-6 * n // 20), "ubp": 18, "ibp": 12, "entropic": -(-n // 4)}
    assert int(partition.sizes.max()) <= limits[name]
    assert int(partition.sizes.min()) >= 1


def test_it_recommends_well_and_forgets_no_one_else(name: str) -> None:
    original, result, _ = done(name)
    chance = 10 / 40
    for subject in (original, result):
        assert evaluate(subject, world().test, subject.served, (10,)).mean("recall", 10) > 1.3 * chance
    assert len(result.served) == len(world().train) - 1


def test_it_is_saved_and_loaded_with_its_shards(name: str, tmp_path: Path) -> None:
    _, result, _ = done(name)
    result.save(tmp_path / "m", "# card\n")
    again = load_subject(str(tmp_path / "m"))
    everyone = torch.arange(60)
    assert torch.equal(again.scores(everyone), result.scores(everyone))
    assert again.fingerprint() == result.fingerprint()
    pairs = world().train.pairs
    assert torch.equal(ensemble(again).partition.of(pairs), ensemble(result).partition.of(pairs))


def test_nothing_kept_lists_what_was_forgotten() -> None:
    """Neither the partition's buffers nor what is served."""
    forget = few(0)
    for key in ("dealt", "sisa"):
        result = unlearn(METHODS[key], small(forget))
        elements = ensemble(result).elements
        gone = forget.keys() if key == "dealt" else torch.tensor([7])
        assert not bool(torch.isin(gone, elements).any())
        assert not bool(forget.contains(result.served.pairs).any())


def test_one_shard_is_plain_retraining() -> None:
    forget = forget_of("users")
    retain = world().train.without(forget)
    ordered = retain.take(retain.keys().argsort())
    everyone = torch.arange(60)
    linear, alike = UltraRE(shards=1), [SISA(shards=1, by="interaction"), GraphEraser(shards=1)]
    for kind, methods in {"bpr-mf": [SISA(shards=1)], "vbpr": [SISA(shards=1)], "lightgcn": [*alike, linear]}.items():
        gold = unlearn(Retrain(), job_of(kind=kind, retain=ordered))
        for method in methods:
            result = unlearn(method, job_of(kind=kind, retain=ordered))
            assert not changed(state(ensemble(result).shard_models[0]), state(gold.model))
            scores, wanted = result.scores(everyone), gold.scores(everyone)
            weight = float(scores.sum() / wanted.sum()) if method is linear else 1.0
            torch.testing.assert_close(scores, weight * wanted, rtol=1e-4, atol=1e-4)


def test_what_is_shards_own_stays_there() -> None:
    """Users of other shards keep their initial rows in a model; every model starts elsewhere."""
    method = SISA(shards=3, epochs=2)
    job = small(kind="bpr-mf")
    model = ensemble(method.original(job))
    owners = model.partition.of(torch.stack([torch.arange(60), torch.zeros(60, dtype=torch.long)], 1))
    first, second, third = (m.get_parameter("table").detach() for m in model.shard_models)
    start = untrained("bpr-mf").model.get_parameter("table").detach()
    assert torch.equal(first[:60][owners != 0], start[:60][owners != 0])
    assert not bool((first[:60][owners == 0] == start[:60][owners == 0]).all(1).any())
    assert not bool((second[:60][owners == 0] == third[:60][owners == 0]).any())


def test_each_shard_propagates_over_its_own_edges() -> None:
    _, result, _ = done("sisa")
    model, served = ensemble(result), result.served
    with torch.no_grad():
        z_user, z_item = model.shard_vectors(result.graph)
        for k, (part, member) in enumerate(zip(model.partition.split(served), model.shard_models, strict=True)):
            users, items = member(Graph(part))
            torch.testing.assert_close(z_user[k], users)
            torch.testing.assert_close(z_item[k], items)
        gone = served.take([0])
        home = int(model.partition.of(gone.pairs))
        fewer, _ = model.shard_vectors(Graph(served.without(gone)))
        assert [torch.equal(fewer[k], z_user[k]) for k in range(4)] == [k != home for k in range(4)]
        torch.testing.assert_close(
            torch.einsum("kud,kid->ui", z_user, z_item) / 4, result.scores(torch.arange(60)), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("key", ["sisa", "own", "receraser", "bekm", "ultrare"])
def test_the_numbers_of_shards_are_of_no_matter(key: str) -> None:
    _, result, _ = done(key)
    model = ensemble(result)
    turn = [2, 0, 3, 1]  # the new shard k is the old turn[k]
    back = torch.tensor(turn).argsort()
    partition = model.partition
    turned = Partition(partition.by, partition.elements, back[partition.labels], 4, 40)
    aggregator = ensemble(result.with_model(copy.deepcopy(model))).aggregator
    for parameter in ("weights", "maps", "shifts"):
        if parameter in dict(aggregator.named_parameters()):
            values = aggregator.get_parameter(parameter)
            values.data = values.data[turn]
    if "owners" in dict(aggregator.named_buffers()):
        aggregator.owners = back[aggregator.get_buffer("owners")]
    other = ShardEnsemble([model.shard_models[k] for k in turn], turned, aggregator).eval()
    everyone = torch.arange(60)
    torch.testing.assert_close(
        result.with_model(other).scores(everyone), result.scores(everyone), rtol=1e-4, atol=1e-5
    )  # fmt: skip


def test_requests_in_a_row_divide_once() -> None:
    """The sharded model is the target of the next request: its shards stay, but those of what goes now."""
    first = unlearn(METHODS["receraser"], small())
    train = world().train
    rows = (train.pairs[:, 0] == 3).nonzero().flatten()
    gone = train.take(rows[:1])
    retain = first.served.without(gone)
    job = replace(small(), subject=first, forget=gone, retain=retain)
    second = unlearn(METHODS["receraser"], job)
    before, after = ensemble(first), ensemble(second)
    home = int(before.partition.of(gone.pairs))
    pairs = zip(before.shard_models, after.shard_models, strict=True)
    assert [bool(changed(state(a), state(b))) for a, b in pairs] == [k == home for k in range(4)]
    assert torch.equal(after.partition.of(retain.pairs), before.partition.of(retain.pairs))
    assert next(n for log in job.logs for n in log.notes).startswith("receraser: 1 of 4")


def test_the_original_is_kept_where_it_is_wanted(tmp_path: Path) -> None:
    method = replace(METHODS["ultrare"], stored=str(tmp_path))
    job = small()
    result = unlearn(method, job)
    again = small()
    same = unlearn(method, again)
    assert same.weights_hash() == result.weights_hash() == done("ultrare")[1].weights_hash()
    assert sum(len(log.steps) > 0 for log in job.logs) == 5
    assert sum(len(log.steps) > 0 for log in again.logs) == 1
    found = method.original(small())
    assert found.weights_hash() == done("ultrare")[0].weights_hash()
    assert len(found.served) == len(world().train)
    other = small(seed=1)
    unlearn(method, other)
    assert sum(len(log.steps) > 0 for log in other.logs) == 5
    assert len(list(tmp_path.iterdir())) == 2


def test_a_shard_of_which_nothing_is_left_goes() -> None:
    method = METHODS["sisa"]
    original = method.original(small())
    part = ensemble(original).partition.split(world().train)[1]
    forget = replace(part, about=tuple(f"user:{u}" for u in part.pairs[:, 0].tolist()))
    result = unlearn(method, small(forget))
    model = ensemble(result)
    assert len(model.members) == 3
    assert not changed(state(model.shard_models[1]), state(ensemble(original).shard_models[2]))
    assert model.partition.sizes.tolist() == ensemble(original).partition.sizes[[0, 2, 3]].tolist()
    assert result.scores(torch.arange(60)).isfinite().all()
    torch.testing.assert_close(model.aggregator.get_parameter("weights").detach(), torch.full((3,), 1 / 3))


def test_erased_items_are_no_negatives_of_what_is_trained_again() -> None:
    """Their rows stay initial there, unless the request keeps them in the catalogue."""
    forget = forget_of("items")
    items = forget.pairs[:, 1].unique()
    for keep in (False, True):
        job = job_of(request="items", kind="bpr-mf", keep_as_negatives=keep)
        result = unlearn(SISA(shards=2, epochs=4), job)
        table = ensemble(result).shard_models[0].get_parameter("table").detach()
        start = untrained("bpr-mf").model.get_parameter("table").detach()
        assert torch.equal(table[60 + items], start[60 + items]) != keep
        assert (result.catalogue is None) == keep
        if not keep:
            assert result.catalogue is not None
            assert not bool(result.catalogue[items].any())


def test_an_interrupted_run_ends_like_one_that_was_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Checkpoints, "due", lambda self: self.folder is not None)
    count = 0

    class KilledError(Exception):
        pass

    def kill(step: int, total: int, terms: dict[str, float]) -> None:
        nonlocal count
        count += 1
        if count == 30:
            raise KilledError

    method = METHODS["receraser"]
    with suppress(KilledError):
        unlearn(method, small(folder=tmp_path, observers=Observers(progress=kill)))
        pytest.fail("it was not interrupted")
    job = small(folder=tmp_path)
    assert unlearn(method, job).weights_hash() == done("receraser")[1].weights_hash()
    assert any(log.resumed_at for log in job.logs)


def test_steps_may_be_divided() -> None:
    """The dropout of the attention's training too is the same for all micro-batches of a step."""
    sgd = replace(TRAINING, optimizer="sgd", lr=0.5)
    ends = []
    for micro in (None, 48):
        job = small(base_training=replace(sgd, micro_batch=micro))
        ends.append(state(unlearn(METHODS["ubp"], job).model))
    assert apart(*ends) < 1e-4


def test_seeds_decide() -> None:
    again = unlearn(METHODS["receraser"], small())
    assert again.weights_hash() == done("receraser")[1].weights_hash()
    assert unlearn(METHODS["receraser"], small(seed=1)).weights_hash() != again.weights_hash()


@pytest.mark.parametrize("kind", ["bpr-mf", "vbpr", "mmgcn"])
def test_other_recommenders(kind: str, tmp_path: Path) -> None:
    for key in ("receraser", "blpa"):
        result = unlearn(METHODS[key], small(kind=kind))
        result.save(tmp_path / key, "# card\n")
        again = load_subject(str(tmp_path / key))
        torch.testing.assert_close(again.scores(torch.arange(9)), result.scores(torch.arange(9)), rtol=0, atol=0)
        assert ensemble(result).couples_batch == (kind == "vbpr")


def test_an_ensemble_can_be_trained_and_reset_like_any_model() -> None:
    """As attackers do: gradients reach every member and the aggregator; rows of nodes can be drawn anew."""
    _, result, _ = done("receraser")
    subject = result.with_model(copy.deepcopy(ensemble(result)))
    job = UnlearnJob(subject, few(), subject.served, TRAINING)
    job.train(FineTune(), subject)
    losses = [step["retain"] for step in job.logs[0].steps]
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])
    before, after = state(result.model), state(subject.model)
    moved = changed(before, after)
    assert {f"members.{k}.table" for k in range(4)} < moved
    assert "aggregator.maps" in moved
    assert moved.isdisjoint({"elements", "labels"})
    nodes = torch.tensor([5, 63])
    subject.model.reset_rows(nodes, 0)
    fresh = state(subject.model)
    for k in range(4):
        rows = (fresh[f"members.{k}.table"] != after[f"members.{k}.table"]).all(1).nonzero().flatten()
        assert rows.tolist() == nodes.tolist()
    assert len(fresh["members.0.table"]) == 100
    assert not torch.equal(fresh["members.0.table"][5], fresh["members.1.table"][5])


def test_penalties_are_the_mean_of_the_members() -> None:
    _, result, _ = done("sisa")
    model = ensemble(result)
    triple = torch.tensor([3, 8]), torch.tensor([1, 2]), torch.tensor([4, 0])
    each: list[Tensor] = [m.penalty(*triple) for m in model.shard_models]
    torch.testing.assert_close(model.penalty(*triple), sum(each) / 4)  # type: ignore[arg-type]


def test_requests_that_cannot_be_carried_out() -> None:
    with pytest.raises(InputError, match=r"sisa: shards=61 must be from 1 to the number of users \(60\)"):
        unlearn(SISA(shards=61), small())
    with pytest.raises(InputError, match=r"receraser: shards=541 must be from 1 to the number of interactions \(540\)"):
        unlearn(RecEraser(shards=541), small())
    with pytest.raises(InputError, match=r"grapheraser: shards=61 must be"):
        unlearn(GraphEraser(shards=61), small())
    with pytest.raises(InputError, match=r"ultrare: shards=41 must be from 1 to the number of items \(40\)"):
        unlearn(UltraRE(shards=41, by="item"), small())
    for missing in ({"base": None}, {"base_training": None}):
        with pytest.raises(InputError, match="sisa: nothing says how the target was trained"):
            unlearn(METHODS["sisa"], small(**missing))
