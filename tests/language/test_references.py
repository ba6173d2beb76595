"""Reference models: who is inside which, that they are trained once, and that they tell members apart."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier
from time import sleep

import numpy as np
import pytest

import expunge.language.references as module
from expunge.language.data import Record
from expunge.language.references import (
    SIDES,
    SIGNALS,
    ReferenceEvidence,
    audited_scores,
    divide,
    missing,
    reference_evidence,
)
from reference_bed import COUNT, TRAINING, ReferenceBed, make_reference_bed


@pytest.fixture(scope="session")
def bed(tmp_path_factory: pytest.TempPathFactory) -> ReferenceBed:
    return make_reference_bed(tmp_path_factory)


def people(prefix: str, count: int, rows: int = 3, cluster: bool = True) -> list[Record]:
    return [
        Record(f"Question {j} about {prefix}{i}?", f"Answer {i}{j}", f"{prefix}{i}" if cluster else "")
        for i in range(count)
        for j in range(rows)
    ]


# -- the division -------------------------------------------------------------------------------------


def test_pairs_are_complementary_halves_of_whole_people() -> None:
    forget, holdout = people("f", 6), people("h", 5)
    division = divide(forget, {"forget": forget, "holdout": holdout}, 8, seed=0)
    assert division.halves.shape == (8, 11)
    assert (division.halves[0::2] != division.halves[1::2]).all()
    assert set(division.halves[0::2].sum(1)) == {5}
    inside = division.halves[:, division.audited]
    assert (inside.sum(0) == 4).all()  # every record is inside half of the models
    by_person = inside.reshape(8, 11, 3)
    assert (by_person == by_person[..., :1]).all()  # with all of its person's records
    assert len({row.tobytes() for row in division.halves}) == 8


def test_the_division_is_a_function_of_the_seed() -> None:
    forget, holdout = people("f", 6), people("h", 6)
    splits = {"forget": forget, "holdout": holdout}
    first, again, other = (divide(forget, splits, 4, seed).halves for seed in (0, 0, 1))
    assert (first == again).all()
    assert (first != other).any()
    longer = divide(forget, splits, 6, 0).halves
    assert (longer[:4] == first).all()  # more models keep the first ones


def test_forget_and_holdout_people_are_as_likely_inside() -> None:
    """One coin for all: over many pairs the share of forget people inside is a half, and it varies."""
    forget, holdout = people("f", 6, 1), people("h", 6, 1)
    halves = divide(forget, {"forget": forget, "holdout": holdout}, 400, seed=0).halves[::2]
    share = halves[:, :6].mean(1)
    assert share.mean() == pytest.approx(0.5, abs=4 * 0.15 / np.sqrt(200))
    assert share.std() > 0.1


def test_records_without_a_cluster_stand_for_themselves_and_names_count_per_side() -> None:
    forget, holdout = people("x", 4, 1, cluster=False), people("x", 4, 1)
    division = divide(forget + people("x", 3), {"forget": forget, "holdout": holdout}, 2, seed=0)
    assert sorted(division.audited.tolist()) == [0, 1, 2, 3, 7, 8, 9, 10]  # 4, 5, 6: forget people nobody measures
    assert division.forget.tolist() == [0, 1, 2, 3, 4, 4, 4, 5, 5, 5, 6, 6, 6]


def test_what_is_missing_is_one_clause() -> None:
    forget, holdout = people("f", 2), people("h", 2)
    splits = {"forget": forget, "holdout": holdout}
    assert missing(forget, splits, TRAINING) is None
    assert missing(forget, splits, None) == "nothing says how the target was trained (target.train)"
    assert missing(forget, {"forget": forget}, TRAINING) == "there is no split 'holdout'"
    assert missing(forget, {"forget": forget, "holdout": []}, TRAINING) == "there is no split 'holdout'"
    assert missing(forget[:3], splits, TRAINING) == (
        "split 'forget' speaks of clusters that no forget record of the training belongs to"
    )
    assert "at least two clusters" in (missing(forget, {**splits, "holdout": holdout[:3]}, TRAINING) or "")


# -- the models ---------------------------------------------------------------------------------------


def test_what_a_model_was_trained_on_is_likelier(bed: ReferenceBed) -> None:
    """Within every model, and over the models for nearly every record."""
    found, inside = bed.references.signals["loss"], bed.references.inside
    assert found.shape == inside.shape == (COUNT, 192)
    for scores, seen in zip(found, inside, strict=True):
        assert scores[seen].mean() > scores[~seen].mean() + 1  # nats
    better = np.where(inside, found, np.nan), np.where(inside, np.nan, found)
    assert (np.nanmean(better[0], 0) > np.nanmean(better[1], 0)).mean() > 0.95


def test_the_signals_are_the_detectors(bed: ReferenceBed) -> None:
    """The target scored as a reference is scored gives what the membership metric reads."""
    from expunge.language.metrics.membership import membership_scores

    assert set(bed.references.signals) == set(SIGNALS)
    for name in SIGNALS:
        expected = np.concatenate([membership_scores(name, bed.target, s) for s in SIDES])
        assert (audited_scores(bed.target, name, SIDES, 0.4) == expected).all()


def test_only_scores_are_left_and_nothing_is_trained_twice(bed: ReferenceBed, monkeypatch: pytest.MonkeyPatch) -> None:
    left = sorted(p.name for p in bed.models.cache.iterdir())
    assert sum(name.endswith(".reference.safetensors") for name in left) == COUNT
    assert len(left) == COUNT + 2  # target and gold
    monkeypatch.setattr(module, "_scores", None)  # training would call it
    forget, retain = bed.records["train_forget"], bed.records["train_retain"]
    again = reference_evidence(bed.models, forget, retain, bed.splits, TRAINING, seed=0, count=COUNT)
    assert again.key == bed.references.key
    fewer = reference_evidence(bed.models, forget, retain, bed.splits, TRAINING, seed=0, count=2)
    assert (fewer.signals["loss"] == bed.references.signals["loss"][:2]).all()
    assert fewer.key != again.key
    for changed in (
        {"seed": 1},
        {"retain": retain[1:]},
        {"training": replace(TRAINING, lr=1e-3)},
        {"splits": {**bed.splits, "holdout": bed.splits["holdout"][:-1]}},
        {"k": 0.2},
    ):
        settings = {"retain": retain, "splits": bed.splits, "training": TRAINING, "seed": 0, "count": 2} | changed
        with pytest.raises(TypeError, match="NoneType"):
            reference_evidence(bed.models, forget, **settings)


def test_the_key_is_of_the_content(bed: ReferenceBed) -> None:
    one = bed.references
    assert ReferenceEvidence(one.inside, one.signals, one.sides, one.k).key == one.key
    moved = {**one.signals, "loss": one.signals["loss"] + 1e-9}
    others = [replace(one, inside=~one.inside), replace(one, signals=moved), replace(one, k=0.3)]
    assert len({one.key, *(other.key for other in others)}) == 4


def test_whoever_comes_second_waits_and_finds_the_scores(tmp_path: Path) -> None:
    """Two workers want one model: they are never inside at once, and the second finds what the first has made."""
    inside, made, start = [], [], Barrier(2)

    def work() -> None:
        start.wait()
        with module._alone(tmp_path / "key.lock"):
            inside.append(1)
            assert len(inside) == 1
            if not (tmp_path / "scores").exists():
                sleep(0.05)
                (tmp_path / "scores").touch()
                made.append(1)
            inside.pop()

    with ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(work) for _ in range(2)]:
            future.result()
    assert len(made) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["scores"]
