"""PDU: the flattening loss, the dual variable, and the optimum they reach together, in float64."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor
from toys import FreeView, free_view, gradient, random_logits, step_of

from expunge.engine.checkpoint import Checkpoints
from expunge.engine.loop import Observers
from expunge.engine.method import Step
from expunge.engine.training import Training
from expunge.errors import InputError
from expunge.language.methods.pdu import PDU, dual_ascent, margin_flattening
from expunge.language.unlearn import UnlearnJob, unlearn
from tiny_bed import Bed

LENGTHS, STARTS = [4, 6], [2, 1]


def number(x: float) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


def test_flattening_by_hand() -> None:
    """(3, 1, 1, -1): max 3, mean 1, so 4. Zero for the uniform distribution alone."""
    z = torch.tensor([[3.0, 1.0, 1.0, -1.0], [2.0, 2.0, 2.0, 2.0]], dtype=torch.float64)
    assert margin_flattening(z).tolist() == [4.0, 0.0]


def test_flattening_ignores_a_shared_shift_and_its_slope_does_not_vanish() -> None:
    """dL/dz = 2 m (onehot(max) - 1/V), m = max - mean; entropy's slope at a sure model is nearly 0."""
    z = random_logits(1, 5, 0)[0]
    torch.testing.assert_close(margin_flattening(z + 7.5), margin_flattening(z))
    sure = torch.tensor([[60.0, 0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(margin_flattening(sure).sum(), sure)
    torch.testing.assert_close(slope, 2 * 40 * torch.tensor([[2 / 3, -1 / 3, -1 / 3]], dtype=torch.float64))
    p = sure.softmax(-1)
    (vanished,) = torch.autograd.grad((p * p.clamp(min=1e-300).log()).sum(), sure)
    assert vanished.abs().max().item() < 1e-20


def test_only_labelled_positions_are_flattened() -> None:
    view = free_view(random_logits(2, 6, 1), LENGTHS, STARTS)
    loss = PDU().forget_loss(step_of(forget=view))
    torch.testing.assert_close(loss, margin_flattening(view.logits).mean())
    assert not gradient(loss, view)[~view._predicts].any()


def test_the_dual_steps() -> None:
    assert dual_ascent(number(2.0), 0.5, 4.0).item() == 4.0
    assert dual_ascent(number(2.0), number(-0.25), 4.0).item() == 1.0
    assert dual_ascent(number(2.0), -1.0, 4.0).item() == 0.0


def test_the_retain_side_is_the_dual_times_the_excess() -> None:
    view = free_view(random_logits(2, 6, 2), LENGTHS, STARTS)
    state = {"dual": torch.tensor(3.0)}
    loss = PDU(epsilon=0.4).retain_loss(step_of(state, retain=view))
    torch.testing.assert_close(loss, 3 * (view.nll - 0.4))
    torch.testing.assert_close(gradient(loss, view), 3 * gradient(view.nll, view))


def test_relative_to_the_reference() -> None:
    """The bound is (1 + epsilon) times the reference's loss on the same rows."""
    view = free_view(random_logits(2, 6, 3), LENGTHS, STARTS, reference=random_logits(2, 6, 4))
    loss = PDU(epsilon=0.4, relative=True).retain_loss(step_of({"dual": torch.tensor(1.0)}, retain=view))
    theirs = -view.reference.token_logprobs.mean()
    torch.testing.assert_close(loss, view.nll - 1.4 * theirs)


def test_the_dual_waits_for_the_warm_up() -> None:
    method, state = PDU(warmup_steps=2, dual_rate=1.0), {"dual": number(5.0)}
    found = [method.update(state, {"violation": 2.0}, step)["dual"].item() for step in (0, 1, 2)]
    assert found == [5.0, 5.0, 7.0]


# -- the optimum --------------------------------------------------------------------------------------


def iterate(method: PDU, dual: float, steps: int) -> Iterator[tuple[float, float, float]]:
    """Primal descent and dual ascent on ONE row of free logits that is forget and retain at once.

    Yields the gap d = z_true - z_other, the retain loss and the dual after every step.
    """
    logits = torch.zeros(1, 2, 7, dtype=torch.float64)
    state: dict[str, Tensor] = {"dual": number(dual)}
    true = int(free_view(logits, [2], [1]).labels)
    logits[0, 0, true] = 6.0
    for index in range(steps):
        forget, retain = (free_view(logits, [2], [1]) for _ in range(2))
        step = replace(step_of(state, forget=forget, retain=retain), index=index)
        slope = gradient(method.forget_loss(step), forget) + gradient(method.retain_loss(step), retain)
        loss = retain.nll.item()
        state = method.update(state, {"violation": loss - method.epsilon}, index)
        logits = (logits - 0.05 * slope).detach()
        yield (logits[0, 0, true] - logits[0, 0, true - 1]).item(), loss, state["dual"].item()


def test_an_active_constraint_ends_at_the_kkt_point() -> None:
    """min ((V-1)/V d)^2 subject to ln(1 + (V-1) e^-d) <= eps, over the gap d of the true logit, V = 7.

    Feasible only for d >= d* = ln((V-1) / (e^eps - 1)), and the objective rises in d, so d = d*. Stationarity:
    2 ((V-1)/V)^2 d* = dual (1 - e^-eps), as the retain loss falls in d with slope 1 - p = 1 - e^-eps.
    """
    eps = 0.5
    gap = math.log(6 / (math.exp(eps) - 1))
    multiplier = 2 * (6 / 7) ** 2 * gap / (1 - math.exp(-eps))
    *_, (d, loss, dual) = iterate(PDU(epsilon=eps, dual_rate=0.5), 0.0, 2500)
    assert d == pytest.approx(gap, abs=1e-4)
    assert loss == pytest.approx(eps, abs=1e-4)
    assert dual == pytest.approx(multiplier, rel=1e-3)


def test_a_slack_constraint_lets_go_of_the_dual() -> None:
    """eps = 3 > ln 7: even the uniform distribution is allowed, so the dual falls to 0 and all is flat."""
    path = list(iterate(PDU(epsilon=3.0, dual_rate=0.5), 4.0, 400))
    duals = [dual for *_, dual in path]
    assert all(after <= before for before, after in pairwise(duals))
    assert duals[-1] == 0
    assert path[-1][0] == pytest.approx(0, abs=1e-6)


def test_a_broken_constraint_raises_the_dual() -> None:
    """eps = 0 cannot be met: the dual rises with every step."""
    duals = [dual for *_, dual in iterate(PDU(epsilon=0.0, dual_rate=0.5), 0.0, 50)]
    assert all(after > before for before, after in pairwise(duals))


# -- in a run -----------------------------------------------------------------------------------------

TRAINING = Training(steps=6, batch_size=12, lr=2e-3, schedule="constant", warmup=0.0, clip=None)


def run(bed: Bed, method: PDU, training: Training = TRAINING, **more: object) -> UnlearnJob:
    job = UnlearnJob(bed.fresh(), bed.forget, bed.retain, training, **more)  # type: ignore[arg-type]
    unlearn(method, job)
    return job


def test_a_run_moves_the_dual_by_the_violations_it_logs(bed: Bed) -> None:
    """dual_{t+1} = max(0, dual_t + rate violation_t), and the retain term is dual_t violation_t."""
    steps = run(bed, PDU(epsilon=0.05, dual_start=2.0, dual_rate=3.0, warmup_steps=2)).logs[0].steps
    duals = [s["dual"] for s in steps]
    assert duals[:3] == pytest.approx([2.0] * 3)
    for before, after, s in zip(duals[2:], duals[3:], steps[2:], strict=False):
        assert after == pytest.approx(max(0.0, before + 3.0 * s["violation"]), rel=1e-5)
    assert len(set(duals[2:])) > 2
    for s in steps:
        assert s["retain"] == pytest.approx(s["dual"] * s["violation"], rel=1e-4, abs=1e-6)


def test_the_dual_does_not_depend_on_the_micro_batch(bed: Bed) -> None:
    method = PDU(epsilon=0.05, dual_start=2.0)
    whole, parts = (run(bed, method, replace(TRAINING, micro_batch=m)).logs[0].steps for m in (None, 5))
    assert [s["dual"] for s in whole] == pytest.approx([s["dual"] for s in parts], rel=1e-3)


def test_an_interrupted_run_keeps_its_dual(bed: Bed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Checkpoints, "due", lambda self: self.folder is not None)

    class KilledError(Exception):
        pass

    def kill(step: int, total: int, terms: dict[str, float]) -> None:
        if step == 4:
            raise KilledError

    method = PDU(epsilon=0.05, dual_start=2.0)
    with pytest.raises(KilledError):
        run(bed, method, folder=tmp_path, observers=Observers(progress=kill))
    resumed, whole = run(bed, method, folder=tmp_path).logs[0], run(bed, method).logs[0]
    assert resumed.resumed_at == 3
    assert resumed.steps == whole.steps


def test_the_retain_loss_stays_under_its_bound(bed: Bed) -> None:
    """The same flattening with the dual held at 0 breaks a bound that the moving dual keeps."""
    training = replace(TRAINING, steps=40, clip=1.0)
    bounded = run(bed, PDU(epsilon=0.3, dual_start=100.0, dual_rate=5.0), training).logs[0].steps[-1]
    free = run(bed, PDU(epsilon=0.3, dual_start=0.0, dual_rate=0.0), training).logs[0].steps[-1]
    assert free["violation"] > 1
    assert bounded["violation"] < 0.3


@pytest.mark.parametrize("name", ["epsilon", "dual_start", "dual_rate", "warmup_steps"])
def test_a_negative_number_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"pdu: {name}=-1 must not be below 0"):
        PDU(**{name: -1})


def test_half_a_step_is_refused() -> None:
    with pytest.raises(InputError, match=r"pdu: warmup_steps=0\.5 must be a whole number"):
        PDU(warmup_steps=0.5)  # type: ignore[arg-type]


def test_relative_without_a_reference_is_refused() -> None:
    view: FreeView = free_view(random_logits(2, 6, 5), LENGTHS, STARTS)
    step: Step = step_of({"dual": torch.tensor(1.0)}, retain=view)
    with pytest.raises(InputError, match="needs a reference"):
        PDU(relative=True).retain_loss(step)
