"""Which records reference models are trained on; and that a killed training run loses nothing that was finished."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from expunge.errors import InputError, RunError
from expunge.membership.classifier import Classifier, Records, SklearnClassifier
from expunge.membership.learners import TorchLearner, Training, TrainOn
from expunge.membership.shadows import Shadows, halves, reference_masks, target_masks, train_references
from tiny_shadows import Counting, Dying, records

PARTS = halves(20, seed=3)


def masks(distribution: Any, models: int = 6, seed: int = 3) -> Any:
    return reference_masks(PARTS, 20, models, distribution, seed)


def test_the_parts_cover_all_records_once() -> None:
    assert sorted([*PARTS.target, *PARTS.shadow]) == list(range(20))
    assert len(halves(10, 0, 0.3).target) == 3


@pytest.mark.parametrize("distribution", ["target_ref", "shadow", "subtar", "subtar_shadow"])
def test_pairs_are_complementary_in_their_pool(distribution: str) -> None:
    drawn = masks(distribution)
    pool = drawn.any(0)
    assert (drawn[::2] ^ drawn[1::2] == pool).all()
    assert (drawn[:, pool].sum(0) == 3).all()  # M / 2
    assert abs(drawn.sum(1) - pool.sum() / 2).max() <= 0.5
    assert len(np.unique(drawn, axis=0)) == 6


def test_pools() -> None:
    pools = {name: set(np.flatnonzero(masks(name).any(0))) for name in ("target_ref", "shadow", "subtar")}
    both = set(np.flatnonzero(masks("subtar_shadow").any(0)))
    assert pools["target_ref"] == set(PARTS.target)
    assert pools["shadow"] == set(PARTS.shadow)
    assert pools["subtar"] < pools["target_ref"]
    assert len(pools["subtar"]) == 5
    assert both == pools["subtar"] | pools["shadow"]


def test_masks_are_a_function_of_the_seed() -> None:
    assert (masks("shadow") == masks("shadow")).all()
    assert (masks("shadow") != masks("shadow", seed=4)).any()
    assert (masks("target_ref", models=4) == masks("target_ref")[:4]).all()  # more models keep the first ones


def test_targets_are_trained_on_independent_halves_of_the_target_part() -> None:
    drawn = target_masks(PARTS, 20, targets=50, seed=3)
    assert not drawn[:, PARTS.shadow].any()
    assert (drawn.sum(1) == 5).all()
    share = drawn[:, PARTS.target].mean(0)
    assert 0.2 < share.min() < share.max() < 0.8
    both = (drawn[0::2] & drawn[1::2]).sum() / drawn[0::2].sum()
    assert 0.3 < both < 0.6  # 4/9 of a half are expected in another: no pairing here


@pytest.mark.parametrize("models", [0, 1, 3, 5])
def test_odd_or_too_few_models_cannot_be_paired(models: int) -> None:
    with pytest.raises(InputError, match="even and at least 2"):
        masks("target_ref", models)


def test_other_wrong_splits() -> None:
    with pytest.raises(InputError, match="must be one of target_ref"):
        masks("targets")
    with pytest.raises(InputError, match="one of the two parts empty"):
        halves(1, 0)
    with pytest.raises(InputError, match="one side is empty"):
        target_masks(halves(4, 0), 4, 1, 0, keep=0.1)
    with pytest.raises(InputError, match="a pool of 1 records"):
        reference_masks(halves(4, 0), 4, 2, "subtar", 0)


# -- training -----------------------------------------------------------------------------------------


def trained(folder: Path, train: Any, workers: int = 1, **more: Any) -> Shadows:
    some = records()
    return train_references(
        train, reference_masks(halves(12, 0, 0.9), 12, 4, "target_ref", 0), some, folder, workers=workers,
        **{"name": "counting", "seed": 5, **more},
    )  # fmt: skip


def count(folder: Path) -> int:
    return len(list((folder / "log").glob("*")))


def test_models_are_filed_and_found_again(tmp_path: Path) -> None:
    first = trained(tmp_path / "a", Counting(tmp_path))
    assert count(tmp_path) == 4
    told: list[tuple[int, int]] = []
    again = trained(tmp_path / "a", Counting(tmp_path), tell=lambda *n: told.append(n))
    assert (count(tmp_path), told) == (4, [])
    for m in range(4):
        np.testing.assert_array_equal(first.logits(m), again.logits(m))
        np.testing.assert_array_equal(first.classifier(m).logits(records().inputs), first.logits(m))
    assert (again.seconds > 0).all()
    assert again.values(lambda logits: logits.max(1)).shape == (4, 12)


def test_another_name_seed_mask_or_record_is_another_model(tmp_path: Path) -> None:
    trained(tmp_path / "a", Counting(tmp_path))
    trained(tmp_path / "a", Counting(tmp_path), name="other")
    trained(tmp_path / "a", Counting(tmp_path), seed=6)
    assert count(tmp_path) == 12
    other = records()
    flipped = Records(other.inputs, 1 - other.labels, other.kind)
    train_references(
        Counting(tmp_path), reference_masks(halves(12, 0, 0.9), 12, 4, "target_ref", 0), flipped, tmp_path / "a",
        name="counting", seed=5,
    )  # fmt: skip
    assert count(tmp_path) == 16


def test_a_broken_file_is_made_again(tmp_path: Path) -> None:
    shadows = trained(tmp_path / "a", Counting(tmp_path))
    shadows.files[2].write_bytes(shadows.files[2].read_bytes()[:50])
    again = trained(tmp_path / "a", Counting(tmp_path))
    assert count(tmp_path) == 5
    assert again.logits(2).shape == (12, 2)


def test_processes_train_the_same_models(tmp_path: Path) -> None:
    alone = trained(tmp_path / "a", Counting(tmp_path))
    together = trained(tmp_path / "b", Counting(tmp_path), workers=2)
    assert count(tmp_path) == 8
    for m in range(4):
        np.testing.assert_array_equal(alone.logits(m), together.logits(m))
    with pytest.raises(RunError, match="ended from outside"):
        trained(tmp_path / "c", Dying(), workers=2)


def test_a_killed_run_loses_the_models_in_training_and_no_other(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path\nfrom tiny_shadows import Counting, records\n"
        "from expunge.membership.shadows import *\n"
        f"train_references(Counting(Path({str(tmp_path)!r}), slow_after=2), "
        "reference_masks(halves(12, 0, 0.9), 12, 4, 'target_ref', 0), records(), "
        f"Path({str(tmp_path)!r}) / 'a', name='counting', seed=5)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment)
    while count(tmp_path) < 3:  # the third model is in training
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = sorted((tmp_path / "a").glob("*.safetensors"))
    before = [path.read_bytes() for path in kept]
    assert len(kept) == 2
    shadows = trained(tmp_path / "a", Counting(tmp_path))
    assert count(tmp_path) == 3 + 2
    assert [path.read_bytes() for path in kept] == before
    whole = trained(tmp_path / "b", Counting(tmp_path))
    for m in range(4):
        np.testing.assert_array_equal(shadows.logits(m), whole.logits(m))


def test_weights_are_revived_without_training(tmp_path: Path) -> None:
    learner = TorchLearner("linear", lambda outputs: nn.Linear(2, outputs), 2, Training(epochs=3, batch=4))
    train = TrainOn(learner, records())
    trained(tmp_path, train, name=learner.name)

    def never(rows: Any, seed: int) -> Classifier:
        raise AssertionError("trained again")

    again = trained(tmp_path, never, name=learner.name, revive=learner.revive)
    np.testing.assert_allclose(again.classifier(3).logits(records().inputs), again.logits(3), atol=1e-6)
    left = again.without({0, 1})
    assert len(left) == 2
    np.testing.assert_array_equal(left.logits(1), again.logits(3))
    np.testing.assert_array_equal(left.inside, again.inside[2:])
    assert left.classifier(1) is again.classifier(3)


def test_wrong_masks(tmp_path: Path) -> None:
    some = records()
    with pytest.raises(InputError, match="do not fit 12 records"):
        train_references(Counting(tmp_path), np.ones((2, 5), bool), some, tmp_path, name="x")
    empty = np.ones((2, 12), bool)
    empty[1] = False
    with pytest.raises(InputError, match="Reference model 2 has no record"):
        train_references(Counting(tmp_path), empty, some, tmp_path, name="x")


def test_an_estimator_is_trained_again_when_it_is_asked_for(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    from sklearn.tree import DecisionTreeClassifier

    some = records()

    def train(rows: Any, seed: int) -> SklearnClassifier:
        fitted = DecisionTreeClassifier(random_state=seed).fit(np.asarray(some.inputs)[rows], some.labels[rows])
        return SklearnClassifier(fitted, 2)

    trained(tmp_path, train)
    again = trained(tmp_path, train)
    np.testing.assert_array_equal(again.classifier(1).logits(some.inputs), again.logits(1))
