"""The attack network: it learns what can be learnt, is fixed by its seed, keeps its best weights, stops in time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from expunge.errors import InputError
from expunge.membership.attack_network import AttackSettings, train_attack
from expunge.membership.curves import auroc

QUICK = AttackSettings(epochs=40)


def draw(n: int, shift: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    member = rng.random(n) < 0.5
    return rng.normal(size=(n, 3)) + shift * member[:, None] * np.array([1.0, -1.0, 0.0]), member


def test_it_finds_the_difference_of_two_gaussians() -> None:
    """Means differ by sqrt(2), so the best AUROC is Phi(sqrt(2) / sqrt(2)) = 0.841."""
    network = train_attack(*draw(800, 1.0, 0), seed=0, settings=QUICK)
    fresh, member = draw(4000, 1.0, 1)
    score = network.score(fresh)
    assert auroc(score[member], score[~member]) == pytest.approx(0.841, abs=0.025)
    assert 0 <= score.min() <= score.max() <= 1


def test_noise_teaches_nothing() -> None:
    network = train_attack(*draw(400, 0.0, 0), seed=0, settings=QUICK)
    fresh, member = draw(4000, 0.0, 1)
    score = network.score(fresh)
    assert auroc(score[member], score[~member]) == pytest.approx(0.5, abs=3 / np.sqrt(6 * 2000))


def test_the_shape_of_the_paper() -> None:
    network = train_attack(*draw(100, 1.0, 0), seed=0, settings=AttackSettings(epochs=1))
    layers = [(m.in_features, m.out_features) for m in network.module.modules() if isinstance(m, torch.nn.Linear)]
    assert layers == [(3, 64), (64, 32), (32, 2)]


def test_deterministic_by_seed_and_without_touching_the_global_generator() -> None:
    data = draw(100, 1.0, 0)
    before = torch.random.get_rng_state()
    one, same, other = (train_attack(*data, seed=seed, settings=QUICK).score(data[0]) for seed in (1, 1, 2))
    assert torch.equal(before, torch.random.get_rng_state())
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


def test_it_stops_after_its_patience_and_restores_the_best() -> None:
    """Constant features cannot improve after the first epoch: patience epochs follow, and the best is the first."""
    member = np.arange(100) < 90
    network = train_attack(np.zeros((100, 2)), member, seed=0, settings=AttackSettings(patience=4))
    assert network.epochs == 5
    single = train_attack(np.zeros((100, 2)), member, seed=0, settings=AttackSettings(epochs=1))
    np.testing.assert_array_equal(network.score(np.zeros((1, 2))), single.score(np.zeros((1, 2))))


@pytest.mark.parametrize(
    ("features", "member", "message"),
    [
        (np.zeros((20, 2)), np.ones(20), "20 members and 0 non-members"),
        (np.zeros((8, 2)), np.arange(8) % 2, "too few"),
        (np.zeros((20, 2)), np.arange(19) % 2, r"memberships of shape \(19,\)"),
        (np.zeros(20), np.arange(20) % 2, r"shape \(20,\)"),
        (np.full((20, 2), np.nan), np.arange(20) % 2, "row 1 are not finite"),
    ],
)
def test_refused(features: np.ndarray, member: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        train_attack(features, member, seed=0)
