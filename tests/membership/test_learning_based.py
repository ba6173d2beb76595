"""The features of the five learning-based detectors, on paper."""

from __future__ import annotations

import numpy as np
import pytest

from expunge.membership.curves import auroc
from expunge.membership.learning_based import FEATURES, learn, learning_score
from expunge.membership.signals import Signals

P = np.array([[0.1, 0.6, 0.25, 0.05], [0.4, 0.3, 0.2, 0.1]])
Y = np.array([2, 0])
S = Signals(np.log(P), Y)


def test_features_by_hand() -> None:
    got = {name: features(S) for name, features in FEATURES.items()}
    np.testing.assert_allclose(got["Learn-original"], P)
    np.testing.assert_allclose(got["Learn-top3"], [[0.6, 0.25, 0.1], [0.4, 0.3, 0.2]])
    np.testing.assert_allclose(got["Learn-sorted"], [[0.6, 0.25, 0.1, 0.05], [0.4, 0.3, 0.2, 0.1]])
    np.testing.assert_allclose(got["Learn-label"], np.hstack([P, [[0, 0, 1, 0], [1, 0, 0, 0]]]))


def test_merge_by_hand() -> None:
    """Row 1: y = 2, p_y = .25: CE = log 4; margin log .6 - log .25; -phi = log(.75 / .25); argmax 1.
    Mentr = .75 log 4 - .1 log .9 - .6 log .4 - .05 log .95."""
    mentr = 0.75 * np.log(4) - 0.1 * np.log(0.9) - 0.6 * np.log(0.4) - 0.05 * np.log(0.95)
    row = [0, 0, 1, 0, np.log(4), mentr, np.log(0.6 / 0.25), np.log(3), 1]
    np.testing.assert_allclose(FEATURES["Learn-merge"](S)[0], row)


def test_merge_masks_the_true_logit_however_small_the_others_are() -> None:
    """All other logits lie below -1: with -1 in the place of the true one the margin would be -1 - 5."""
    signals = Signals(np.array([[5.0, -3.0, -4.0]]), np.array([0]))
    assert FEATURES["Learn-merge"](signals)[0, 5] == -8.0


def test_two_classes_have_two_largest() -> None:
    two = Signals(np.log([[0.3, 0.7]]), np.array([0]))
    np.testing.assert_allclose(FEATURES["Learn-top3"](two), [[0.7, 0.3]])


@pytest.mark.parametrize("name", FEATURES)
def test_probabilities_do_not_change_with_a_constant_added_to_all_logits(name: str) -> None:
    shifted = Signals(S.logits + 7.0, Y)
    np.testing.assert_allclose(FEATURES[name](shifted), FEATURES[name](S), atol=1e-12)


def test_sorting_forgets_which_class() -> None:
    swapped = Signals(S.logits[:, [3, 1, 0, 2]], Y)
    np.testing.assert_allclose(FEATURES["Learn-sorted"](swapped), FEATURES["Learn-sorted"](S))
    assert (FEATURES["Learn-original"](swapped) != FEATURES["Learn-original"](S)).any()


def test_a_reference_model_teaches_what_members_of_another_look_like() -> None:
    rng = np.random.default_rng(0)

    def answers(member: np.ndarray) -> Signals:
        labels = rng.integers(3, size=len(member))
        logits = rng.normal(size=(len(member), 3))
        logits[np.arange(len(member)), labels] += 1 + 4 * member
        return Signals(logits, labels)

    inside, member = np.arange(300) % 2 == 0, np.arange(300) % 3 == 0
    for features in FEATURES.values():
        network = learn(features, answers(inside), inside, seed=0)
        score = learning_score(features, network, answers(member))
        assert auroc(score[member], score[~member]) > 0.85
