"""A run that was killed and started again ends with the same weights, bit for bit, as one that was not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from expunge.engine.checkpoint import Checkpoints
from expunge.engine.loop import Loop, Observers, TrainLog
from expunge.engine.training import Training
from expunge.errors import RunError
from tiny_models import Ascent, same, streams, tiny, weights

STEPS = 6
TRAINING = Training(steps=STEPS, batch_size=8, lr=1e-2, warmup=0.5, micro_batch=3)


class Killed(BaseException):
    """Not an Exception: nothing between here and the test may catch it."""


def model() -> Any:
    return tiny(attention_dropout=0.3)


def run(folder: Path | None, training: Training, observers: Observers, subject: Any = None) -> tuple[Any, TrainLog]:
    subject = subject or model()
    log = Loop(subject, Ascent(), streams(STEPS), training, seed=4, folder=folder, observers=observers).run()
    return subject, log


def killer(at: int) -> Callable[[int, int, dict[str, float]], None]:
    """Dies after step `at`, before its checkpoint."""

    def progress(step: int, total: int, terms: dict[str, float]) -> None:
        if step == at:
            raise Killed

    return progress


@pytest.fixture(params=[1, 2], ids=["every step", "every other step"])
def every(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Checkpoints at a fixed beat instead of by the clock."""
    calls = 0

    def due(self: Checkpoints) -> bool:
        nonlocal calls
        calls += 1
        return self.folder is not None and calls % request.param == 0

    monkeypatch.setattr(Checkpoints, "due", due)
    return int(request.param)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("at", [1, 3, 6])
@pytest.mark.parametrize("smoothing", ["none", "sam"])
def test_killed_once(tmp_path: Path, every: int, optimizer: str, at: int, smoothing: str) -> None:
    training = replace(TRAINING, optimizer=optimizer, smoothing=smoothing, muon_lr=0.05)  # type: ignore[arg-type]
    whole, log = run(None, training, Observers())
    with pytest.raises(Killed):
        run(tmp_path, training, Observers(progress=killer(at)))
    resumed, again = run(tmp_path, training, Observers())
    assert same(weights(whole), weights(resumed))
    assert again.steps == log.steps
    kept = (at - 1) // every * every
    assert again.resumed_at == (kept or None)


def test_dropout_is_in_play() -> None:
    """Otherwise the tests above would not see random draws that depend on when a run was killed."""
    still = tiny()
    wild, _ = run(None, TRAINING, Observers())
    calm, _ = run(None, TRAINING, Observers(), still)
    assert not same(weights(wild), weights(calm))


def test_killed_again_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Checkpoints, "due", lambda self: True)
    whole, _ = run(None, TRAINING, Observers())
    for at in range(2, STEPS + 1):
        with pytest.raises(Killed):
            run(tmp_path, TRAINING, Observers(progress=killer(at)))
    resumed, log = run(tmp_path, TRAINING, Observers())
    assert log.resumed_at == STEPS - 1
    assert same(weights(whole), weights(resumed))


def test_other_random_draws_between_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever trains something else in the same process must not change what the run draws."""
    whole, _ = run(None, TRAINING, Observers())

    def disturb(step: int, total: int, terms: dict[str, float]) -> None:
        torch.manual_seed(99)

    noisy, _ = run(None, TRAINING, Observers(progress=disturb))
    assert same(weights(whole), weights(noisy))


# -- with selection ----------------------------------------------------------------------------------


def watching(progress: Any = None) -> Observers:
    """Probes that are a function of the weights alone, with the best in the middle of the run."""

    def probe(subject: nn.Module) -> dict[str, float]:
        moved = float((weights(subject)["model.norm.weight"] - 1).abs().sum())
        return {"moved": moved, "retain": 1.0}

    return Observers(probe=probe, score=lambda v: (-abs(v["moved"] - TARGET),), progress=progress)


TARGET = 0.25
SELECTING = replace(TRAINING, evaluate_every=1)


def test_the_middle_is_selected() -> None:
    """So that the tests below restore weights that are neither the first nor the last."""
    _, log = run(None, SELECTING, watching())
    assert log.selected_step in range(2, STEPS)


@pytest.mark.parametrize("at", range(1, STEPS + 1))
def test_killed_with_selection(tmp_path: Path, every: int, at: int) -> None:
    whole, log = run(None, SELECTING, watching())
    with pytest.raises(Killed):
        run(tmp_path, SELECTING, watching(killer(at)))
    resumed, again = run(tmp_path, SELECTING, watching())
    assert same(weights(whole), weights(resumed))
    assert (again.probes, again.selected_step) == (log.probes, log.selected_step)


@pytest.mark.parametrize("at", range(1, STEPS))
def test_killed_between_the_best_weights_and_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """`best` is then one probe ahead of `latest`; the resumed run finds it again by itself."""
    whole, log = run(None, SELECTING, watching())
    monkeypatch.setattr(Checkpoints, "due", lambda self: True)
    real, saves = Checkpoints.save, 0

    def save(self: Checkpoints, *args: Any) -> None:
        nonlocal saves
        saves += 1
        if saves == at + 1:
            raise Killed
        real(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", save)
        with pytest.raises(Killed):
            run(tmp_path, SELECTING, watching())
    resumed, again = run(tmp_path, SELECTING, watching())
    assert again.resumed_at == at
    assert again.selected_step == log.selected_step
    assert same(weights(whole), weights(resumed))


def test_finished_and_started_again_it_only_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Checkpoints, "due", lambda self: True)
    whole, _ = run(tmp_path, SELECTING, watching())
    again, log = run(tmp_path, SELECTING, watching())
    assert log.resumed_at == STEPS
    assert same(weights(whole), weights(again))


def test_a_stopped_run_stays_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Checkpoints, "due", lambda self: True)
    capped = replace(TRAINING, loss_cap=-10.0)
    stopped, log = run(tmp_path, capped, Observers())
    assert len(log.steps) == 1
    again, second = run(tmp_path, capped, Observers())
    assert (second.resumed_at, second.stopped, len(second.steps)) == (1, log.stopped, 1)
    assert same(weights(stopped), weights(again))


@pytest.mark.parametrize("at", range(2, STEPS))
def test_the_utility_of_the_start_outlives_the_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """The floor is a share of the utility before training, not of the first probe after the kill."""
    monkeypatch.setattr(Checkpoints, "due", lambda self: self.folder is not None)
    falling = replace(SELECTING, utility_floor=0.85, stop_below_floor=True)

    def observers(progress: Any = None) -> Observers:
        def probe(subject: nn.Module) -> dict[str, float]:
            moved = float((weights(subject)["model.norm.weight"] - 1).abs().sum())
            return {"retain": 1 - moved / 2}

        return Observers(probe=probe, progress=progress)

    _, log = run(None, falling, observers())
    assert log.stopped is not None
    assert len(log.steps) in range(2, STEPS)
    if at > len(log.steps):
        return
    with pytest.raises(Killed):
        run(tmp_path, falling, observers(killer(at)))
    _, again = run(tmp_path, falling, observers())
    assert (again.stopped, again.steps) == (log.stopped, log.steps)


# -- what is no checkpoint of this run ---------------------------------------------------------------


def test_weights_before_a_broken_step_are_kept(tmp_path: Path) -> None:
    """They are written at once, whether or not a checkpoint was due; the model itself holds them too."""
    before, _ = run(None, replace(TRAINING, micro_batch=None), Observers(progress=None))

    class Breaks(Ascent):
        def forget_loss(self, step: Any) -> Any:
            return super().forget_loss(step) * (float("nan") if step.index == 3 else 1.0)

    subject = model()
    with pytest.raises(RunError, match="step 3: the forget term is not finite") as error:
        Loop(subject, Breaks(), streams(STEPS), TRAINING, seed=4, folder=tmp_path).run()
    assert str(tmp_path) in str(error.value)
    found = Checkpoints(tmp_path).load()
    assert found is not None
    assert found[1]["step"] == 3
    assert same(found[0]["weights"], weights(subject))
    assert not same(weights(subject), weights(before))


def test_the_checkpoint_of_another_run_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Checkpoints, "due", lambda self: True)
    run(tmp_path, TRAINING, Observers())
    other = tiny(layers=1)
    start = weights(other)
    with pytest.raises(RunError, match="belongs to another run"):
        run(tmp_path, TRAINING, Observers(), other)
    assert same(start, weights(other))
    with pytest.raises(RunError, match="belongs to another run"):
        Loop(model(), Ascent(), streams(3), replace(TRAINING, steps=3), seed=4, folder=tmp_path).run()
