"""The mean of the last weights."""

from __future__ import annotations

import pytest
import torch

from expunge.engine.averaging import Average
from expunge.engine.training import Training
from expunge.errors import InputError


def seen(total: int, dtype: torch.dtype = torch.float32, **settings: int) -> Average:
    average = Average(Training(smoothing="wa", **settings), total)  # type: ignore[arg-type]
    for done in range(1, total + 1):
        average.see(done, {"w": torch.full((2,), float(done), dtype=dtype), "n": torch.tensor(done)})
    return average


def test_the_published_schedule_takes_six_snapshots() -> None:
    """Steps 100, 105, ..., 125 of 125: their mean is 112.5; counters keep the last value."""
    average = seen(125, average_from=100, average_every=5)
    assert average.count == 6
    torch.testing.assert_close(average.mean["w"], torch.full((2,), 112.5))
    assert int(average.mean["n"]) == 125
    assert seen(125).first == 100


def test_a_single_snapshot_is_the_last_weights() -> None:
    average = seen(7, average_from=7)
    assert torch.equal(average.mean["w"], torch.full((2,), 7.0))


def test_half_precision_is_averaged_in_float32() -> None:
    assert seen(300, torch.bfloat16, average_from=1, average_every=1).mean["w"].dtype == torch.float32


def test_the_snapshot_is_a_copy() -> None:
    average = Average(Training(smoothing="wa", average_from=1), 5)
    weights = torch.ones(2)
    average.see(1, {"w": weights})
    weights.add_(1)
    assert torch.equal(average.mean["w"], torch.ones(2))


def test_a_first_snapshot_beyond_the_run_is_refused() -> None:
    with pytest.raises(InputError, match="average_from=8: the run has 7 steps"):
        seen(7, average_from=8)


def test_without_averaging_nothing_is_kept() -> None:
    average = Average(Training(average_from=99), 5)
    average.see(5, {"w": torch.ones(2)})
    assert not average.mean
