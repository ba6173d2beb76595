"""Verdicts of the bed: the null of the AUROC, permutations, and the gap, each by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from expunge.errors import InputError, RunError
from expunge.language.insertion_verdict import (
    judge_bed,
    judge_run,
    normalised_gap,
    null_error,
    permutation_p,
    require_null,
)
from expunge.membership import auroc
from expunge.report.scorecard import Finding, Scorecard


def test_the_p_value_is_the_share_of_divisions_that_do_as_well() -> None:
    """Members 4 5 against 1 2 3: of the ten divisions only this one reaches AUROC 1, so p tends to 1/10."""
    assert permutation_p([4, 5], [1, 2, 3], draws=20_000) == pytest.approx(0.1, abs=0.01)
    members, others = [2.0, 5.0, 5.0], [1.0, 5.0, 3.0, 0.0]
    scores = members + others
    observed = auroc(members, others)
    all_of_them = [
        auroc([scores[i] for i in chosen], [s for i, s in enumerate(scores) if i not in chosen])
        for chosen in itertools.combinations(range(7), 3)
    ]
    exact = np.mean([value >= observed - 1e-12 for value in all_of_them])
    assert permutation_p(members, others, draws=20_000) == pytest.approx(exact, abs=0.015)


def test_p_values_of_the_null_are_uniform() -> None:
    rng = np.random.default_rng(0)
    p = [permutation_p(*np.split(rng.normal(size=30), [12]), draws=199, seed=s) for s in range(200)]
    for alpha in (0.05, 0.25, 0.5):
        assert abs(np.mean(np.array(p) <= alpha) - alpha) < 3 * np.sqrt(alpha * (1 - alpha) / 200)


def test_ties_and_opposite_scores_give_no_small_p() -> None:
    assert permutation_p([1.0] * 5, [1.0] * 7) == 1.0
    assert permutation_p([0.0] * 5, [1.0] * 7) == 1.0
    assert permutation_p([1.0] * 9, [0.0] * 9, draws=199) == 1 / 200


def test_the_null_error_is_that_of_random_scores() -> None:
    rng = np.random.default_rng(1)
    drawn = [auroc(rng.normal(size=20), rng.normal(size=30)) for _ in range(2000)]
    assert np.std(drawn) == pytest.approx(null_error(20, 30), rel=0.05)


def test_a_model_that_has_read_nothing_must_be_near_one_half() -> None:
    edge = 0.5 + 3 * null_error(60, 60)
    require_null(edge - 1e-6, 60, 60, "loss")
    require_null(1 - edge + 1e-6, 60, 60, "loss")
    for value in (edge + 1e-6, 1 - edge - 1e-6):
        with pytest.raises(RunError, match=r"loss: a model that has read neither .* do not come from one draw"):
            require_null(value, 60, 60, "loss")
    require_null(edge + 0.1, 6, 6, "loss")  # few texts excuse more


def test_the_gap_by_hand() -> None:
    """Loss 0.5 before, 2.5 for gold. At 2.0 three quarters are gone; at 3.5 half as much again as should be."""
    assert normalised_gap(0.5, 0.5, 2.5) == 0
    assert normalised_gap(0.5, 2.5, 2.5) == 1
    assert normalised_gap(0.5, 2.0, 2.5) == 0.75
    assert normalised_gap(0.5, 3.5, 2.5) == 1.5
    assert normalised_gap(0.9, 0.7, 0.5) == pytest.approx(0.5)  # a measure that falls counts alike
    with pytest.raises(InputError, match="nothing to forget"):
        normalised_gap(0.5, 0.7, 0.5)


@pytest.mark.parametrize(
    ("forget", "keep", "flags"),
    [
        (1.0, 0.0, ()),
        (0.81, 0.19, ()),
        (1.19, -0.5, ()),
        (0.79, 0.0, ("not-forgotten",)),
        (1.21, 0.0, ("over-forgotten",)),
        (1.0, 0.21, ("utility-loss",)),
        (4.0, 3.0, ("over-forgotten", "utility-loss")),
    ],
)
def test_flags(forget: float, keep: float, flags: tuple[str, ...]) -> None:
    assert judge_bed(forget, keep).flags == flags


def test_a_run_is_judged_by_its_findings() -> None:
    def finding(split: str, value: float) -> Finding:
        return Finding("hubble.gap.nll", split, "npo", value, value, value, 6, "match-gold")

    card = Scorecard(findings=[finding("forget", 1.5), finding("retain", 0.4)])
    verdict = judge_run(card, "npo")
    assert verdict is not None
    assert verdict.flags == ("over-forgotten", "utility-loss")
    assert judge_run(card, "npo", "memorised") is None
    assert judge_run(card, "rmu") is None
