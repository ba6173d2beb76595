"""Entries that may not move: bit for bit where they were, under any optimiser, smoothing, division and kill."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from expunge.engine.checkpoint import Checkpoints
from expunge.engine.loop import Loop, Observers
from expunge.engine.training import Training
from expunge.engine.weights import Weights
from tiny_models import Ascent, distance, same, streams, tiny, weights

STEPS = 4
SGD = Training(
    steps=STEPS, batch_size=8, optimizer="sgd", lr=0.02, momentum=0.9, weight_decay=0.1, warmup=0.0, clip=None
)  # fmt: skip
ADAM = replace(SGD, optimizer="adamw", lr=1e-2)


@dataclass(frozen=True)
class Masked(Ascent):
    """Some entries of every parameter may move: a fixed random share of them."""

    share: float = 0.5

    def mask(self, model: nn.Module) -> Mapping[str, Tensor]:
        draw = torch.Generator().manual_seed(7)
        return {n: torch.rand(p.shape, generator=draw) < self.share for n, p in model.named_parameters()}


def run(method: Any, training: Training, **options: Any) -> dict[str, Tensor]:
    model = tiny(attention_dropout=0.3)
    Loop(model, method, streams(training.steps or 0), training, seed=4, **options).run()
    return weights(model)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer": "adamw", "lr": 1e-2},
        {"optimizer": "muon", "muon_lr": 0.05, "lr": 1e-2},
        {"smoothing": "sam", "rho": 0.5},
        {"smoothing": "rs", "sigma": 0.02},
        {"smoothing": "gp", "penalty": 0.5},
        {"smoothing": "cr", "penalty": 0.5, "mu": 0.05},
        {"smoothing": "wa", "average_from": 1, "average_every": 1},
    ],
    ids=lambda c: "-".join(map(str, c.values())) or "sgd",
)
def test_what_may_not_move_does_not(changes: dict[str, Any]) -> None:
    start, end = weights(tiny()), run(Masked(), replace(SGD, **changes))
    for name, mask in Masked().mask(tiny()).items():
        assert torch.equal(end[name][~mask], start[name][~mask]), name
    assert any(not torch.equal(end[n], start[n]) for n in start)


@pytest.mark.parametrize("smoothing", ["none", "sam"])
def test_a_mask_that_lets_everything_move_changes_nothing(smoothing: Any) -> None:
    for training in (SGD, ADAM):
        training = replace(training, smoothing=smoothing, rho=0.5)
        assert same(run(Masked(share=1.1), training), run(Ascent(), training))


def test_one_that_lets_nothing_move_leaves_the_model_as_it_is() -> None:
    assert same(run(Masked(share=-1.0), SGD), weights(tiny()))


def test_without_momentum_and_decay_what_may_move_moves_as_it_would() -> None:
    """One step of SGD is linear in the gradient: free entries land where they land without a mask."""
    once = replace(SGD, steps=1, momentum=0.0, weight_decay=0.0)
    free, bound = run(Ascent(), once), run(Masked(), once)
    for name, mask in Masked().mask(tiny()).items():
        assert torch.equal(free[name][mask], bound[name][mask])


def test_accumulation_equals_one_large_batch() -> None:
    for smoothing in ("none", "sam"):
        training = replace(SGD, smoothing=smoothing, rho=0.5)  # type: ignore[arg-type]
        ends = []
        for micro in (None, 3):
            model = tiny()  # without dropout, whose draws depend on the micro-batch
            Loop(model, Masked(), streams(STEPS), replace(training, micro_batch=micro), seed=4).run()
            ends.append(weights(model))
        assert distance(ends[0], weights(tiny())) > 0
        assert distance(*ends) < 1e-5


@pytest.mark.parametrize("at", [2, 4])
def test_killed_and_resumed_it_ends_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    monkeypatch.setattr(Checkpoints, "due", lambda self: self.folder is not None)

    def kill(step: int, total: int, terms: dict[str, float]) -> None:
        if step == at:
            raise KeyboardInterrupt

    whole = run(Masked(), SGD)
    with pytest.raises(KeyboardInterrupt):
        run(Masked(), SGD, folder=tmp_path, observers=Observers(progress=kill))
    assert same(run(Masked(), SGD, folder=tmp_path), whole)


class Two(nn.Module):
    """Two rows of three weights."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], dtype=dtype))

    def loss(self) -> Tensor:
        return self.rows.float().square().sum()


FREE = torch.tensor([[True, False, True], [False, False, True]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_and_perturbations_stay_among_the_free_entries(dtype: torch.dtype) -> None:
    """d/dw w^2 = 2w where the weight is free, over two backward passes 4w; a step of one moves free entries alone."""
    model = Two(dtype)
    start = model.rows.detach().clone()
    moved = Weights(model, ["rows"], {"rows": FREE})
    with moved.attached():
        for _ in range(2):
            model.loss().backward()
    assert torch.equal(moved.parameters[0].grad, 4 * start.float() * FREE)  # type: ignore[arg-type]
    with moved.moved_by([torch.ones(2, 3)]):
        assert torch.equal(model.rows.detach(), start + FREE.to(dtype))
    assert torch.equal(model.rows.detach(), start)


def test_a_mask_of_a_slice() -> None:
    model = Two()
    start = model.rows.detach().clone()
    moved = Weights(model, ["rows[1]"], {"rows[1]": FREE[1]})
    optimizer = torch.optim.SGD(moved.parameters, lr=0.1, weight_decay=0.5)
    with moved.attached():
        model.loss().backward()
        optimizer.step()
        moved.sync()
    assert [(i, j) for i in range(2) for j in range(3) if model.rows[i, j] != start[i, j]] == [(1, 2)]


def test_a_mask_of_something_else_is_refused() -> None:
    for masks in ({"rows": torch.ones(2, dtype=torch.bool)}, {"columns": FREE}):
        with pytest.raises(ValueError, match="a mask of shape"):
            Weights(Two(), ["rows"], masks)
