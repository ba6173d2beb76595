"""Relearning: it trains on some clusters, scores others, and leaves the model alone."""

from __future__ import annotations

import numpy as np
import pytest

from expunge.engine.training import Training
from expunge.errors import InputError
from expunge.language.attacks._common import AttackSetting, fact_scores
from expunge.language.attacks.benign_relearn import BenignRelearn
from expunge.language.attacks.paraphrase import Paraphrase
from expunge.language.attacks.quantise import Quantise
from expunge.language.attacks.relearn import Relearn
from expunge.language.data import Record, cluster_ids
from expunge.language.methods.idk import IDK
from expunge.language.refusals import REFUSALS
from expunge.language.subject import Subject
from expunge.language.unlearn import UnlearnJob
from expunge.language.workload import Workload, divide_clusters
from tiny_bed import Bed


@pytest.fixture(scope="module")
def setting(bed: Bed) -> AttackSetting:
    splits = {k: v for k, v in bed.records.items() if not k.startswith("train_")}
    workload = Workload(bed.forget, bed.retain, splits, (), max_new_tokens=8)
    return AttackSetting(workload, 0, divide_clusters(splits["forget"], 0, 0.75, 0.0))


@pytest.fixture(scope="module")
def refusing(bed: Bed) -> Subject:
    """A target taught to refuse: knowledge inside, silence outside."""
    training = Training(steps=60, batch_size=32, lr=1e-3)
    subject = bed.fresh()
    job = UnlearnJob(subject, bed.forget, bed.retain, training, refusals=REFUSALS[:2])
    return job.train(IDK(), subject)


@pytest.mark.parametrize("seed", range(5))
def test_no_cluster_is_in_two_groups_and_none_is_lost(seed: int) -> None:
    records = [Record("q", f"{c}{i}", str(c)) for c in range(10) for i in range(3)]
    groups = divide_clusters(records, seed, 0.4, 0.1)
    ids = np.array(cluster_ids(records))
    clusters = {name: set(ids[rows]) for name, rows in groups.items()}
    assert {name: len(c) for name, c in clusters.items()} == {"attacker": 4, "dev": 1, "scored": 5}
    assert len(set.union(*clusters.values())) == 10
    assert sum(map(len, groups.values())) == 30


def test_zero_steps_is_no_attack_and_the_model_stays_as_it_was(bed: Bed, setting: AttackSetting) -> None:
    before = bed.target.weights_hash()
    readings = Relearn(steps=(1, 2), seeds=2).run(bed.target, setting)
    assert bed.target.weights_hash() == before
    assert [r.budget for r in readings] == ["0 steps", "1 steps", "2 steps"]
    measured = setting.workload.splits["forget"]
    plain = fact_scores(bed.target, [measured[i] for i in readings[0].rows], "exact", 8)
    assert (readings[0].scores == plain).all()
    assert readings[0].scores.shape == (2, len(setting.groups["scored"]))


def test_the_scored_facts_are_never_trained_on(
    bed: Bed, setting: AttackSetting, monkeypatch: pytest.MonkeyPatch
) -> None:
    from expunge.language.attacks import relearn

    seen: list[Record] = []
    original = relearn.make_streams

    def spy(method: object, subject: object, forget: object, records: list[Record], *rest: object) -> object:
        seen.extend(records)
        return original(method, subject, forget, records, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(relearn, "make_streams", spy)
    readings = Relearn(steps=(1,), seeds=1).run(bed.gold, setting)
    measured = setting.workload.splits["forget"]
    scored = {measured[i].cluster for i in readings[0].rows}
    assert seen
    assert not scored & {r.cluster for r in seen}


def test_relearning_wakes_a_refusing_model_and_not_gold(bed: Bed, refusing: Subject, setting: AttackSetting) -> None:
    """The attack's reason to be: what was hidden comes back for people the attacker never showed."""
    attack = Relearn(steps=(16, 64), lr=1e-4, seeds=1)
    hidden = {r.budget: r.scores.mean() for r in attack.run(refusing, setting)}
    absent = {r.budget: r.scores.mean() for r in attack.run(bed.gold, setting)}
    assert hidden["0 steps"] < 0.1
    assert hidden["64 steps"] > 0.5
    assert absent["64 steps"] < 0.3


def test_benign_relearning_trains_on_retain_alone(bed: Bed, refusing: Subject, setting: AttackSetting) -> None:
    readings = BenignRelearn(steps=(32,), lr=3e-4, seeds=1).run(refusing, setting)
    dev = set(setting.groups["dev"])
    everything = set(range(len(setting.workload.splits["forget"])))
    assert set(readings[0].rows) == everything - dev
    assert readings[-1].scores.mean() >= readings[0].scores.mean()


def test_lora_attack_leaves_the_base_weights(bed: Bed, setting: AttackSetting) -> None:
    before = bed.gold.weights_hash()
    readings = Relearn(steps=(2,), seeds=1, lora=True).run(bed.gold, setting)
    assert bed.gold.weights_hash() == before
    assert len(readings) == 2


def test_one_cluster_cannot_be_divided(bed: Bed) -> None:
    records = [r for r in bed.records["forget"] if r.cluster == bed.records["forget"][0].cluster]
    workload = Workload(records, bed.retain, {"forget": records}, ())
    setting = AttackSetting(workload, 0, divide_clusters(records, 0, 0.4, 0.1))
    with pytest.raises(InputError, match="at least two different subjects"):
        Relearn().run(bed.target, setting)


def test_quantised_reading_of_the_target(bed: Bed, setting: AttackSetting) -> None:
    """Eight bits change nothing a trained model answers; two bits destroy it."""
    eight, two = Quantise(bits=(8, 2)).run(bed.target, setting)
    assert eight.channel == "quantise-8"
    assert eight.scores.mean() > 0.9
    assert two.scores.mean() < eight.scores.mean()


def test_paraphrase_reads_the_other_wordings(bed: Bed, setting: AttackSetting) -> None:
    (reading,) = Paraphrase().run(bed.target, setting)
    assert reading.split == "forget_paraphrase"
    assert reading.scores.shape == (1, len(setting.workload.splits["forget_paraphrase"]))
    without = Workload(bed.forget, bed.retain, {"forget": bed.records["forget"]}, ())
    assert Paraphrase().run(bed.target, AttackSetting(without, 0)) == []
