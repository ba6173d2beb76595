"""A line's boundary is known: the distance found must approach |w.x + b| / ||w|| from above."""

from __future__ import annotations

import numpy as np
import pytest

from expunge.errors import InputError
from expunge.membership.classifier import Floats, Ints
from expunge.membership.hopskipjump import Boundary, BoundarySettings, hop_skip_jump
from tiny_queried import Line

RNG = np.random.default_rng(0)
W = RNG.standard_normal(36)
LINE = Line(W, 0.5 - W.sum() / 2)
X = RNG.uniform(0.3, 0.7, (12, 1, 6, 6))
LOW, HIGH = np.zeros((1, 6, 6)), np.ones((1, 6, 6))
LABELS = LINE.logits(X).argmax(1)


def predict(points: Floats) -> Ints:
    return LINE.logits(points).argmax(1)


def attack(x: Floats = X, labels: Ints = LABELS, seed: int = 0, **settings: int) -> Boundary:
    return hop_skip_jump(predict, x, labels, LOW, HIGH, seed=seed, settings=BoundarySettings(**settings))


def test_the_distance_to_a_line_is_found_from_above() -> None:
    found = attack()
    ratio = found.distances / LINE.distance(X)
    assert (ratio >= 1).all()
    assert (ratio < 1.01).all()


def test_more_iterations_come_nearer() -> None:
    """The closest point seen is kept, so no record ever gets further away."""
    far, near, nearest = (attack(iterations=t, first_evaluations=30).distances for t in (0, 3, 15))
    assert (near < far).all()
    assert (nearest <= near).all()
    assert (nearest < 1.05 * LINE.distance(X)).all()


@pytest.mark.parametrize("iterations", [0, 1, 10])
def test_every_point_is_beyond_the_boundary_within_the_range_and_at_its_distance(iterations: int) -> None:
    found = attack(iterations=iterations, first_evaluations=20)
    assert found.found.all()
    assert (predict(found.points) != LABELS).all()
    assert ((found.points >= LOW) & (found.points <= HIGH)).all()
    assert np.allclose(np.linalg.norm((found.points - X).reshape(12, -1), axis=1), found.distances)


def test_every_query_is_counted_once() -> None:
    LINE.asked = 0
    found = attack(iterations=4, first_evaluations=25, evaluations=30)
    assert LINE.asked == found.queries.sum() + found.shared
    assert found.shared == 100
    # The record, 10 steps of the first search (1/1024 < 0.001), 5 searches of 10 (0.01 / 6), 25 + 3 * 30 directions,
    # 4 steps at least, and one confirmation.
    assert (found.queries >= 1 + 10 + 5 * 10 + 115 + 4 + 1).all()


def test_a_misclassified_record_is_at_distance_0_for_one_query() -> None:
    labels = LABELS.copy()
    labels[3] = 1 - labels[3]
    found = attack(labels=labels, iterations=2)
    assert found.distances[3] == 0
    assert found.queries[3] == 1
    assert np.array_equal(found.points[3], X[3])
    assert (np.delete(found.distances, 3) > 0).all()


def test_all_misclassified_needs_no_guesses() -> None:
    found = attack(labels=1 - LABELS)
    assert found.shared == 0
    assert found.queries.sum() == len(X)
    assert not found.distances.any()


def test_one_class_everywhere_is_not_found() -> None:
    found = hop_skip_jump(lambda p: np.ones(len(p), dtype=int), X, np.ones(12, dtype=int), LOW, HIGH, seed=0)
    assert not found.found.any()
    assert np.isinf(found.distances).all()
    assert (found.queries == 1).all()


def test_a_record_does_not_depend_on_the_others() -> None:
    whole, part = attack(iterations=3), attack(X[[2, 7]], LABELS[[2, 7]], iterations=3)
    assert np.allclose(whole.distances[[2, 7]], part.distances, rtol=1e-12)
    assert np.array_equal(whole.queries[[2, 7]], part.queries)


def test_the_seed_fixes_everything() -> None:
    assert np.array_equal(attack(iterations=2).points, attack(iterations=2).points)
    assert not np.array_equal(attack(iterations=2).points, attack(iterations=2, seed=1).points)


def test_an_edge_of_the_range_is_reached() -> None:
    """Only points with x_1 > 0.9 change class: the way there is 0.9 - x_1 along one axis."""

    def edge(points: Floats) -> Ints:
        return (points.reshape(len(points), -1)[:, 0] > 0.9).astype(int)

    x = np.full((1, 2), 0.5)
    found = hop_skip_jump(edge, x, np.zeros(1, dtype=int), np.zeros(2), np.ones(2), seed=3,
                          settings=BoundarySettings(iterations=30))  # fmt: skip
    assert found.distances[0] == pytest.approx(0.4, rel=0.02)


@pytest.mark.parametrize("settings", [{"iterations": -1}, {"evaluations": 0}, {"trials": 0}])
def test_impossible_settings_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(InputError, match=next(iter(settings))):
        BoundarySettings(**settings)
