"""Settings and schedules are pure functions with closed forms."""

from __future__ import annotations

import math
from dataclasses import fields

import pytest

from expunge.engine.training import Training, derive_seed
from expunge.errors import InputError


def rates(total: int, **settings: object) -> list[float]:
    training = Training(**settings)  # type: ignore[arg-type]
    return [training.rate(step, total) for step in range(total)]


def test_warmup_is_a_ramp_to_the_peak() -> None:
    """4 of 10 steps: 1/4, 2/4, 3/4, 1, then the constant."""
    assert rates(10, schedule="constant", warmup=0.4) == [0.25, 0.5, 0.75, *[1.0] * 7]


def test_linear_falls_by_equal_parts_and_would_reach_zero_one_step_later() -> None:
    """After 2 warm steps of 10: 1, 7/8, ..., 1/8."""
    assert rates(10, schedule="linear", warmup=0.2) == pytest.approx([0.5, 1.0, *[1 - k / 8 for k in range(8)]])
    assert Training(warmup=0.2).rate(10, 10) == pytest.approx(0.0)


def test_cosine_ends_at_five_percent() -> None:
    """0.05 + 0.95 (1 + cos(pi k/n)) / 2: 1 at k = 0, 0.525 half-way, 0.05 at k = n."""
    training = Training(schedule="cosine", warmup=0.0)
    assert training.rate(0, 8) == pytest.approx(1.0)
    assert training.rate(4, 8) == pytest.approx(0.525)
    assert training.rate(8, 8) == pytest.approx(0.05)
    assert training.rate(2, 8) == pytest.approx(0.05 + 0.475 * (1 + math.cos(math.pi / 4)))


def test_steps_of_a_tenth_at_the_milestones() -> None:
    """Thirty epochs of ten steps, a tenth after 10 and 20 of them, as MUFAC trains."""
    found = rates(300, schedule="step", warmup=0.0, milestones=(1 / 3, 2 / 3))
    assert found == pytest.approx([1.0] * 100 + [0.1] * 100 + [0.01] * 100)


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine", "step"])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("total", [1, 2, 7])
def test_every_step_moves(schedule: str, warmup: float, total: int) -> None:
    assert all(0 < rate <= 1 for rate in rates(total, schedule=schedule, warmup=warmup))


def test_steps_given_or_from_epochs() -> None:
    """ceil(40/32) = 2 steps an epoch; at least one step."""
    assert Training(steps=7, epochs=3).total_steps(1000) == 7
    assert Training(steps=0).total_steps(1000) == 0
    assert Training(epochs=2.5, batch_size=32).total_steps(40) == 5
    assert Training(epochs=0.01, batch_size=32).total_steps(40) == 1


def test_all_settings_out_of_range_are_named_at_once() -> None:
    with pytest.raises(InputError) as error:
        Training(
            steps=-1, epochs=0, batch_size=0, micro_batch=0, lr=0, muon_lr=-1, weight_decay=-1, warmup=2, clip=0,
            rho=-1, evaluate_every=-1, utility_floor=2, betas=(0.9, 1.0), optimizer="lbfgs",  # type: ignore[arg-type]
            momentum=1.0, milestones=(0.0,), schedule="stairs", precision="fp8", smoothing="wave",  # type: ignore[arg-type]
            smoothed_blocks=0, sigma=-1, draws=0, penalty=-1, mu=0, average_from=0, average_every=0,
        )  # fmt: skip
    named = {f.name for f in fields(Training)} - {"gradient_checkpointing", "stop_below_floor", "loss_cap"}
    assert all(f"{name}=" in str(error.value) for name in named)
    assert "lr=0," in str(error.value)
    assert "optimizer='lbfgs'" in str(error.value)


def test_not_a_number_is_out_of_range() -> None:
    for name in ("lr", "epochs", "rho", "weight_decay", "warmup", "clip"):
        with pytest.raises(InputError, match=f"{name}=nan"):
            Training(**{name: math.nan})  # type: ignore[arg-type]


def test_seeds_separate_all_their_parts() -> None:
    """The parts are not joined into one text: (1, 23) and (12, 3), 1 and "1" are different."""
    parts = [(0,), (1,), ("1",), (1, 23), (12, 3), ("a", "bc"), ("ab", "c"), ("ab", "c", 0)]
    seeds = [derive_seed(*p) for p in parts]
    assert len(set(seeds)) == len(parts)
    assert all(0 <= s < 2**63 for s in seeds)
    assert seeds == [derive_seed(*p) for p in parts]
