"""The wing behind the floor's questions: rows, scores, the control, what leaves the catalogue, named requests, and what
it has no use for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from expunge.engine.loop import Observers
from expunge.engine.training import Training
from expunge.errors import InputError
from expunge.journal import Bars
from expunge.kept import put
from expunge.recipe import Recipe
from expunge.recommend.attacks._common import AttackSetting
from expunge.recommend.attacks.benign_relearn import BenignRelearn
from expunge.recommend.attacks.quantise import Quantise
from expunge.recommend.attacks.relearn import Relearn
from expunge.recommend.benchmarks.recommend import Recommend
from expunge.recommend.data import Interactions
from expunge.recommend.methods.drop_edges import DropEdges
from expunge.recommend.methods.retrain import Retrain
from expunge.recommend.metrics.membership import Membership
from expunge.recommend.metrics.ranking import Ranking
from expunge.recommend.metrics.score_ratios import ScoreRatios
from expunge.recommend.ranking import evaluate, places
from expunge.recommend.requests import named_request
from expunge.recommend.subject import Subject, load_subject
from expunge.recommend.unlearn import erased_items
from expunge.recommend.wing import WING
from expunge.recommend.wing import Recommend as Recommenders
from expunge.recommend.workload import Workload
from expunge.report.readings import divide
from expunge.runner import open_run
from expunge.stages import Context
from expunge.wing import find_wing
from recommend.fixed import given, pairs
from recommend.tiny import STEPS, forget_of, job_of, trained, world

RAW: dict[str, Any] = {
    "name": "few",
    "seed": 3,
    "model": {"source": "testbed"},
    "benchmark": {"name": "recommend", "share": 0.1, "d": 4, "k": 10},
    "target": {"train": {"steps": 3, "batch_size": 64}},
    "audit": {"attacks": [{"name": "relearn", "steps": [1, 4], "seeds": 2},
                          {"name": "benign-relearn", "steps": [2], "seeds": 3}, "quantise"]},
}  # fmt: skip


def recipe(tmp_path: Path, **changes: Any) -> Recipe:
    return Recipe.parse({**RAW, "out": str(tmp_path / "run"), "cache": str(tmp_path / "cache"), **changes})


def context(tmp_path: Path, **changes: Any) -> Context:
    with Bars(None) as bars:
        return open_run(recipe(tmp_path, **changes), bars)


def workload(request: str = "users", k: int = 10) -> Workload:
    """The tiny world's request; nobody's test interactions are left out."""
    forget = forget_of(request)
    retain = world().train.without(forget)
    splits = {"forget": forget, "retain": retain, "valid": world().valid, "test": world().test}
    return Workload(forget, retain, world().valid, world().test, splits, (), k)


def control(request: str = "users") -> Subject:
    return WING.control(job_of(request=request))


def test_the_floor_finds_it_by_name() -> None:
    assert find_wing("recommend") is WING
    assert isinstance(WING, Recommenders)
    assert str(WING) == "recommenders"


# -- rows -----------------------------------------------------------------------------------------------


def test_rows_are_interactions_of_users_or_items() -> None:
    forget, retain = forget_of("items"), world().train
    assert set(WING.subjects(forget)) == {f"item:{i}" for i in forget.pairs[:, 1].tolist()}
    assert WING.subjects(retain)[:2] == [f"user:{u}" for u in retain.pairs[:2, 0].tolist()]
    two = WING.take(forget, [5, 0, 1])
    assert two.pairs.tolist() == forget.pairs[[5, 0, 1]].tolist()
    assert WING.subjects(two) == [forget.about[i] for i in (5, 0, 1)]
    both = WING.join(retain.without(forget), forget)
    assert len(both) == len(retain)
    assert WING.subjects(both)[-len(forget) :] == list(forget.about)
    assert WING.digest(both) != WING.digest(retain) == retain.digest
    owners = WING.clusters(pairs(3, 3, (2, 0), (0, 1), (2, 1)))
    assert owners == [0, 1, 0]


def test_utility_is_what_is_recommended_of_what_was_not_told() -> None:
    assert WING.kept(workload()) is world().test


# -- scores ---------------------------------------------------------------------------------------------


def test_a_score_is_whether_the_item_is_among_the_first_of_what_is_not_kept() -> None:
    """User 0 keeps item 0 and watched item 1; of what is left item 2 comes first, then 3, then 4."""
    subject = given(torch.tensor([[5.0, 4, 3, 2, 1], [1, 2, 3, 4, 5]]))
    parts = {"forget": pairs(2, 5, (0, 3)), "retain": pairs(2, 5, (0, 0)), "valid": pairs(2, 5, (0, 1)),
             "test": pairs(2, 5, (0, 2), (0, 4), (1, 3))}  # fmt: skip
    work = Workload(parts["forget"], parts["retain"], parts["valid"], parts["test"], parts, (), k=2)
    assert WING.score(subject, parts["test"], work).tolist() == [1.0, 0.0, 1.0]
    assert WING.score(subject, parts["forget"], work).tolist() == [1.0]
    assert WING.score(subject, parts["forget"], replace(work, k=1)).tolist() == [0.0]
    assert WING.score(subject, parts["retain"], work).tolist() == [1.0]  # asked about, so it is not left out
    assert WING.score(subject, parts["test"], work, attacked=True).tolist() == [1.0, 0.0, 1.0]


def test_the_score_asks_the_weights_whatever_is_offered() -> None:
    subject, work = trained(), workload("items")
    before = WING.score(subject, work.forget, work)
    offered = torch.ones(40, dtype=torch.bool)
    offered[erased_items(work.forget)] = False
    assert before.mean() > 0.3
    assert np.array_equal(WING.score(subject.with_served(subject.served, offered), work.forget, work), before)
    assert np.array_equal(WING.score(control("items"), work.forget, work), before)


def test_which_metrics_compare_and_which_attacks_take_two_subjects() -> None:
    assert WING.compares([Membership(), ScoreRatios()])
    assert not WING.compares([Ranking(), Membership()])
    assert [WING.divides(a) for a in (Relearn(), BenignRelearn(), Quantise())] == [True, False, False]


def test_the_summary_names_the_benchmarks_k() -> None:
    columns = WING.columns(workload(k=7))
    assert [c[1] for c in columns if c[1].startswith("recall")] == ["recall_at_7", "recall_at_7"]
    assert columns[0][2] == "forget"  # what goes stands first
    assert all(len(line) <= 10 for head, _, _ in columns for line in head.split("\n"))  # seven fit into 80 characters


# -- the control ----------------------------------------------------------------------------------------


def test_the_control_is_the_target_and_holds_back_what_was_forgotten_from_its_user_alone() -> None:
    forget, nothing = forget_of("edges"), world().train.take([])
    held, target = control("edges"), trained()
    assert held.weights_hash() == target.weights_hash()
    assert torch.equal(held.scores(torch.arange(60)), target.scores(torch.arange(60)))
    assert len(held.served) == len(world().train)
    assert held.fingerprint() != target.fingerprint()
    retain = world().train.without(forget)
    served, open_ = (evaluate(s, forget, retain, (10,)) for s in (held, target))
    assert open_.mean("recall", 10) > 0.3
    assert served.mean("recall", 10) == 0.0
    assert bool((places(held, forget, retain) == 40).all())
    shown = evaluate(held, world().test, nothing, (40,)).top
    for user, items in zip(evaluate(held, world().test, nothing, (40,)).users.tolist(), shown.tolist(), strict=True):
        gone = forget.pairs[forget.pairs[:, 0] == user, 1].tolist()
        assert sorted(i for i in items if i >= 0) == [i for i in range(40) if i not in gone]


def test_attacks_look_behind_the_control(tmp_path: Path) -> None:
    """Every attack reads of the control what it reads of the target: the list is no part of the weights."""
    work = workload()
    groups = divide(WING.clusters(work.forget), 0, 0.4, 0.1)
    setting = AttackSetting(work, 0, groups)
    few = {"steps": (1, 4), "batch_size": 16, "seeds": 1}
    for attack in (Relearn(**few), BenignRelearn(**few), Quantise(bits=(4,))):  # type: ignore[arg-type]
        ours, targets = (attack.run(s, setting) for s in (control(), trained()))
        assert [r.scores.tolist() for r in ours] == [r.scores.tolist() for r in targets]
        assert max(r.scores.mean() for r in ours) > 0.2


@pytest.mark.parametrize("request_", ["users", "items", "edges"])
def test_the_control_is_saved_and_loaded_with_its_list(request_: str, tmp_path: Path) -> None:
    held = control(request_)
    put(held, tmp_path / "control", "# card\n", {"wing": WING.name})
    again = WING.model_ref(tmp_path / "control", recipe(tmp_path)).load()
    assert again.blocked is not None
    assert torch.equal(again.blocked.pairs, forget_of(request_).pairs)
    assert again.fingerprint() == held.fingerprint()
    work = workload(request_)
    splits = {n: work.splits[n] for n in ("forget", "retain")}
    given_ = context(tmp_path)
    given_.workload = replace(given_.workload, splits=splits)
    for _ in range(2):  # from the model, then from the evidence on disk
        store = WING.store(given_, "control", WING.model_ref(tmp_path / "control", given_.recipe), held.fingerprint())
        assert store.found("forget", 10, served=True).tolist() == [0.0] * len(work.forget)
        assert store.found("forget", 10).mean() > 0.2


def test_what_is_unlearned_from_the_control_still_knows_its_list() -> None:
    held = control("edges")
    job = replace(job_of(request="edges"), subject=held)
    after = WING.unlearn(DropEdges(), job)
    assert after.blocked is held.blocked
    assert not bool(job.forget.contains(after.served.pairs).any())


# -- what leaves the catalogue --------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [False, True])
def test_items_that_are_withdrawn_are_not_offered_by_what_was_trained_without_them(keep: bool, tmp_path: Path) -> None:
    given_ = context(tmp_path, benchmark={**RAW["benchmark"], "request": "items", "keep_as_negatives": keep})
    work, training = given_.workload, Training(steps=2, batch_size=64)
    gold = given_.models.trained(work.retain, training, 3, "gold").load()
    target = given_.models.trained(work.retain.union(work.forget), training, 3, "target").load()
    assert target.catalogue is None
    gone = work.forget.pairs[:, 1].unique()
    job = WING.job(given_, target, training, folder=tmp_path / "steps", observers=Observers())
    unlearned = WING.unlearn(DropEdges(), job)
    if keep:
        assert gold.catalogue is None
        assert unlearned.catalogue is None
        return
    for subject in (gold, unlearned):
        assert subject.catalogue is not None
        assert torch.equal((~subject.catalogue).nonzero()[:, 0], gone)
        assert bool((places(subject, work.forget, work.retain) == work.forget.items).all())
    again = WING.unlearn(Retrain(), job)
    assert again.catalogue is not None
    assert torch.equal(again.catalogue, gold.catalogue)


def test_other_requests_withdraw_nothing(tmp_path: Path) -> None:
    given_ = context(tmp_path)
    gold = given_.models.trained(given_.workload.retain, Training(steps=1, batch_size=64), 3, "gold").load()
    assert gold.catalogue is None


# -- jobs, models, stores, plans ------------------------------------------------------------------------


def test_a_job_is_the_request_with_the_benchmarks_ways(tmp_path: Path) -> None:
    given_ = context(tmp_path)
    folder, training, work = tmp_path / "checkpoints", Training(steps=2), given_.workload
    job = WING.job(given_, given_.models.base(), training, folder=folder, observers=Observers())
    assert (job.forget, job.retain, job.held_out) == (work.forget, work.retain, work.valid)
    assert (job.training, job.seed, job.folder, job.keep_as_negatives) == (training, 3, folder, False)
    assert job.base_training == given_.recipe.target.train  # type: ignore[union-attr]
    assert job.base is not None
    assert job.base().fingerprint() == given_.models.base().fingerprint()


def test_a_kept_result_depends_on_the_catalogue_and_on_how_the_target_was_trained(tmp_path: Path) -> None:
    plain = WING.content(context(tmp_path))
    assert WING.content(context(tmp_path)) == plain
    assert WING.content(context(tmp_path, target={"train": {"steps": 4, "batch_size": 64}})) != plain
    assert WING.content(context(tmp_path, benchmark={**RAW["benchmark"], "keep_as_negatives": True})) != plain
    keys = [WING.audit_content(context(tmp_path, benchmark={**RAW["benchmark"], "k": k})) for k in (10, 20)]
    assert keys[0] != keys[1]


def test_a_given_model_is_taken_as_it_is_and_must_be_about_the_same_catalogue(tmp_path: Path) -> None:
    given_ = context(tmp_path)
    given_.models.base(5).save(tmp_path / "gold", "# card\n")
    assert WING.given(given_, str(tmp_path / "gold")).load().fingerprint() == given_.models.base(5).fingerprint()
    with pytest.raises(InputError, match="no model kept by expunge"):
        WING.model_ref(tmp_path / "gold", given_.recipe)
    trained().save(tmp_path / "other", "# card\n")
    with pytest.raises(InputError, match=r"60 users and 40 items .* 200 users and 150 items"):
        WING.given(given_, str(tmp_path / "other")).load()
    store = WING.store(given_, "gold", WING.given(given_, str(tmp_path / "gold")), "print")
    assert store.folder == tmp_path / "run" / "audit" / "evidence"
    assert store.splits == tuple(given_.workload.splits)


def test_a_plan_counts_the_steps_of_attacks_that_train(tmp_path: Path) -> None:
    given_ = context(tmp_path)
    estimate = WING.estimate(given_.recipe, given_.workload)
    assert estimate.parameters == given_.models.base().parameters == 350 * 4
    assert estimate.attacked == 4 * 2 + 2 * 3  # the longest budget of each, times its seeds; rounding trains nothing
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "cache").exists()


# -- refusals -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": {"source": "testbed", "lora": {"rank": 4}}}, "model.lora: adapters are .*, not for recommenders."),
        ({"model": {"source": "testbed", "dtype": "float16"}}, "model.dtype: float16; recommenders are trained in flo"),
        ({"audit": {"harness": {"tasks": ["mmlu"]}}}, "audit.harness.tasks: .* ask language models, not recommenders"),
        ({"audit": {"references": 2}}, "audit.references: reference models are made of language models, not of recom"),
        ({"request": {"forget": "more.jsonl"}}, "request: several requests in turn .* not for recommenders."),
    ],
)
def test_settings_for_other_wings_are_refused_in_one_sentence(
    changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=words) as caught:
        context(tmp_path, **changes)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")
    assert not (tmp_path / "run").exists()


def test_one_request_at_a_time() -> None:
    with pytest.raises(InputError, match=r"sequence: several requests in turn .* not for recommenders"):
        WING.request_rows("more.csv")


# -- requests by name -----------------------------------------------------------------------------------

NAMED = Interactions(
    4, 3, torch.tensor([[0, 0], [0, 1], [1, 1], [3, 2]]), ("ann", "bob", "cat", "dan"), ("tea", "jam", "rye")
)
BARE = Interactions(4, 3, NAMED.pairs)


def test_users_items_and_interactions_are_asked_for_by_name_or_by_number() -> None:
    users = named_request(NAMED, "users", ["dan", "ann"])
    assert users.pairs.tolist() == [[0, 0], [0, 1], [3, 2]]
    assert users.about == ("user:0", "user:0", "user:3")
    items = named_request(NAMED, "items", ["jam"])
    assert items.pairs.tolist() == [[0, 1], [1, 1]]
    assert items.about == ("item:1", "item:1")
    edges = named_request(NAMED, "edges", ["dan,rye", "ann, jam"])
    assert edges.pairs.tolist() == [[0, 1], [3, 2]]
    assert edges.about == ("user:0", "user:3")
    assert named_request(BARE, "users", ["3"]).pairs.tolist() == [[3, 2]]
    assert named_request(BARE, "edges", ["0,1"]).pairs.tolist() == [[0, 1]]


@pytest.mark.parametrize(
    ("train", "kind", "who", "words"),
    [
        (NAMED, "users", ["anne"], "there is no user 'anne' among the 4. Did you mean 'ann'?"),
        (NAMED, "users", ["zz"], "there is no user 'zz' among the 4."),
        (NAMED, "items", ["tee"], "there is no item 'tee' among the 3. Did you mean 'tea'?"),
        (BARE, "users", ["4"], "there is no user '4' among the 4. They are numbered 0 to 3."),
        (BARE, "items", ["-1"], "there is no item '-1' among the 3. They are numbered 0 to 2."),
        (NAMED, "users", ["ann", "bob", "ann"], "'ann' is named twice."),
        (NAMED, "users", ["bob", "cat"], "user 'cat' has no training interactions; there is nothing to forget."),
        (NAMED, "edges", ["ann,rye"], "user 'ann' has no training interaction with item 'rye'."),
        (NAMED, "edges", ["ann"], "'ann' is no interaction; write it as user,item."),
        (NAMED, "edges", ["ann,salt"], "there is no item 'salt' among the 3."),
    ],
)
def test_a_request_for_who_or_what_is_not_there(train: Interactions, kind: Any, who: list[str], words: str) -> None:
    with pytest.raises(InputError) as caught:
        named_request(train, kind, who)
    assert str(caught.value) == f"request: {words}"


def test_one_interaction_written_in_two_ways_is_still_given_twice() -> None:
    with pytest.raises(InputError, match=r"1 interaction given more than once \(user, item\): \(ann, tea\)"):
        named_request(NAMED, "edges", ["ann,tea", "ann, tea"])


def test_numbers_in_a_recipe_are_names_too(tmp_path: Path) -> None:
    work = context(tmp_path, benchmark={**RAW["benchmark"], "who": [7, "12"]}).workload
    assert set(work.forget.clusters) == {"user:7", "user:12"}
    assert any("of 2 users are to be forgotten" in note for note in work.notes)
    edge = world().train.pairs[0].tolist()
    assert Recommend(request="edges", who=[f"{edge[0]},{edge[1]}"]).who == [f"{edge[0]},{edge[1]}"]


def test_a_request_may_leave_a_user_with_nothing_and_they_are_skipped(tmp_path: Path) -> None:
    work, subject = workload(), trained()
    gone = work.forget.pairs[:, 0].unique()
    after = WING.unlearn(DropEdges(), job_of(STEPS))
    assert after.served.users == 60
    assert int(after.served.degrees[0][gone].sum()) == 0
    assert not torch.isin(gone, evaluate(after, work.retain, work.retain.take([]), (5,)).users).any()
    assert after.scores(torch.arange(60)).isfinite().all()
    after.save(tmp_path / "model", "# card\n")
    assert torch.equal(load_subject(str(tmp_path / "model")).scores(gone), after.scores(gone))
    assert subject.served.degrees[0][gone].min() > 0
