"""SISA: after a deletion the ensemble is the one that never saw the images, bit for bit, and little was retrained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from expunge.engine.training import Training
from expunge.errors import InputError
from expunge.vision.attacks._common import AttackSetting
from expunge.vision.attacks.inside import Inside
from expunge.vision.attacks.quantise import Quantise
from expunge.vision.attacks.relearn import Relearn
from expunge.vision.augmentation import Augmentation
from expunge.vision.data import Images, concatenate
from expunge.vision.ensemble import Ensemble
from expunge.vision.methods.sisa import SISA
from expunge.vision.sharded import Shards, States, expected_shards, slice_passes
from expunge.vision.subject import Subject, load_subject, own_module, reset
from expunge.vision.unlearn import UnlearnJob, unlearn
from expunge.vision.workload import Workload
from tiny_faces import splits, untrained

TINY = Training(epochs=2.5, batch_size=16, lr=5e-3, schedule="cosine", clip=None)
METHOD = SISA(shards=3, slices=2)


def everything() -> Images:
    return concatenate([splits()["forget"], splits()["retain"]])


def job(forget: Images, retain: Images, **changed: object) -> UnlearnJob:
    plain = UnlearnJob(untrained(), forget, retain, Training(), base=untrained, base_training=TINY)
    return replace(plain, **changed)  # type: ignore[arg-type]


def removed(rows: list[int]) -> UnlearnJob:
    every = everything()
    return job(every.take(rows), every.take([i for i in range(len(every)) if i not in rows]))


def test_after_deletion_it_is_the_model_that_never_saw_them(tmp_path: Path) -> None:
    """The very same weights and predictions, retrained from the state before the slice of what was deleted."""
    work = removed([3])
    stored = replace(METHOD, stored=str(tmp_path / "states"))
    after = unlearn(stored, work)
    never = unlearn(METHOD, removed([3]))
    assert after.weights_hash() == never.weights_hash()
    test = splits()["test"]
    assert torch.equal(after.outputs(test)[0], never.outputs(test)[0])
    assert len(work.logs) < 2 * METHOD.shards * METHOD.slices  # everything once, then less than everything
    other = unlearn(METHOD, removed([4]))
    assert other.weights_hash() != never.weights_hash()


def test_only_what_saw_the_images_is_trained_again(tmp_path: Path) -> None:
    every = everything()
    shards = METHOD.trainer(job(every.take([0]), every.take(range(1, len(every)))))
    shards.states = States(tmp_path)
    shards.fit(every)
    assert sorted(shards.trained) == [(s, r) for s in range(3) for r in range(2)]
    places = {
        name: (s, r) for s, parts in enumerate(shards.assign(every)) for r, p in enumerate(parts) for name in p.names
    }
    before = set(shards.states.keys())
    shards.trained.clear()
    shards.fit(every)
    assert shards.trained == []
    for row in (next(i for i, n in enumerate(every.names) if places[n][1] == slice_) for slice_ in (1, 0)):
        shard, slice_ = places[every.names[row]]
        shards.trained.clear()
        shards.fit(every.take([i for i in range(len(every)) if i != row]))
        assert shards.trained == [(shard, r) for r in range(slice_, 2)]
        kept = set(shards.states.keys())
        assert len(kept) == 6  # what saw the image is gone from the disk too
        assert len(before - kept) == 2 - slice_
        shards.fit(every)


def test_places_depend_on_the_image_alone() -> None:
    every = everything()
    shards = Shards(3, 2, TINY, 0, untrained, lambda *_: None)
    place = {n: (s, r) for s, ps in enumerate(shards.assign(every)) for r, p in enumerate(ps) for n in p.names}
    assert sorted(place) == sorted(every.names)
    turned = every.take(torch.randperm(len(every), generator=torch.Generator().manual_seed(0))[:50])
    for s, parts in enumerate(shards.assign(turned)):
        for r, part in enumerate(parts):
            assert all(place[n] == (s, r) for n in part.names)
    sizes = np.bincount([s for s, _ in place.values()], minlength=3)
    assert sizes.min() > 0.5 * len(every) / 3
    by_person = Shards(3, 2, TINY, 0, untrained, lambda *_: None, by="identity").assign(every)
    homes = [{c for p in parts for c in p.clusters} for parts in by_person]
    assert sum(map(len, homes)) == len(set(every.clusters))


def test_nothing_crosses_constituents_augmentation_included() -> None:
    """With random changes of batches and batch statistics, shards the deletion did not touch are equal."""
    every = everything()

    def members(rows: list[int]) -> list[Subject]:
        kept = every.take([i for i in range(len(every)) if i not in rows])
        return METHOD.trainer(job(every.take(rows), kept, augment=Augmentation())).fit(kept)

    first, second = members([3]), members([4])
    same = [a.weights_hash() == b.weights_hash() for a, b in zip(first, second, strict=True)]
    assert any(same)
    assert not all(same)
    assert len({m.weights_hash() for m in first}) == 3


def test_an_empty_shard_has_no_vote() -> None:
    every = everything()
    few = unlearn(replace(METHOD, shards=40), job(every.take([0]), every.take(range(1, 6))))
    assert 1 <= len(few.model.trunks) <= 5  # type: ignore[arg-type]


def test_the_cost_of_slices_is_the_cost_of_plain_training() -> None:
    """sum_r e_r (r / R) N = e N; and what the formula says of requests is what counting says."""
    for slices in (1, 2, 5):
        assert sum(slice_passes(12, slices) * r / slices for r in range(1, slices + 1)) == pytest.approx(12)
    for shards, requests in ((5, 1), (5, 3), (8, 20)):
        draws = np.random.default_rng(0).integers(shards, size=(20_000, requests))
        touched = np.array([np.isin(np.arange(shards), row).sum() for row in draws[:4000]])
        assert expected_shards(shards, requests) == pytest.approx(touched.mean(), abs=0.06)
    assert expected_shards(7, 0) == 0
    assert expected_shards(7, 1) == pytest.approx(1)
    assert expected_shards(7, 10_000) == pytest.approx(7)


class Fixed(nn.Module):
    """Logits by a head on the mean colours."""

    def __init__(self, weight: list[list[float]]) -> None:
        super().__init__()
        self.head = nn.Linear(3, len(weight))
        self.head.weight = nn.Parameter(torch.tensor(weight))
        nn.init.uniform_(self.head.bias, -0.1, 0.1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(images.mean((2, 3)))  # type: ignore[no-any-return]


def test_votes_and_means_by_hand() -> None:
    torch.manual_seed(0)
    members = [Fixed(torch.randn(4, 3).mul(4).tolist()) for _ in range(5)]
    images = torch.rand(200, 3, 2, 2)
    with torch.no_grad():
        each = torch.stack([m(images) for m in members])
        vote, mean = Ensemble(members, "vote")(images), Ensemble(members, "mean")(images)
    torch.testing.assert_close(mean.exp(), each.softmax(-1).mean(0))
    counts = torch.stack([torch.bincount(v, minlength=4) for v in each.argmax(-1).T])
    torch.testing.assert_close(vote.exp(), (counts + 0.25) / 6)
    lowest = [int(np.flatnonzero(c == c.max())[0]) for c in counts.numpy()]
    assert vote.argmax(1).tolist() == lowest
    tied = (counts == counts.max(1, keepdim=True).values).sum(1) > 1
    assert bool(tied.any())  # the rule for ties was used
    assert not torch.equal(vote.argmax(1), mean.argmax(1))


def test_votes_can_be_trained_on() -> None:
    """Attackers fine-tune what they get: gradients reach every member, and are those of the mean softmax."""
    torch.manual_seed(0)
    model = Ensemble([Fixed(torch.randn(4, 3).tolist()) for _ in range(3)], "vote")
    nn.functional.cross_entropy(model(torch.rand(6, 3, 2, 2)), torch.arange(6) % 4).backward()
    assert model.heads.weight.grad is not None
    assert bool((model.heads.weight.grad.unflatten(1, (3, 3)).abs().sum((0, 2)) > 0).all())


@pytest.mark.parametrize("aggregate", ["vote", "mean"])
def test_the_ensemble_is_saved_and_loaded(aggregate: str, tmp_path: Path) -> None:
    """With its members' statistics; features are all members' side by side."""
    ensemble = unlearn(replace(METHOD, aggregate=aggregate), removed([3]))  # type: ignore[arg-type]
    ensemble.save(tmp_path / "m", "# card\n")
    again, test = load_subject(str(tmp_path / "m")), splits()["test"]
    logits, features = again.outputs(test)
    assert torch.equal(logits, ensemble.outputs(test)[0])
    assert features.shape == (len(test), 3 * 32)
    assert again.fingerprint() == ensemble.fingerprint()
    before = again.weights_hash()
    reset(again.model)
    assert again.weights_hash() != before
    module = own_module(Ensemble([Fixed([[1.0, 0, 0], [0, 1.0, 0]])]), 2)
    assert module.outputs(test)[0].shape == (len(test), 2)


def test_members_of_other_libraries(tmp_path: Path) -> None:
    """A transformers network inside its normalisation: one member's mean softmax is its own; saved and loaded."""
    import transformers as t

    config = t.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=4)
    processor = t.ConvNextImageProcessorPil(size={"shortest_edge": 16}, image_mean=[0.5] * 3, image_std=[0.2] * 3)
    torch.manual_seed(0)
    t.ResNetForImageClassification(config).save_pretrained(tmp_path / "hub")
    processor.save_pretrained(tmp_path / "hub")
    member, test = load_subject(str(tmp_path / "hub")), splits()["test"]
    logits, features = member.outputs(test)
    one = replace(METHOD, aggregate="mean").ensemble([member])
    torch.testing.assert_close(one.outputs(test)[0], logits.log_softmax(1))
    torch.testing.assert_close(one.outputs(test)[1], features)
    assert torch.equal(member.outputs(test)[0], logits)  # the member itself keeps its head
    two = METHOD.ensemble([member, member])
    two.save(tmp_path / "m", "# card\n")
    assert torch.equal(load_subject(str(tmp_path / "m")).outputs(test)[0], two.outputs(test)[0])


def test_an_ensemble_can_be_attacked() -> None:
    ensemble, found = unlearn(METHOD, removed([3])), splits()
    everyone = list(range(36))
    groups = {"attacker": everyone, "scored": everyone, "dev": []}
    work = Workload(found["forget"], found["retain"], {"forget": found["forget"], "retain": found["retain"]}, (), 4)
    first, *_, last = Relearn(steps=(1, 40), lr=1e-2, seeds=1).run(ensemble, AttackSetting(work, 0, groups))
    assert last.scores.mean() > first.scores.mean() + 0.3
    for attack in (Quantise(), Inside()):
        assert attack.run(ensemble, AttackSetting(work, 0, groups))


def test_states_of_others_and_other_files_are_left_alone(tmp_path: Path) -> None:
    """A damaged state is named; a folder may hold other things."""
    (tmp_path / "model.safetensors").write_bytes(b"mine")
    every = everything().take(range(30))
    for seed in (0, 1):
        unlearn(replace(METHOD, stored=str(tmp_path)), job(every.take([0]), every.take(range(1, 30)), seed=seed))
    files = sorted(p.name for p in tmp_path.iterdir())
    assert files[0] == "model.safetensors"
    assert len(files) == 1 + 2 * 6
    for path in tmp_path.glob("state-*"):
        path.write_bytes(b"x")
    with pytest.raises(InputError, match="not a stored state"):
        unlearn(replace(METHOD, stored=str(tmp_path)), job(every.take([0]), every.take(range(1, 30))))


def test_bad_settings_are_refused_in_words() -> None:
    for fields in ({"shards": 0}, {"slices": 0}, {"epochs": 0.0}, {"aggregate": "sum"}, {"by": "person"}):
        with pytest.raises(InputError, match=f"sisa: {next(iter(fields))}="):
            SISA(**fields)  # type: ignore[arg-type]
    work = removed([0])
    with pytest.raises(InputError, match="nothing says how the target was trained"):
        unlearn(METHOD, replace(work, base_training=None))
    with pytest.raises(InputError, match=r"trained for 50 steps; slices need passes, so set epochs"):
        unlearn(METHOD, replace(work, base_training=replace(TINY, steps=50)))
    with pytest.raises(InputError, match="SISA needs retain images"):
        unlearn(METHOD, replace(work, retain=work.retain.take([])))
    with pytest.raises(InputError, match="heads of one size"):
        Ensemble([Fixed([[1.0, 0, 0]]), Fixed([[1.0, 0, 0], [0, 1.0, 0]])])
    with pytest.raises(InputError, match="at least one member"):
        Ensemble([])
