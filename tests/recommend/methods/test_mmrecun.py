"""MMRecUn: its limits, what it reaches, what it stops at, what it touches."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from expunge.engine.checkpoint import Checkpoints
from expunge.engine.loop import Observers
from expunge.errors import InputError
from expunge.recommend.data import Interactions
from expunge.recommend.methods.fine_tune import FineTune
from expunge.recommend.methods.mmrecun import Looks, MMRecUn, auc, erased_nodes
from expunge.recommend.ranking import evaluate, places
from expunge.recommend.requests import user_request
from expunge.recommend.subject import Subject, load_subject
from expunge.recommend.unlearn import UnlearnJob, unlearn
from recommend.tiny import STEPS, TRAINING, changed, forget_of, job_of, network, state, trained, world

LONG = replace(TRAINING, steps=200, lr=1e-2)


def run(
    training: Any = STEPS, request: str = "users", kind: str = "lightgcn", *, changes: Any = None, **own: Any
) -> Any:
    job = job_of(training, request, kind, **(changes or {}))
    return unlearn(MMRecUn(**own), job), job


def recall(subject: Subject, truth: Interactions, masked: Interactions) -> float:
    return evaluate(subject, truth, masked, [10]).mean("recall", 10)


def test_alpha_0_is_fine_tuning_bit_for_bit() -> None:
    tuned = unlearn(FineTune(), job_of(STEPS))
    assert not changed(state(run(alpha=0.0)[0].model), state(tuned.model))


@pytest.mark.parametrize("layers", [0, 1])
def test_alpha_1_touches_only_what_the_triples_reach(layers: int) -> None:
    """Two forgotten users: rows farther than L hops from them, their items and the negatives stay bit for bit."""
    train = world().train
    forget = user_request(train, 0.04, 3)
    model = network("lightgcn") if layers else network("bpr-mf")
    if layers:
        model.layers = layers  # type: ignore[assignment]
    subject = trained().with_model(model)
    job = UnlearnJob(subject, forget, train.without(forget), replace(STEPS, steps=2, batch_size=4))
    before = subject.model.get_parameter("table").detach().clone()
    loss_seen: list[Tensor] = []
    original = UnlearnJob.stream

    def spying(self: UnlearnJob, *args: Any, **kwargs: Any) -> Any:
        stream = original(self, *args, **kwargs)
        for step in stream.order:
            u, i, j = stream.examples.triples(step)  # type: ignore[attr-defined]
            loss_seen.append(torch.cat([u, i + train.users, j + train.users]))
        return stream

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(UnlearnJob, "stream", spying)
        served = unlearn(MMRecUn(alpha=1.0, look_every=0), job)
    reached = torch.zeros(train.users + train.items, 1)
    reached[torch.cat(loss_seen)] = 1
    for _ in range(layers):
        reached += served.graph.propagate(reached)
    moved = (served.model.get_parameter("table") != before).any(1)
    assert bool(moved.any())
    assert not bool(moved.all())
    assert not bool(moved[reached[:, 0] == 0].any())


def test_forgets_a_user_of_matrix_factorisation_and_keeps_the_rest() -> None:
    """Two clusters, one user: s on F falls below the user's median score; the others keep 95% of their recall."""
    train, test = world().train, world().test
    forget = train.take(train.pairs[:, 0] == 7)
    kept = train.without(forget)
    subject = trained("bpr-mf")
    others = test.take(test.pairs[:, 0] != 7)
    before = recall(subject, others, kept)
    # the target of the stopping rule is not in the way of 200 steps
    job = UnlearnJob(subject, forget, kept, LONG, held_out=world().valid)
    served = unlearn(MMRecUn(target_auc=0.0), job)
    scores = served.pair_scores(forget.pairs)
    assert bool((scores < served.scores(torch.tensor([7])).median()).all())
    assert recall(served, others, kept) >= 0.95 * before


def test_an_erased_item_is_found_no_better_than_by_models_that_never_saw_it() -> None:
    """Recall of its test interactions at most gold's; places no better than gold's less two standard errors."""
    from expunge.recommend.methods.retrain import Retrain

    forget, train, test = forget_of("items"), world().train, world().test
    kept = train.without(forget)
    gone = test.take(torch.isin(test.pairs[:, 1], forget.pairs[:, 1].unique()))

    def measured(subject: Subject) -> tuple[float, float]:
        everything = subject.with_served(subject.served)
        everything.catalogue = None  # ask the weights about every item, not what is offered
        return recall(everything, gone, kept), float(places(everything, gone, kept).double().mean())

    gold = [measured(unlearn(Retrain(), job_of(TRAINING, "items", seed=seed))) for seed in range(3)]
    served, _ = run(replace(LONG, steps=100), "items", target_auc=0.0, look_every=0)
    ours = measured(served)
    mean_place = torch.tensor([g[1] for g in gold], dtype=torch.float64)
    assert ours[0] <= max(g[0] for g in gold)
    assert ours[1] >= float(mean_place.mean() - 2 * mean_place.std() / 3**0.5)
    assert recall(served, test.take(~torch.isin(test.pairs[:, 1], gone.pairs[:, 1].unique())), kept) > 0.2


@pytest.mark.parametrize("request_", ["users", "edges", "items"])
def test_rows_leaves_everybody_else_as_they_were(request_: str) -> None:
    served, _ = run(replace(STEPS, steps=20), request_, "bpr-mf", scope="rows")
    before = trained("bpr-mf").model.get_parameter("table")
    nodes = erased_nodes(forget_of(request_))
    moved = (served.model.get_parameter("table") != before).any(1).nonzero()[:, 0]
    assert len(moved)
    assert bool(torch.isin(moved, nodes).all())


def test_erased_nodes_are_the_named_items_or_the_users() -> None:
    users, items = forget_of("users"), forget_of("items")
    assert torch.equal(erased_nodes(users), users.pairs[:, 0].unique())
    assert torch.equal(erased_nodes(items), items.pairs[:, 1].unique() + world().users)


@pytest.mark.parametrize("graph", ["retain", "full"])
def test_no_forgotten_edge_is_served(graph: str, tmp_path: Path) -> None:
    served, _ = run(graph=graph)
    served.save(tmp_path / "model", "# card\n")
    loaded = load_subject(str(tmp_path / "model"))
    forget = forget_of()
    for found in (served, loaded):
        assert not bool(forget.contains(found.served.pairs).any())
        isolated = forget.pairs[:, 0].unique()
        assert not bool(found.graph.degree[isolated].any())
    assert torch.equal(served.pair_scores(forget.pairs), loaded.pair_scores(forget.pairs))


def test_the_graph_of_the_loss_matters() -> None:
    assert changed(state(run(graph="full")[0].model), state(run()[0].model)) == {"table"}


def test_ends_when_enough_is_forgotten_and_not_before() -> None:
    _, job = run(LONG, patience=0, look_every=5)
    looks = [p["forget_auc"] for p in job.logs[0].probes]
    assert (job.logs[0].stopped or "").startswith("forgotten: AUC")
    assert looks[-1] <= 0.5
    assert all(a > 0.5 for a in looks[:-1])
    assert len(job.logs[0].steps) < 200
    low = run(LONG, patience=0, look_every=5, target_recall=0.3)[1].logs[0]
    assert low.probes[-1]["forget_recall"] <= 0.3
    assert len(low.steps) >= len(job.logs[0].steps)


def test_patience_waits_for_validation_recall() -> None:
    method = MMRecUn(patience=2, target_auc=0.5)
    looks = [{"forget_auc": 0.4, "forget_recall": 0.0, "valid_recall": r} for r in (0.3, 0.4, 0.4, 0.4)]
    assert [method._enough(looks[:n]) for n in (1, 2, 3, 4)] == [False, False, False, True]
    without = [{"forget_auc": 0.4, "forget_recall": 0.0}]
    assert method._enough(without)
    assert not replace(method, target_auc=0.3)._enough(without)


def test_a_resumed_run_stops_where_the_straight_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    straight = run(LONG, look_every=2, patience=4)[1]
    monkeypatch.setattr(Checkpoints, "due", lambda self: self.folder is not None)

    class KilledError(Exception):
        pass

    def kill(step: int, total: int, terms: dict[str, float]) -> None:
        if step == len(straight.logs[0].steps) - 1:
            raise KilledError

    with suppress(KilledError):
        run(LONG, look_every=2, patience=4, changes={"folder": tmp_path, "observers": Observers(progress=kill)})
    resumed = run(LONG, look_every=2, patience=4, changes={"folder": tmp_path})[1]
    assert resumed.logs[0].resumed_at
    assert resumed.logs[0].stopped == straight.logs[0].stopped is not None
    assert not changed(state(resumed.subject.model), state(straight.subject.model))


def test_looks_are_made_on_what_will_be_served() -> None:
    """Recall masks K and truth is D; validation leaves out users who keep nothing."""
    job = job_of()
    looks = Looks(job, job.dropped())
    values = looks.probe(job.subject.model)
    forget = forget_of()
    served = job.subject.with_served(job.retain)
    assert values["forget_recall"] == evaluate(served, forget, job.retain, [20]).mean("recall", 20)
    assert looks.valid is not None
    assert not bool(torch.isin(looks.valid.pairs[:, 0], forget.pairs[:, 0]).any())


def test_auc_counts_pairs() -> None:
    a, b = torch.tensor([0.0, 1.0, 1.0, 2.0]), torch.tensor([1.0, -1.0, 0.5])
    by_pairs = ((a[:, None] > b).double() + 0.5 * (a[:, None] == b).double()).mean()
    assert auc(a, b) == pytest.approx(float(by_pairs))


@pytest.mark.parametrize("kind", ["bpr-mf", "lightgcn", "vbpr", "mmgcn"])
def test_lowers_the_forget_signal_of_every_recommender(kind: str) -> None:
    _, job = run(replace(TRAINING, steps=30, lr=5e-2), "users", kind, alpha=0.5, look_every=30, target_auc=0.0)
    first, last = job.logs[0].probes[0], job.logs[0].probes[-1]
    assert last["forget_auc"] < first["forget_auc"] - 0.1


def test_refuses_what_cannot_be() -> None:
    train = world().train
    with pytest.raises(InputError, match="forget set is empty"):
        run(changes={"forget": train.take([])})
    with pytest.raises(InputError, match="nothing would be retained"):
        run(changes={"forget": train, "retain": train.take([])})
    stranger = world().test.take([0, 1, 2, 3])
    with pytest.raises(
        InputError, match=r"4 of 4 interactions \(user, item\): \(\d+, \d+\), \(\d+, \d+\), \(\d+, \d+\)\."
    ):
        run(changes={"forget": stranger})
    with pytest.raises(InputError, match=r"alpha=1\.2"):
        MMRecUn(alpha=1.2)
