"""The matrix: every method of the wing under the same contracts. A new file inherits them all."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from expunge import catalog
from expunge.engine.checkpoint import Checkpoints
from expunge.engine.loop import Observers
from expunge.engine.method import Edit, Method, Trained
from expunge.engine.training import Training
from expunge.errors import InputError
from expunge.recommend.data import Interactions
from expunge.recommend.subject import Subject, load_subject
from expunge.recommend.unlearn import UnlearnJob, emptied_nodes, erased_items, unlearn
from recommend.tiny import (
    KINDS,
    REQUESTS,
    STEPS,
    TRAINING,
    apart,
    changed,
    forget_of,
    forget_scores,
    job_of,
    state,
    trained,
    untrained,
    world,
)

NAMES = [entry.name for entry in catalog.entries("method", "recommend")]
SMALL: dict[str, dict[str, Any]] = {  # settings for a handful of users
    "certified-removal": {"sigma": 30.0},
    "grapheraser": {"shards": 2, "aggregator_epochs": 2},
    "mmrecun": {"look_every": 0},
    "receraser": {"shards": 2, "aggregator_epochs": 2.0},
    "sisa": {"shards": 2},
    "ultrare": {"shards": 2},
    "unlearnrec": {"pretrain_epochs": 2, "pretrain_batch": 128, "pretrain_lr": 1e-2},
}
ANOTHER_KIND = {"certified-removal", "sisa", "receraser", "grapheraser", "ultrare", "unlearn-als"}
STARTS_ANEW = {"retrain", "sisa", "receraser", "grapheraser", "ultrare"}  # from initial values, by the target's recipe
RETAIN_ONLY = {"fine-tune", "retrain"}  # never look at D
FEATURES = {"modality-removal"}  # take features away; the interactions stay
SEEDLESS = {"drop-edges", "unlearn-als"}  # nothing is drawn
COMPARES_A_BATCH = {"unlearnrec"}
STEPLESS = STARTS_ANEW | {"certified-removal", "unlearn-als", "unlearnrec", "row-reset", "gif", "ifru", "scif"}
KEEPS_EDGES, DROPS_EDGES = sorted(FEATURES & set(NAMES)), sorted(set(NAMES) - FEATURES)
STRONGER = replace(STEPS, steps=30, batch_size=64)


def make(name: str, **changes: Any) -> Method:
    method: Method = catalog.find("method", name, "recommend").load()(**{**SMALL.get(name, {}), **changes})
    return method


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def kind_of(name: str) -> str:
    return "mmgcn" if name in FEATURES else "lightgcn"


def job(name: str, training: Training = STEPS, **changes: Any) -> UnlearnJob:
    """The tiny job, with a short training of the target where it is trained again."""
    again = replace(TRAINING, steps=12, batch_size=64)
    return job_of(training, **{"kind": kind_of(name), "base_training": again, **changes})


def run(name: str, training: Training = STEPS, **changes: Any) -> Subject:
    return unlearn(make(name), job(name, training, **changes))


@cache
def done(name: str, request: str = "users") -> Subject:
    """The method after five steps; not to be changed."""
    return run(name, request=request)


def scores(subject: Subject) -> Tensor:
    return subject.scores(torch.arange(subject.served.users))


def test_the_catalog_lists_every_method_file() -> None:
    folder = Path(catalog.__file__).parent / "recommend" / "methods"
    files = {p.stem.replace("_", "-") for p in folder.glob("*.py") if not p.name.startswith("_")}
    assert set(NAMES) == files
    assert [p for p in catalog.catalog().problems if "recommend" in p] == []


def test_every_setting_says_where_its_default_comes_from(name: str) -> None:
    entry = catalog.find("method", name, "recommend")
    assert [f.name for f in entry.fields if "Source: " not in f.doc] == []
    assert entry.intention == "removal"


# -- what it does ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DROPS_EDGES)
@pytest.mark.parametrize("request_kind", REQUESTS)
def test_no_forgotten_edge_is_served_also_after_saving_and_loading(
    name: str, request_kind: str, tmp_path: Path
) -> None:
    forget, subject = forget_of(request_kind), done(name, request_kind)
    subject.save(tmp_path / "model", "# card\n")
    loaded = load_subject(str(tmp_path / "model"))
    for found in (subject, loaded):
        assert not found.served.contains(forget.pairs).any()
        assert not forget.contains(found.graph.pairs).any()
        assert len(found.served) == len(world().train) - len(forget)
        offered = torch.ones(40, dtype=torch.bool) if found.catalogue is None else found.catalogue
        assert torch.equal((~offered).nonzero()[:, 0], erased_items(forget))
    assert not changed(state(subject.model), state(loaded.model))
    assert torch.equal(scores(subject), scores(loaded))
    assert bool(scores(subject).isfinite().all())


@pytest.mark.parametrize("name", KEEPS_EDGES)
def test_what_loses_features_serves_on_also_after_saving_and_loading(name: str, tmp_path: Path) -> None:
    subject = done(name, "items")
    subject.save(tmp_path / "model", "# card\n")
    loaded = load_subject(str(tmp_path / "model"))
    assert torch.equal(loaded.served.pairs, world().train.pairs)
    assert loaded.catalogue is None
    assert torch.equal(scores(subject), scores(loaded))


@pytest.mark.parametrize("name", DROPS_EDGES)
def test_forgotten_pairs_fall(name: str) -> None:
    """Their scores, over the mean of all, come nearer to a model that never knew them than the target's are."""
    falls = forget_scores(run(name, STRONGER, base_training=TRAINING))
    assert falls < 0.9 * forget_scores(trained())


def test_what_is_kept_is_still_ranked_first(name: str) -> None:
    """Retained pairs score above the mean of all, after a handful of steps."""
    subject = run(name, base_training=TRAINING)
    kept = world().train.without(forget_of())
    assert float(subject.pair_scores(kept.pairs).mean() - scores(subject).mean()) > 0


def test_moves_only_what_it_declares(name: str) -> None:
    """Weights of the rows it names; the request, the features, the flags and the target's serving stay."""
    found, method = job(name), make(name)
    before = state(found.subject.model)
    model, served = found.subject.model, found.subject.served
    flags = {n: p.requires_grad for n, p in model.named_parameters()}
    pairs = [part.pairs.clone() for part in (found.forget, found.retain)]
    subject = unlearn(method, found)
    assert all(map(torch.equal, pairs, (found.forget.pairs, found.retain.pairs)))
    assert flags == {n: p.requires_grad for n, p in model.named_parameters()}
    assert all(p.grad is None for m in (model, subject.model) for p in m.parameters())
    assert found.subject.served is served
    assert not subject.model.training
    assert not changed(state(trained(kind_of(name)).model), before)
    after = state(model)
    if name in ANOTHER_KIND | STARTS_ANEW | {"drop-edges"}:
        assert not changed(before, after)
        return
    assert changed(before, after)
    rows = ROWS.get(name)
    if rows is not None:
        moved = (before["table"] != after["table"]).any(1)
        assert set(moved.nonzero()[:, 0].tolist()) <= set(rows(found).tolist())


ROWS: dict[str, Callable[[UnlearnJob], Tensor]] = {
    "row-reset": emptied_nodes,
    "scif": lambda found: found.forget.pairs[:, 0],
    "ifru": lambda found: torch.cat([found.forget.pairs[:, 0], found.forget.pairs[:, 1] + 60]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_works_with_every_base_model_or_says_that_it_does_not(name: str, kind: str) -> None:
    if (name, kind) in REFUSED:
        with pytest.raises(InputError, match=REFUSED[name, kind]):
            run(name, kind=kind)
        return
    subject = run(name, kind=kind)
    assert bool(scores(subject).isfinite().all())


REFUSED = {
    ("unlearnrec", "vbpr"): "unlearnrec: rewrites one table",
    ("unlearnrec", "mmgcn"): "unlearnrec: rewrites one table",
    ("modality-removal", "bpr-mf"): "BPRMF reads no features",
    ("modality-removal", "lightgcn"): "LightGCN reads no features",
}


# -- determinism and bookkeeping of steps ------------------------------------------------------------


def test_deterministic_under_a_seed(name: str) -> None:
    torch.manual_seed(17)
    again = run(name)
    first = state(done(name).model)
    assert not changed(first, state(again.model))
    if name not in SEEDLESS:
        other = run(name, seed=4).model
        moved = {n for n, p in other.state_dict().items() if n not in first or not torch.equal(first[n], p)}
        assert moved


def test_methods_that_know_what_is_kept_alone_never_look_at_what_is_forgotten() -> None:
    for name in sorted(RETAIN_ONLY):
        method = make(name)
        assert not (isinstance(method, Trained) and method.has_forget)
        less = job(name)
        less.forget = less.forget.take(torch.arange(3))
        less.base_training = replace(TRAINING, steps=11, batch_size=64)  # as many on K as with all of D
        assert not changed(state(unlearn(method, less).model), state(done(name).model)), name


def test_divided_steps_are_whole_ones(name: str) -> None:
    """Steps of 16 as 5 + 5 + 5 + 1."""
    sgd, ends = replace(STEPS, optimizer="sgd", lr=0.5), []
    recipe = replace(TRAINING, steps=12, batch_size=64, optimizer="sgd", lr=0.5)
    for micro in (None, 5):
        changes = {"base_training": replace(recipe, micro_batch=micro)}
        if micro and name in COMPARES_A_BATCH:
            with pytest.raises(InputError, match="micro_batch"):
                run(name, replace(sgd, micro_batch=micro), **changes)
            return
        ends.append(state(run(name, replace(sgd, micro_batch=micro), **changes).model))
    assert apart(*ends) < 1e-4


def test_an_interrupted_run_ends_bit_for_bit_like_one_that_was_not(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Checkpoints, "due", lambda self: self.folder is not None)

    class KilledError(Exception):
        pass

    def kill(step: int, total: int, terms: dict[str, float]) -> None:
        if step == 4:
            raise KilledError

    with suppress(KilledError):
        run(name, folder=tmp_path, observers=Observers(progress=kill))
        assert isinstance(make(name), Edit)  # one that takes no step cannot be interrupted in one
    found = job(name, folder=tmp_path)
    resumed = unlearn(make(name), found)
    assert not changed(state(resumed.model), state(done(name).model))
    checkpointed = [log for log in found.logs if len(log.steps) >= 4]
    assert not checkpointed or any(log.resumed_at for log in found.logs)


def test_no_step_is_the_target() -> None:
    """With nothing to do, trained methods return the target's weights bit for bit, over the retain graph."""
    none = replace(STEPS, steps=0)
    for name in sorted(set(DROPS_EDGES) - STEPLESS):
        subject = run(name, none)
        assert not changed(state(subject.model), state(trained(kind_of(name)).model)), name
        assert not subject.served.contains(forget_of().pairs).any()


def test_it_works_on_a_copy_that_shares_nothing(name: str) -> None:
    """Unlearning a deep copy leaves what it was copied from bit for bit."""
    original = trained(kind_of(name))
    found = job(name, subject=original.with_model(copy.deepcopy(original.model)))
    before = state(original.model)
    unlearn(make(name), found)
    assert not changed(before, state(original.model))


# -- what is refused ---------------------------------------------------------------------------------


def test_requests_that_make_no_sense_are_refused(name: str) -> None:
    train, nothing = world().train, world().train.take([])
    refused = [
        ("forget set is empty", {"forget": nothing, "retain": train}),
        ("nothing would be retained", {"forget": train, "retain": nothing}),
        ("not among the interactions the target serves: 120 of 120", {"forget": world().test}),
        ("in the forget set and in the retain set", {"retain": train}),
        ("60 users and 41 items", {"forget": Interactions(60, 41, torch.tensor([[0, 40]]))}),
    ]
    for words, changes in refused:
        found = job(name, **changes)
        before = state(found.subject.model)
        with pytest.raises(InputError, match=words):
            unlearn(make(name), found)
        assert not changed(before, state(found.subject.model)), words


def test_an_id_that_does_not_exist_is_no_request() -> None:
    for pair, words in (([60, 0], "user 60 is outside 0 to 59"), ([0, 40], "item 40"), ([-1, 0], "user -1")):
        with pytest.raises(InputError, match=words):
            replace(world().train, pairs=torch.tensor([pair]), about=())


def test_methods_that_train_again_need_to_know_how() -> None:
    for name in sorted(STARTS_ANEW):
        with pytest.raises(InputError, match="nothing says how the target was trained"):
            run(name, base=None)


def test_the_tiny_world_is_learnt_at_all() -> None:
    """What the contracts above are worth: forgotten pairs stand out of the target, not out of a fresh model."""
    assert forget_scores(trained()) > 1
    assert abs(forget_scores(untrained())) < 0.1
