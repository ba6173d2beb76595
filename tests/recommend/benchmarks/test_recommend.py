"""The benchmark: what each request takes away, who is measured on what, and what is refused."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

import expunge.recommend.benchmarks.recommend as module
from expunge.errors import InputError
from expunge.recommend.benchmarks.recommend import MODELS, REQUESTS, Recommend
from expunge.recommend.data import require_subset


@pytest.mark.parametrize("request_", REQUESTS)
def test_splits_are_disjoint_and_speak_of_the_right_people(request_: str) -> None:
    bench = Recommend(request=request_, share=0.1, d=8)  # type: ignore[arg-type]
    work, train = bench.load(3), bench.network(0).served
    names = ("forget", "retain", "valid", "test", "non_interactions")
    keys = torch.cat([work.splits[n].keys() for n in names])
    assert len(keys.unique()) == len(keys)
    require_subset(work.splits["holdout"], bench._read[2], "holdout")
    if request_ == "adversarial":
        assert work.retain.digest == train.digest
        assert not bool(train.contains(work.forget.pairs).any())
        assert work.published
        assert 120 < len(work.forget) <= 175  # half of 200 users and of 150 items, without those drawn twice
    else:
        require_subset(work.forget, train, "forget")
        assert len(work.retain) == len(train) - len(work.forget)
        assert not work.published
    column = 1 if request_ == "items" else 0
    gone = work.forget.pairs[:, column].unique()
    assert bool(torch.isin(work.splits["holdout"].pairs[:, column], gone).all())
    if request_ in ("users", "items"):
        for part in (work.valid, work.test, work.retain):
            assert not bool(torch.isin(part.pairs[:, column], gone).any())
        assert len(work.test) + len(work.splits["holdout"]) == len(bench._read[2])
    else:
        assert len(work.test) == len(bench._read[2])


def test_loading_depends_on_the_seed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for request in REQUESTS:
        found = []
        for seed in (0, 0, 1):
            monkeypatch.setattr(module, "_PLANTED", {})  # planted interactions are kept for the process
            found.append(Recommend(request=request, d=8).load(seed).forget.digest)  # type: ignore[arg-type]
        assert found[0] == found[1] != found[2]


def test_planted_interactions_are_those_a_clean_model_finds_least_likely() -> None:
    bench = Recommend(request="adversarial", d=8)
    work = bench.load(0)
    world = bench.world
    users, items = work.forget.pairs.unbind(1)
    assert world.preferences[users, items].mean() < world.preferences[~world.all.mask()].mean()


def test_whether_forgotten_items_stay_is_the_workloads_to_say() -> None:
    for keep in (True, False):
        work = Recommend(request="items", keep_as_negatives=keep).load(0)
        assert work.keep_as_negatives is keep
        assert any(("stay in the catalogue" if keep else "leave it") in note for note in work.notes)


@pytest.mark.parametrize("model", MODELS)
def test_networks_are_seeded_and_read_features_where_they_need_them(model: str) -> None:
    bench = Recommend(model=model, d=8)  # type: ignore[arg-type]
    one, same, other = (bench.network(seed).weights_hash() for seed in (0, 0, 1))
    assert one == same != other
    assert bool(bench.load(0).features) is (model in ("vbpr", "mmgcn"))


@pytest.mark.parametrize("model", MODELS)
def test_the_weight_of_the_penalty_is_the_models_own_unless_it_is_given(model: str) -> None:
    own, given = (Recommend(model=model, d=8, reg=reg).network(0).model for reg in (None, 0.25))  # type: ignore[arg-type]
    assert own.reg == (1e-3 if model == "lightgcn" else 1e-2)
    assert given.reg == 0.25


def test_a_file_with_features_beside_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = ["userID\titemID\tx_label"]
    for user in range(30):
        items = rng.permutation(25)[:10]
        rows += [f"{user}\t{item}\t{0 if i < 7 else 1 if i == 7 else 2}" for i, item in enumerate(items)]
    (tmp_path / "toy.inter").write_text("\n".join(rows) + "\n", encoding="utf-8")
    bench = Recommend(str(tmp_path / "toy.inter"), "edges", share=0.1, k=5, model="vbpr", d=4)
    with pytest.raises(InputError, match="no features there"):
        bench.network(0)
    np.save(tmp_path / "text_feat.npy", rng.normal(size=(25, 3)))
    work = Recommend(str(tmp_path / "toy.inter"), "edges", share=0.1, k=5, model="vbpr", d=4).load(0)
    assert (len(work.forget), len(work.retain), len(work.valid), len(work.test)) == (21, 189, 30, 60)
    assert work.features["text"].shape == (25, 3)
    with pytest.raises(InputError, match="k=26 recommendations of 25 items"):
        Recommend(str(tmp_path / "toy.inter"), k=26).load(0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"request": "user"}, "unknown request 'user'. Did you mean 'users'"),
        ({"model": "gcn"}, "unknown model 'gcn'"),
        ({"pick": "most"}, "unknown pick 'most'"),
        ({"share": 0.0}, "share=0.0"),
        ({"planted": 1.0}, "planted=1.0"),
        ({"k": 0}, "k=0"),
        ({"reg": -1e-3}, "reg=-0.001"),
        ({"request": "edges", "pick": "core"}, "pick=core is about users or items, and request=edges"),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict, message: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(InputError, match=message):
        Recommend(**changes)


@pytest.mark.skipif(importlib.util.find_spec("recbole") is None, reason="ml-100k: pip install --no-deps recbole==1.2.1")
def test_ml_100k_is_divided_70_10_20() -> None:
    work = Recommend("ml-100k", "users").load(0)
    train = len(work.forget) + len(work.retain)
    assert train == 70_771
    assert len(set(work.forget.clusters)) == 47
    assert len(work.splits["non_interactions"]) == len(work.forget)
    assert any("research only" in note for note in work.notes)
    regs = [Recommend("ml-100k", reg=reg).network(0).model.reg for reg in (None, 1e-3)]
    assert regs == [2e-3, 1e-3]
