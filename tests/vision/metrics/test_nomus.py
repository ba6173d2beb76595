"""NoMUS: the printed figure, its symmetry, the attack's two known values, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from expunge.errors import InputError
from expunge.vision.evidence import EvidenceStore
from expunge.vision.metrics.nomus import NoMUS, attack_accuracy, nomus
from tiny_faces import splits, trained, untrained


def test_the_formula() -> None:
    assert nomus(0.5951, 0.7136) == pytest.approx(0.5839, abs=1e-3)
    for accuracy in (0.0, 0.3, 1.0):
        assert nomus(accuracy, 0.5) == pytest.approx((accuracy + 1) / 2)
        for attack in (0.5, 0.62, 0.9, 1.0):
            assert nomus(accuracy, attack) == pytest.approx(nomus(accuracy, 1 - attack))
    assert nomus(0.4, 0.9, weight=1.0) == 0.4
    assert nomus(0.4, 0.9, weight=0.0) == pytest.approx(0.2)
    for weight in (-0.1, 1.1, float("nan")):
        with pytest.raises(InputError, match=r"weight=.* must lie in \[0, 1\]"):
            nomus(0.5, 0.5, weight)
        with pytest.raises(InputError, match=r"weight=.* must lie in \[0, 1\]"):
            NoMUS(weight=weight)


def test_the_attack_guesses_on_equal_losses_and_finds_the_threshold_on_shifted_ones() -> None:
    """N(0, 1) against N(3, 1): the best threshold is right with probability Phi(1.5) = 0.933."""
    draws = np.random.default_rng(0)
    same = attack_accuracy(draws.normal(size=1500), draws.normal(size=1500))
    assert same == pytest.approx(0.5, abs=0.03)
    apart = draws.normal(size=1500), draws.normal(3, 1, 1500)
    assert attack_accuracy(*apart) == pytest.approx(0.933, abs=0.02)
    assert attack_accuracy(*apart[::-1]) == pytest.approx(0.933, abs=0.02)  # over-forgotten looks the same
    assert attack_accuracy(*apart) == attack_accuracy(*apart)


def test_more_members_than_others_are_cut() -> None:
    """Guessing the larger side would otherwise be right two times in three."""
    draws = np.random.default_rng(1)
    assert attack_accuracy(draws.normal(size=3000), draws.normal(size=1500)) == pytest.approx(0.5, abs=0.03)


def test_bad_losses_are_refused_in_words() -> None:
    good = np.linspace(0, 1, 20)
    with pytest.raises(InputError, match="0 forgotten and 20 unseen images; the attack needs 10 of each"):
        attack_accuracy([], good)
    with pytest.raises(InputError, match="5 unseen images; the attack needs 10 of each"):
        attack_accuracy(good, good[:5])
    with pytest.raises(InputError, match="a loss is not finite"):
        attack_accuracy([*good[:-1], np.nan], good)


def store(name: str, subject) -> EvidenceStore:  # type: ignore[no-untyped-def]
    found = splits()
    named = {"forget": found["forget"], "test": found["test"], "holdout": found["unseen"]}
    return EvidenceStore(name, subject, named)


def test_findings_of_a_network_that_knows_and_of_one_that_does_not() -> None:
    """Both numbers beside NoMUS, and the signed difference: what is remembered is easier than what is unseen."""
    knows, fresh = (
        {f.metric: f.value for f in NoMUS().measure(store(n, s), None)}
        for n, s in (("target", trained()), ("fresh", untrained()))
    )
    for found in (knows, fresh):
        attack = found["membership.choi.accuracy"]
        assert found["forgetting_score"] == pytest.approx(abs(attack - 0.5))
    hits = store("target", trained()).hits("test").mean()
    assert knows["nomus"] == pytest.approx(nomus(float(hits), knows["membership.choi.accuracy"]))
    assert knows["loss_difference"] < -0.5
    assert knows["forgetting_score"] > fresh["forgetting_score"] + 0.1
    assert abs(fresh["loss_difference"]) < 0.2


def test_an_untrained_network_wins_against_one_that_remembers() -> None:
    """The metric's known flaw, kept in sight: no learning at all scores (about) (1/C + 1)/2."""
    knows, fresh = (
        next(f.value for f in NoMUS().measure(store(n, s), None) if f.metric == "nomus")
        for n, s in (("target", trained()), ("fresh", untrained()))
    )
    assert fresh > knows
