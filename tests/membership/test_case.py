"""Cases: what is refused, which reference models stand in, how TDDBench divides records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from expunge.errors import InputError
from expunge.membership.case import Case, HeldModels, audit_case, tddbench_case
from expunge.membership.classifier import Classifier, Inputs, Records
from expunge.membership.shadows import halves, reference_masks
from tiny_shadows import Nearest, records

MODEL = Nearest(np.array([[0.0, 1.0], [1.0, 0.0]]))


class Means:
    """A learner whose model knows the mean of each class."""

    name = "means"

    def fit(self, some: Records, seed: int) -> Nearest:
        x = np.asarray(some.inputs)
        return Nearest(
            np.stack([x[some.labels == y].mean(0) if (some.labels == y).any() else x.mean(0) for y in (0, 1)])
        )

    def revive(self, weights: Any) -> None:
        return None


def make(**changes: Any) -> Case:
    data = records()
    masks = reference_masks(halves(12, 0), 12, 6, "target_ref", 0)
    rows = halves(12, 0)
    given: dict[str, Any] = {
        "target": MODEL, "data": data, "audited": rows.target, "member": np.arange(6) < 3,
        "references": HeldModels([MODEL] * 6, masks, data), "population": rows.shadow,
    }  # fmt: skip
    return Case(**{**given, **changes})


def test_a_case_knows_its_records() -> None:
    case = make()
    assert len(case.records) == 6
    assert case.online
    assert sorted(case.pool) == sorted(case.audited)
    assert not make(references=HeldModels([MODEL] * 2, np.zeros((2, 12), bool), records())).online


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"member": np.ones(6, bool)}, "is a member; some of either"),
        ({"member": np.zeros(6, bool)}, "is a non-member; some of either"),
        ({"member": np.arange(5) < 3}, "6 audited records need one true or false"),
        ({"member": np.arange(6)}, "6 audited records need one true or false"),
        ({"population": halves(12, 0).target[:2]}, "2 population records are audited too"),
        ({"population": np.array([40])}, "lie in 0 .. 11"),
        ({"audited": np.array([0, 0, 1, 2, 3, 4])}, "must be different"),
        ({"audited": np.linspace(0, 1, 6)}, "as row numbers"),
        ({"clusters": np.zeros(3)}, r"clusters of shape \(3,\)"),
    ],
)
def test_wrong_cases(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make(**changes)


def test_references_must_fit() -> None:
    with pytest.raises(InputError, match="need masks of that shape"):
        HeldModels([MODEL], np.zeros((2, 12), bool), records())


def test_the_last_reference_model_stands_in_and_its_partner_leaves() -> None:
    case = make()
    stand_in = case.stand_in()
    assert stand_in is not None
    assert len(stand_in.references) == 4
    np.testing.assert_array_equal(stand_in.member, case.references.inside[5, case.audited])
    np.testing.assert_array_equal(stand_in.references.inside, case.references.inside[:4])
    np.testing.assert_array_equal(stand_in.references.logits(0), case.references.logits(0))


def test_nobody_can_be_spared_of_two_models() -> None:
    assert make(references=HeldModels([MODEL] * 2, make().references.inside[:2], records())).stand_in() is None


def test_offline_references_stand_in_on_their_own_pool() -> None:
    """The audited records are outside all models of the shadow part, so their stand-in is asked about its own pool."""
    masks = reference_masks(halves(12, 0), 12, 6, "shadow", 0)
    shadows = HeldModels([MODEL] * 6, masks, records())
    assert make(references=shadows).stand_in() is None  # all of the pool is population
    apart = make(references=shadows, population=halves(12, 0).shadow[:1]).stand_in()
    assert apart is not None
    assert set(apart.audited) == set(halves(12, 0).shadow[1:])


def test_reference_models_learn_half_of_the_audited_records(tmp_path: Path) -> None:
    data = records()
    case = audit_case(MODEL, data, np.arange(8), np.arange(8) < 4, Means(), tmp_path, models=4)
    assert (case.references.inside.sum(0) == [2] * 8 + [0] * 4).all()
    assert case.population.tolist() == [8, 9, 10, 11]
    model = case.references.classifier(1)
    np.testing.assert_array_equal(model.logits(data.inputs), case.references.logits(1))
    with pytest.raises(InputError, match="must be even"):
        audit_case(MODEL, data, np.arange(8), np.arange(8) < 4, Means(), tmp_path, models=3)


@pytest.mark.parametrize("distribution", ["target_ref", "shadow", "subtar", "subtar_shadow"])
def test_tddbench_divides_once_and_trains_all(tmp_path: Path, distribution: Any) -> None:
    division = tddbench_case(records(), Means(), tmp_path, targets=3, models=4, distribution=distribution)
    parts = division.parts
    assert len(parts.target) == len(parts.shadow) == 6
    assert len(division.targets) == 3
    for t in range(3):
        case = division.case(t)
        np.testing.assert_array_equal(case.audited, parts.target)
        np.testing.assert_array_equal(case.population, parts.shadow)
        assert case.member.sum() == 3
        assert case.online == (distribution == "target_ref")
        own = division.targets.classifier(t).logits(division.data.inputs)
        np.testing.assert_array_equal(case.target.logits(division.data.inputs), own)
    population = division.population_references
    assert (population.inside[:, parts.shadow].sum(0) == 2).all()
    assert not population.inside[:, parts.target].any()
    assert (population is division.references) == (distribution == "shadow")


def test_more_targets_keep_the_models_there_are(tmp_path: Path) -> None:
    few = tddbench_case(records(), Means(), tmp_path, targets=1, models=4)
    many = tddbench_case(records(), Means(), tmp_path, targets=3, models=4)
    assert few.references.files == many.references.files
    assert few.targets.files[0] == many.targets.files[0]
    files = {*many.references.files, *many.population_references.files, *many.targets.files}
    assert set(tmp_path.glob("*.safetensors")) == files


def test_protocols_are_met() -> None:
    model: Classifier = MODEL
    some: Inputs = records().inputs
    assert model.logits(some).shape == (12, 2)
