"""Subjects: scores, fingerprints, what is saved, and what a damaged folder says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from expunge.errors import InputError
from expunge.recommend.data import Interactions
from expunge.recommend.models.lightgcn import LightGCN
from expunge.recommend.subject import CONFIG, fresh, load_subject
from recommend.tiny import KINDS, changed, forget_of, network, state, trained, world


def test_scores_are_products_of_vectors() -> None:
    subject = trained()
    z_user, z_item = subject.embeddings()
    assert not z_user.requires_grad
    users = torch.tensor([5, 0])
    torch.testing.assert_close(subject.scores(users), z_user[users] @ z_item.T)
    pairs = torch.tensor([[5, 3], [0, 39]])
    torch.testing.assert_close(subject.pair_scores(pairs), subject.scores(users)[[0, 1], [3, 39]])


def test_vectors_follow_the_weights_and_what_is_served() -> None:
    """Nothing is cached that an edit in place, or other interactions, would leave behind."""
    subject = trained()
    before = subject.scores(torch.arange(60))
    with torch.no_grad():
        subject.model.get_parameter("table").mul_(2)
    torch.testing.assert_close(subject.scores(torch.arange(60)), 4 * before)
    dropped = subject.with_served(world().train.without(forget_of()))
    assert not torch.allclose(dropped.scores(torch.arange(60)), 4 * before)
    torch.testing.assert_close(subject.scores(torch.arange(60)), 4 * before)
    assert dropped.model is subject.model
    subject.served = dropped.served
    assert torch.equal(subject.scores(torch.arange(60)), dropped.scores(torch.arange(60)))


def test_the_fingerprint_tells_weights_served_and_catalogue_apart() -> None:
    subject = trained()
    catalogue = torch.ones(40, dtype=torch.bool)
    catalogue[3] = False
    moved = trained()
    with torch.no_grad():
        moved.model.get_parameter("table")[0, 0] += 1e-3
    others = [
        moved,
        subject.with_served(world().train.without(forget_of())),
        subject.with_served(world().train, catalogue),
        subject.with_model(network("bpr-mf")),
    ]
    prints = [s.fingerprint() for s in (subject, *others)]
    assert len(set(prints)) == 5
    assert trained().fingerprint() == prints[0]
    assert moved.weights_hash() != subject.weights_hash()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_saved_comes_back(kind: str, tmp_path: Path) -> None:
    catalogue = torch.ones(40, dtype=torch.bool)
    catalogue[[3, 8]] = False
    served = world().train.without(forget_of())
    names = Interactions(60, 40, served.pairs, tuple(f"u{k}" for k in range(60)), tuple(f"i{k}" for k in range(40)))
    subject = trained(kind).with_served(names, catalogue)
    subject.save(tmp_path / "model", "# card\n")
    loaded = load_subject(str(tmp_path / "model"))
    assert not changed(state(subject.model), state(loaded.model))
    assert torch.equal(loaded.served.pairs, served.pairs)
    assert (loaded.served.user_names[7], loaded.served.item_names[9]) == ("u7", "i9")
    assert loaded.catalogue is not None
    assert torch.equal(loaded.catalogue, catalogue)
    users = torch.arange(60)
    assert torch.equal(subject.scores(users), loaded.scores(users))
    assert subject.fingerprint() == loaded.fingerprint()
    assert not any(path.suffix in (".pt", ".pkl", ".npy") for path in (tmp_path / "model").iterdir())


def test_without_a_catalogue_none_comes_back(tmp_path: Path) -> None:
    trained().save(tmp_path / "model", "# card\n")
    assert load_subject(str(tmp_path / "model")).catalogue is None


def test_a_folder_that_is_none_or_damaged_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no recommender there"):
        load_subject(str(tmp_path))
    trained().save(tmp_path / "model", "# card\n")
    config = tmp_path / "model" / CONFIG
    good = json.loads(config.read_text(encoding="utf-8"))
    for damage, words in (
        ({**good, "origin": {"network": "gcn"}}, "Unknown recommender 'gcn'"),
        ({**good, "origin": {**good["origin"], "d": 9}}, "not a recommender that can be loaded"),
        ({**good, "users": 59}, "outside 0 to 58"),
        ({}, "not a recommender that can be loaded"),
    ):
        config.write_text(json.dumps(damage), encoding="utf-8")
        with pytest.raises(InputError, match=words):
            load_subject(str(tmp_path / "model"))


def test_another_catalogue_is_refused() -> None:
    with pytest.raises(InputError, match="61 users and 40 items cannot serve interactions over 60 users"):
        fresh(LightGCN(61, 40), world().train)
    with pytest.raises(InputError, match="61 users"):
        trained().with_served(Interactions(61, 40, world().train.pairs))
