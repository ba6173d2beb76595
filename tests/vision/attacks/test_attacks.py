"""Attacks on classifiers: the model is left as it was; a fresh head reads what a masked one no longer says."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from expunge.errors import InputError
from expunge.report.readings import divide
from expunge.vision.attacks._common import AttackSetting, right
from expunge.vision.attacks.benign_relearn import BenignRelearn
from expunge.vision.attacks.inside import Inside, fit_head
from expunge.vision.attacks.paraphrase import Paraphrase
from expunge.vision.attacks.quantise import Quantise
from expunge.vision.attacks.relearn import Relearn
from expunge.vision.data import Images, cluster_ids
from expunge.vision.subject import Subject
from expunge.vision.workload import Workload
from tiny_faces import splits, trained, untrained

FEW = {"steps": (1, 4), "batch_size": 16, "seeds": 1}


def setting(*, paraphrase: bool = True) -> AttackSetting:
    found = splits()
    named = {"forget": found["forget"], "retain": found["retain"]}
    if paraphrase:
        named["forget_paraphrase"] = found["test"]
    groups = divide(cluster_ids(found["forget"]), 0, 0.4, 0.2)
    return AttackSetting(Workload(found["forget"], found["retain"], named, (), 4), 0, groups)


@pytest.mark.parametrize(
    "attack", [Relearn(**FEW), BenignRelearn(**FEW), Quantise(), Paraphrase(), Inside()], ids=lambda a: type(a).__name__
)
def test_the_model_is_left_as_it_was(attack) -> None:  # type: ignore[no-untyped-def]
    """Weights, statistics, mode, random state; and a second run reads the same."""
    subject = trained()
    before, state = subject.weights_hash(), torch.random.get_rng_state()
    first, second = (attack.run(subject, setting()) for _ in range(2))
    assert first
    assert subject.weights_hash() == before
    assert not subject.model.training
    assert all(p.grad is None and p.requires_grad for p in subject.model.parameters())
    assert torch.equal(torch.random.get_rng_state(), state)
    for a, b in zip(first, second, strict=True):
        assert np.array_equal(a.scores, b.scores)
        assert a.scores.shape[1] == len(a.rows)


def test_relearning_starts_at_the_model_and_scores_others_than_it_used() -> None:
    found, subject = setting(), trained()
    readings = Relearn(**FEW).run(subject, found)  # type: ignore[arg-type]
    assert [r.strength for r in readings] == [0.0, 1.0, 4.0]
    assert readings[0].rows == found.groups["scored"]
    assert not set(readings[0].rows) & set(found.groups["attacker"])
    scored = found.workload.forget.take(readings[0].rows)
    assert np.array_equal(readings[0].scores[0], right(subject, scored))
    with pytest.raises(InputError, match="at least two different identities"):
        Relearn().run(subject, AttackSetting(found.workload, 0, {"attacker": [], "scored": [0], "dev": []}))
    empty = found.workload.retain.take([])
    bare = AttackSetting(Workload(found.workload.forget, empty, found.workload.splits, (), 4), 0, found.groups)
    with pytest.raises(InputError, match="benign relearning attack needs retain images"):
        BenignRelearn().run(subject, bare)


def test_relearning_moves_a_model() -> None:
    """From a fresh network the images the attacker holds are learnt: budgets are not all the same reading."""
    found = setting()
    everyone = sorted(i for rows in found.groups.values() for i in rows)
    same = AttackSetting(found.workload, 0, {"attacker": everyone, "scored": everyone, "dev": []})
    readings = Relearn(steps=(60,), lr=1e-2, batch_size=32, seeds=1).run(untrained(), same)
    assert readings[-1].scores.mean() > readings[0].scores.mean() + 0.4


def masked(subject: Subject, label: int) -> Subject:
    """A model that never says one class."""
    with torch.no_grad():
        subject.model.head.bias[label] = -1e4  # type: ignore[union-attr, index]
    return subject


def test_inside_reads_a_model_whose_head_is_masked() -> None:
    """All forgotten images are of one class, the head never says it, and the features still do."""
    found = splits()
    label = int(found["forget"].labels.bincount().argmax())
    gone = found["forget"].take(torch.nonzero(found["forget"].labels == label)[:, 0])
    kept = found["retain"].take(torch.nonzero(found["retain"].labels != label)[:, 0])
    half = len(gone) // 2
    groups = {"attacker": list(range(half)), "scored": list(range(half, len(gone))), "dev": []}
    work = AttackSetting(Workload(gone, kept, {"forget": gone, "retain": kept}, (), 4), 0, groups)
    subject = masked(trained(), label)
    assert right(subject, gone).mean() == 0
    (reading,) = Inside().run(subject, work)
    (fresh,) = Inside().run(untrained(3), work)
    assert reading.rows == groups["scored"]
    assert reading.scores.mean() > 0.8
    assert fresh.scores.mean() < reading.scores.mean()


def test_inside_says_nothing_where_labels_are_independent() -> None:
    found = setting()
    several = Images(
        found.workload.forget.source, found.workload.forget.rows, torch.zeros(len(found.workload.forget), 4),
        found.workload.forget.clusters, found.workload.forget.names,
    )  # fmt: skip
    splits_ = {**found.workload.splits, "forget": several}
    work = AttackSetting(Workload(several, found.workload.retain, splits_, (), 4), 0, found.groups)
    assert Inside().run(trained(), work) == []
    with pytest.raises(InputError, match="inside: "):
        Inside(ridge=0.0)


def test_a_fitted_head_separates_what_is_separable() -> None:
    """Also where features have very different sizes, or do not vary."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(90) % 3
    features = torch.randn(90, 4, generator=draw).double() * 0.2
    features[:, :3] += torch.eye(3)[labels]
    scaled = torch.cat([features * torch.tensor([1e3, 1.0, 1e-3, 1.0]), torch.full((90, 1), 7.0)], 1).double()
    for x in (features, scaled):
        weight, bias = fit_head(x, labels, 3, 1e-3, 50)
        assert float(((x @ weight.T + bias).argmax(1) == labels).double().mean()) > 0.95


def test_paraphrase_scores_the_other_pictures_or_nothing() -> None:
    subject = trained()
    (reading,) = Paraphrase().run(subject, setting())
    assert reading.split == "forget_paraphrase"
    assert np.array_equal(reading.scores[0], right(subject, splits()["test"]))
    assert Paraphrase().run(subject, setting(paraphrase=False)) == []


def test_rounding_to_many_bits_changes_no_answer() -> None:
    subject = trained()
    many, few = Quantise(bits=(16, 2)).run(subject, setting())
    assert np.array_equal(many.scores[0], right(subject, splits()["forget"]))
    assert few.scores.mean() < many.scores.mean()
    with pytest.raises(InputError, match="quantise: bits"):
        Quantise(bits=(1,))
