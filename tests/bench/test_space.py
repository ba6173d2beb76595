"""Search spaces: what is refused and in which words, and what a search is asked for."""

from __future__ import annotations

import math
from typing import Any

import pytest

from expunge import catalog
from expunge.bench.space import Dimension, generic_space, parse_space
from expunge.errors import InputError

NPO = catalog.find("method", "npo", "language")
RMU = catalog.find("method", "rmu", "language")


def parse(raw: Any, fixed: dict[str, Any] | None = None) -> tuple[Dimension, ...]:
    return parse_space(raw, NPO, fixed or {}, "methods.npo.search")


class Recorder:
    """Stands in for a trial: notes what it is asked, answers with the upper end or the last choice."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None, log: bool) -> float:
        self.asked.append((name, low, high, step, log))
        return high

    def suggest_int(self, name: str, low: int, high: int, *, step: int, log: bool) -> int:
        self.asked.append((name, low, high, step, log))
        return high

    def suggest_categorical(self, name: str, choices: Any) -> str:
        self.asked.append((name, tuple(choices)))
        return str(choices[-1])


def test_ranges_and_choices_reach_the_search_as_written() -> None:
    space = parse(
        {
            "lr": {"low": 1e-4, "high": 3e-3, "log": True},
            "steps": {"low": 10, "high": 50, "step": 10},
            "retain": ["nll", "kl"],
            "beta": {"low": 0, "high": 1},
        }
    )
    trial = Recorder()
    assert [d.suggest(trial) for d in space] == [3e-3, 50, "kl", 1.0]
    assert trial.asked == [
        ("lr", 1e-4, 3e-3, None, True),
        ("steps", 10, 50, 10, False),
        ("retain", ('"nll"', '"kl"')),
        ("beta", 0.0, 1.0, None, False),
    ]
    assert [d.place for d in space] == ["train", "train", "method", "method"]


def test_choices_may_be_lists() -> None:
    (dimension,) = parse_space({"parameters": [["a"], ["a", "b"]]}, RMU, {}, "rmu")
    assert dimension.suggest(Recorder()) == ["a", "b"]
    assert dimension.holds(["a"])
    assert not dimension.holds("a")


def test_a_training_setting_may_be_named_in_full() -> None:
    (dimension,) = parse({"train.lr": {"low": 1e-4, "high": 1e-3}})
    assert (dimension.name, dimension.field, dimension.place) == ("train.lr", "lr", "train")


def test_the_centre_of_a_log_range_is_its_geometric_mean() -> None:
    log, linear, stepped = (
        Dimension("x", "x", "train", low=1.0, high=100.0, log=True),
        Dimension("x", "x", "train", low=1.0, high=3.0),
        Dimension("x", "x", "train", low=10, high=40, step=10, whole=True),
    )
    assert math.isclose(log.centre(), 10.0)
    assert linear.centre() == 2.0
    assert stepped.centre() in (20, 30)


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        (["lr"], "methods.npo.search: ['lr'] must be a mapping"),
        ({"bta": [1]}, "search.bta: neither npo nor its training has a setting 'bta'. Did you mean 'beta'?"),
        ({"lr": 3}, "search.lr: 3 must be a range"),
        ({"lr": {"low": 2, "high": 1}}, "search.lr: low=2 must be smaller than high=1."),
        ({"lr": {"low": 1, "high": 1}}, "low=1 must be smaller"),
        ({"lr": {"low": 1}}, "search.lr: 'high' is required."),
        ({"lr": {"low": "a", "high": 1}}, "low='a' must be a number"),
        ({"lr": {"low": float("nan"), "high": 1}}, "low=nan must be a number"),
        ({"lr": {"low": 0, "high": 1, "log": True}}, "low=0 must be above 0 on a log scale"),
        ({"lr": {"low": 0, "high": 1, "log": "yes"}}, "log='yes' must be true or false"),
        ({"lr": {"low": 0, "high": 1, "lg": True}}, "unknown key 'lg'. Did you mean 'log'?"),
        ({"lr": {"low": 0, "high": 1, "step": 2}}, "step=2 must be a number above 0 and at most high - low"),
        ({"lr": {"low": 1, "high": 2, "step": 1, "log": True}}, "a log scale has no step"),
        ({"steps": {"low": 1.5, "high": 3}}, "'steps' takes whole numbers"),
        ({"beta": []}, "the list of choices is empty"),
        ({"beta": [1, 1]}, "holds a choice twice"),
    ],
)
def test_refused(raw: Any, sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        parse(raw)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("fixed", "field"), [({"beta": 0.1}, "beta"), ({"train": {"lr": 1e-3}}, "lr")])
def test_fixed_and_searched(fixed: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError, match=f"'{field}' is fixed to .* and searched as well"):
        parse({field: {"low": 0.1, "high": 1}}, fixed)


def test_the_generic_space_is_the_learning_rate_and_the_weights() -> None:
    space = {d.name: (d.low, d.high, d.log) for d in generic_space(NPO, {}, 1e-3)}
    assert space == {"lr": (2.5e-4, 8e-3, True), "forget_weight": (0.25, 4.0, True), "retain_weight": (1.0, 10.0, True)}


def test_the_generic_space_leaves_out_what_is_fixed_or_has_no_effect() -> None:
    fixed = {"retain": "none", "forget_weight": 2.0, "train": {"lr": 1e-3}}
    assert generic_space(NPO, fixed, 1e-3) == ()
    names = [d.name for d in generic_space(catalog.find("method", "ga", "language"), {}, 1e-3)]
    assert names == ["lr"]  # forget_kl_weight is 0: the term is off
