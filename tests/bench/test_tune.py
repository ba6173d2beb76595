"""The search of one method, on an objective that is known: what it proposes, and that a kill changes nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from math import isclose, log
from pathlib import Path
from typing import Any

import pytest

from expunge.bench import tune
from expunge.bench.cells import Job, Outcome, perform
from expunge.bench.settings import Tuning
from expunge.errors import InputError, RunError
from tiny_bench import tiny

pytest.importorskip("optuna")
REFERENCE = {"gold": {"forget": 0.1, "retain": 1.0}, "target": {"forget": 1.0, "retain": 0.8}}
Values = Mapping[str, Any]


def bowl(values: Values) -> float:
    """Smallest at lr = 1e-3."""
    return abs(log(values["lr"] / 1e-3))


class Known:
    """Stands in for the unlearning of trials: an objective in closed form."""

    seen: list[dict[str, Any]]
    value_of: Callable[[Values], float]

    def __init__(self, job: Job, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Known:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def value(self, values: Values) -> tuple[float, list[dict[str, float]]]:
        type(self).seen.append(dict(values))
        return type(self).value_of(values), [{"forget": 0.0, "retain": 1.0}]


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> type[Known]:
    monkeypatch.setattr(Known, "seen", [], raising=False)
    monkeypatch.setattr(Known, "value_of", staticmethod(bowl), raising=False)
    monkeypatch.setattr(tune, "Trials", Known)
    return Known


def job(folder: Path, trials: int = 6, method: str = "npo", **changes: Any) -> Job:
    bench = tiny(folder, tuning={"trials": trials}, **changes)
    return Job("search", bench, 0, method)


# -- objective ----------------------------------------------------------------------------------------


def test_at_equal_utility_the_objective_is_the_distance_to_gold() -> None:
    settings = Tuning(floor=0.9, margin=0.0, penalty=10)
    for forget, distance in ((0.1, 0.0), (0.3, 0.2), (0.0, 0.1)):  # over-forgetting counts as well
        assert isclose(tune.objective({"forget": forget, "retain": 0.73}, REFERENCE, settings), distance, abs_tol=1e-12)


def test_utility_below_the_floor_costs_the_penalty() -> None:
    """Target 0.8, floor 0.9: 0.64 keeps a share of 0.8, which is 0.1 short."""
    settings = Tuning(floor=0.9, margin=0.0, penalty=10)
    assert isclose(tune.objective({"forget": 0.1, "retain": 0.64}, REFERENCE, settings), 1.0)
    assert isclose(tune.objective({"forget": 0.1, "retain": 0.8}, REFERENCE, settings), 0.0)


def test_the_margin_raises_the_floor_but_not_above_the_target() -> None:
    probed = {"forget": 0.1, "retain": 0.76}  # a share of 0.95
    assert isclose(tune.objective(probed, REFERENCE, Tuning(floor=0.9, margin=0.1, penalty=2)), 0.1)
    assert tune.objective({**probed, "retain": 0.8}, REFERENCE, Tuning(floor=1.0, margin=0.5)) == 0.0


# -- search -------------------------------------------------------------------------------------------


def test_the_best_of_the_budget_wins_and_the_start_comes_first(known: type[Known], tmp_path: Path) -> None:
    outcome = tune.search(job(tmp_path, 6))
    assert outcome.status == "done"
    assert len(known.seen) == 6
    assert isclose(known.seen[0]["lr"], 5.47723e-4)  # the middle of its log range
    assert outcome.result["settings"] == min(known.seen, key=bowl)
    assert outcome.result["objective"] == min(map(bowl, known.seen))
    assert [trial["settings"] for trial in outcome.result["trials"]] == known.seen
    for values in known.seen:
        assert 1e-4 <= values["lr"] <= 3e-3


def test_a_killed_search_proposes_what_it_would_have_proposed(known: type[Known], tmp_path: Path) -> None:
    undisturbed = tune.search(job(tmp_path / "a", 6)).result["trials"]
    for dead in (0, 1, 4):
        calls = 0

        def deadly(values: Values, dead: int = dead) -> float:
            nonlocal calls
            calls += 1
            if calls == dead + 1:
                raise KeyboardInterrupt
            return bowl(values)

        known.value_of = staticmethod(deadly)
        folder = tmp_path / f"killed-{dead}"
        with pytest.raises(KeyboardInterrupt):
            tune.search(job(folder, 6))
        assert tune.search(job(folder, 6)).result["trials"] == undisturbed


def test_more_trials_continue_the_same_search(known: type[Known], tmp_path: Path) -> None:
    first = tune.search(job(tmp_path / "a", 3)).result["trials"]
    assert tune.search(job(tmp_path / "a", 5)).result["trials"][:3] == first
    assert len(known.seen) == 5
    assert len(tune.search(job(tmp_path / "a", 2)).result["trials"]) == 2
    assert len(known.seen) == 5


def test_a_changed_space_is_another_search(known: type[Known], tmp_path: Path) -> None:
    tune.search(job(tmp_path, 2))
    other = [{"name": "npo", "search": {"lr": {"low": 1e-5, "high": 1e-4}}}]
    tune.search(job(tmp_path, 2, methods=other))
    assert len(known.seen) == 4
    assert known.seen[-1]["lr"] <= 1e-4


def test_a_failing_trial_costs_one_of_the_budget(known: type[Known], tmp_path: Path) -> None:
    def choosy(values: Values) -> float:
        if len(known.seen) == 2:
            raise RunError("The loss is not finite.")
        return bowl(values)

    known.value_of = staticmethod(choosy)
    outcome = tune.search(job(tmp_path, 4))
    assert [t["objective"] is None for t in outcome.result["trials"]] == [False, True, False, False]
    assert outcome.result["trials"][1]["error"] == "The loss is not finite."


def test_all_trials_failing_is_a_failure_in_one_sentence(known: type[Known], tmp_path: Path) -> None:
    def never(values: Values) -> float:
        raise InputError("rmu: layer 9 does not exist.")

    known.value_of = staticmethod(never)
    outcome = perform(job(tmp_path, 2))
    assert outcome.status == "failed"
    assert outcome.error == "All 2 trials failed; the last one: rmu: layer 9 does not exist."
    assert job(tmp_path, 2).result() is None


def test_past_the_deadline_no_trial_begins(known: type[Known], tmp_path: Path) -> None:
    late = replace(job(tmp_path, 3), deadline=time.time() - 1)
    assert tune.search(late).status == "partial"
    assert known.seen == []
    assert tune.search(job(tmp_path, 3)).status == "done"


@pytest.mark.parametrize(("trials", "methods"), [(0, None), (5, [{"name": "npo", "search": {}}])])
def test_nothing_to_search(known: type[Known], tmp_path: Path, trials: int, methods: Any) -> None:
    changes = {} if methods is None else {"methods": methods}
    outcome = tune.search(job(tmp_path, trials, **changes))
    assert outcome == Outcome("done", {**outcome.result, "trials": [], "objective": None})
    assert outcome.result["settings"] == job(tmp_path, trials, **changes).bench.plan("npo").first()
    assert known.seen == []


def test_categories_are_searched(known: type[Known], tmp_path: Path) -> None:
    known.value_of = staticmethod(lambda values: 0.0 if values["retain"] == "kl" else 1.0)
    space = [{"name": "npo", "search": {"retain": ["nll", "kl"]}}]
    assert tune.search(job(tmp_path, 6, methods=space)).result["settings"] == {"retain": "kl"}


def test_without_optuna_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(InputError, match=r"Optuna, which is not installed; pip install 'expunge\[bench\]'"):
        tune.require_optuna()
