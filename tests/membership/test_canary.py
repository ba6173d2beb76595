from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from expunge.errors import InputError
from expunge.membership.canary import CanarySettings, canaries, query_ref
from expunge.membership.classifier import Floats, Records, TorchClassifier
from expunge.membership.costs import Meter
from expunge.membership.model_based import model_lira
from expunge.membership.references import References
from expunge.membership.signals import Signals
from tiny_queried import Constant, world

REFS = slice(2, None)


def made(settings: CanarySettings, seed: int = 0, rows: Any = range(40)) -> tuple[Records, Floats]:
    w = world()
    records = w.records.take(list(rows))
    blocks = list(canaries(records, w.models[REFS], w.masks[REFS][:, list(rows)], seed=seed, settings=settings))
    assert np.array_equal(np.concatenate([block for block, _ in blocks]), np.arange(len(records)))
    return records, np.concatenate([found for _, found in blocks])


def line(weights: Floats) -> TorchClassifier:
    """A model of two classes over 1 x 2 x 2 images; the logit of class 1 is weights . x."""
    layer = torch.nn.Linear(4, 2)
    with torch.no_grad():
        layer.bias.zero_()
        layer.weight.zero_()
        layer.weight[1] = torch.from_numpy(weights)
    return TorchClassifier(torch.nn.Sequential(torch.nn.Flatten(), layer), classes=2)


class TestCanaries:
    def test_they_stay_within_epsilon_and_the_range(self) -> None:
        settings = CanarySettings(queries=3, steps=5)
        records, found = made(settings)
        change = np.abs(found - np.asarray(records.inputs)[:, None])
        assert found.shape == (40, 3, 1, 6, 6)
        assert change.max() <= 1 / 255 + 1e-6
        assert change.max() > 0.9 / 255
        assert found.min() >= 0
        assert found.max() <= 1

    def test_two_lines_pull_to_a_known_corner(self) -> None:
        """IN reads pixels 1 and 2, OUT pixels 3 and 4, both between 0 and 10: the first rise, the others fall.

        (z - 10)^2 falls as IN's logit rises, z^2 as OUT's falls, so each pixel ends at the end of its box that the sign
        of its weight names: +, -, then -, +.
        """
        models = [line(np.array([9.0, -3.0, 0.0, 0.0])), line(np.array([0.0, 0.0, 9.0, -3.0]))]
        x = np.full((1, 1, 2, 2), 0.5)
        inside = np.array([[True], [False]])
        (_, found), = canaries(Records(x, np.array([1]), "image"), models, inside, seed=0,
                               settings=CanarySettings(queries=2, steps=20))  # fmt: skip
        assert np.allclose(found[0, 0].ravel(), 0.5 + np.array([1, -1, -1, 1]) / 255, atol=1e-6)

    def test_they_raise_in_logits_lower_out_logits_and_approach_the_goals(self) -> None:
        """With the goals 10 and -10 each kind of model has room to move.

        With the published 10 and 0 an OUT logit below 0 is raised, so there the squared error falls and the gap grows.
        """
        w = world()
        inside, records = w.masks[REFS][:, :120], w.records.take(range(120))

        def true_logits(x: Any, y: Any) -> Floats:
            return np.stack([model.logits(x)[np.arange(len(x)), y] for model in w.models[REFS]])

        def after(**goals: float) -> Floats:
            _, found = made(CanarySettings(queries=2, **goals), rows=range(120))
            flat = true_logits(found.reshape(-1, 1, 6, 6), np.repeat(records.labels, 2))
            return flat.reshape(len(inside), 120, 2).mean(2)

        def loss(z: Floats) -> float:
            return float(((z[inside] - 10) ** 2).mean() + (z[~inside] ** 2).mean())

        before, far, published = true_logits(records.inputs, records.labels), after(outside=-10.0), after()
        assert far[inside].mean() > before[inside].mean() + 0.03
        assert far[~inside].mean() < before[~inside].mean() - 0.03
        assert loss(published) < loss(before) - 1
        gap, gap_before = (z[inside].mean() - z[~inside].mean() for z in (published, before))
        assert gap > gap_before + 0.03

    def test_swapped_membership_turns_them_round(self) -> None:
        """The same two models, the other one inside: every pixel goes the other way."""
        models = [line(np.array([9.0, -3.0, 0.0, 0.0])), line(np.array([0.0, 0.0, 9.0, -3.0]))]
        x, inside = np.full((2, 1, 2, 2), 0.5), np.array([[True, False], [False, True]])
        (_, found), = canaries(Records(x, np.array([1, 1]), "image"), models, inside, seed=0,
                               settings=CanarySettings(queries=1, steps=20))  # fmt: skip
        assert np.allclose(found[0] - 0.5, 0.5 - found[1], atol=1e-6)

    def test_no_steps_or_no_room_gives_the_images_themselves(self) -> None:
        for settings in (CanarySettings(steps=0), CanarySettings(epsilon=0.0, steps=2)):
            records, found = made(settings)
            assert np.allclose(found, np.asarray(records.inputs)[:, None], atol=1e-6)

    def test_the_blocks_make_no_difference_and_the_seed_does(self) -> None:
        one, other = (made(CanarySettings(queries=2, steps=4, together=size))[1] for size in (40, 7))
        assert np.allclose(one, other, atol=1e-6)
        again = made(CanarySettings(queries=2, steps=4), seed=1)[1]
        assert not np.allclose(one, again, atol=1e-4)

    def test_canaries_of_a_record_differ(self) -> None:
        _, found = made(CanarySettings(queries=2, steps=4))
        assert (np.abs(found[:, 0] - found[:, 1]).max((1, 2, 3)) > 1e-4).mean() > 0.9

    def test_models_are_left_as_they_were(self) -> None:
        model = world().models[2]
        model.module.train()
        before = {name: value.clone() for name, value in model.module.state_dict().items()}
        made(CanarySettings(queries=1, steps=2))
        assert model.module.training
        model.module.eval()
        assert all(torch.equal(value, before[name]) for name, value in model.module.state_dict().items())


class TestDetector:
    def test_without_steps_it_is_lira(self) -> None:
        w = world()
        found = query_ref(
            w.models[0], w.records, w.models[REFS], w.masks[REFS], seed=0, settings=CanarySettings(queries=2, steps=0)
        )
        x, y = np.float32(w.records.inputs), w.records.labels
        phi = np.stack([Signals(model.logits(x), y).rescaled for model in w.models[REFS]])
        lira = model_lira(Signals(w.models[0].logits(x), y).rescaled, References(phi, w.masks[REFS]), variance="pooled")
        assert np.allclose(found.scores, lira, rtol=1e-3, atol=1e-3)

    def test_counts(self) -> None:
        w = world()
        with Meter() as meter:
            target = meter.counted(w.models[0])
            models = [meter.counted(model, attacked=False) for model in w.models[REFS]]
            found = query_ref(
                target, w.records.take(range(30)), models, w.masks[REFS][:, :30], seed=0,
                settings=CanarySettings(queries=3, steps=4, together=16),
            )  # fmt: skip
        assert found.total == meter.cost.queries == 90
        assert found.other_queries == meter.cost.other_queries == 6 * 90
        assert found.gradients == meter.cost.gradients == 2 * 4 * 90

    def test_refusals(self) -> None:
        w = world()
        records, models, masks = w.records.take(range(4)), w.models[REFS], w.masks[REFS][:, :4].copy()

        def attack(**changed: Any) -> None:
            given = {"records": records, "models": models, "inside": masks, **changed}
            query_ref(w.models[0], **given, seed=0)

        features = Records(np.zeros((4, 36)), np.zeros(4, dtype=int), "continuous")
        with pytest.raises(InputError, match="images"):
            attack(records=features)
        with pytest.raises(InputError, match="torch modules"):
            attack(models=[*models[:5], Constant(0.0, 0.0, 0.0, 0.0)])
        with pytest.raises(InputError, match="masks"):
            attack(inside=masks[:3])
        with pytest.raises(InputError, match="Record 2: every reference model"):
            attack(inside=np.where(np.arange(4) == 1, True, masks))
        with pytest.raises(InputError, match="Record 3: no reference model"):
            attack(inside=np.where(np.arange(4) == 2, False, masks))
        with pytest.raises(InputError, match="outside the range"):
            attack(records=Records(np.asarray(records.inputs) * 255, records.labels, "image"))
        for wrong in ({"queries": 0}, {"steps": -1}, {"together": 0}):
            with pytest.raises(InputError, match=next(iter(wrong))):
                CanarySettings(**wrong)
