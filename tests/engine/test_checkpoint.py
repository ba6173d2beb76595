"""Checkpoints are read back bit for bit, and a write that fails takes nothing with it."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from expunge.engine import checkpoint
from expunge.engine.checkpoint import (
    Checkpoints,
    flatten,
    read_folder,
    restore,
    write_folder,
)
from expunge.engine.weights import Weights
from expunge.errors import RunError


def put(folder: Path, number: float) -> None:
    write_folder(folder, {"weights": {"w": torch.full((3,), number)}}, {"number": number})


def number(folder: Path) -> float | None:
    found = read_folder(folder, ("weights",))
    if found is None:
        return None
    assert float(found[0]["weights"]["w"][0]) == found[1]["number"]
    return float(found[1]["number"])


def test_nothing_there(tmp_path: Path) -> None:
    assert number(tmp_path / "latest") is None
    assert Checkpoints(tmp_path).load() is None
    assert Checkpoints(None).load() is None
    assert Checkpoints(None).load_best() is None
    assert not Checkpoints(None).due()


def test_replacing_leaves_one_folder(tmp_path: Path) -> None:
    for k in range(3):
        put(tmp_path / "latest", k)
    assert number(tmp_path / "latest") == 2
    assert os.listdir(tmp_path) == ["latest"]


def kill_at(monkeypatch: pytest.MonkeyPatch, function: str, call: int) -> None:
    """Die (with an exception nothing catches) at the n-th call of a file operation."""
    calls = 0
    real = getattr(checkpoint.os if function == "replace" else checkpoint.shutil, function)

    def dying(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(checkpoint.os if function == "replace" else checkpoint.shutil, function, dying)


@pytest.mark.parametrize(
    ("function", "call", "expected"),
    [
        ("rmtree", 1, 1.0),  # before anything
        ("rmtree", 2, 1.0),  # the new one is written, nothing is moved
        ("replace", 1, 1.0),
        ("replace", 2, 1.0),  # the old one is aside, the new one not yet in place
        ("rmtree", 3, 2.0),  # both stand
    ],
)
def test_killed_at_any_moment_one_whole_checkpoint_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, call: int, expected: float
) -> None:
    folder = tmp_path / "latest"
    put(folder, 1)
    with monkeypatch.context() as patch:
        kill_at(patch, function, call)
        with pytest.raises(KeyboardInterrupt):
            put(folder, 2)
    assert number(folder) == expected
    put(folder, 3)  # the leftovers of the kill are in nobody's way
    put(folder, 4)
    assert number(folder) == 4
    assert os.listdir(tmp_path) == ["latest"]


def test_a_half_written_folder_is_never_read(tmp_path: Path) -> None:
    put(tmp_path / "latest", 1)
    shutil.copytree(tmp_path / "latest", tmp_path / "latest.tmp")
    (tmp_path / "latest.tmp" / "weights.safetensors").write_bytes(b"half")
    assert number(tmp_path / "latest") == 1
    shutil.rmtree(tmp_path / "latest")
    assert number(tmp_path / "latest") is None


FULL = [
    OSError(errno.ENOSPC, "No space left on device"),
    SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
]


@pytest.mark.parametrize("error", FULL, ids=["os", "safetensors"])
def test_a_full_disk_is_one_clear_error_and_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    folder = tmp_path / "latest"
    put(folder, 1)

    def full(tensors: dict[str, Tensor], path: Path) -> None:
        path.write_bytes(b"as much as fits")
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", full)
        with pytest.raises(RunError) as raised:
            put(folder, 2)
    assert str(folder) in str(raised.value)
    assert "No space left on device" in str(raised.value)
    assert number(folder) == 1
    assert os.listdir(tmp_path) == ["latest"]  # the half-written one gives its space back


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    put(tmp_path / "latest", 1)
    (tmp_path / "latest" / "weights.safetensors").write_bytes(b"junk" * 10)
    with pytest.raises(RunError, match="damaged") as raised:
        number(tmp_path / "latest")
    assert str(tmp_path / "latest") in str(raised.value)


class Normed(nn.Module):
    """A matrix, a frozen vector, running statistics, and a buffer that is not saved."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(4, 4))
        self.frozen = nn.Parameter(torch.randn(4), requires_grad=False)
        self.norm = nn.BatchNorm1d(4, affine=False)
        self.register_buffer("scratch", torch.zeros(2), persistent=False)


def test_buffers_that_training_moves_are_kept() -> None:
    model = Normed()
    weights = Weights(model, ["matrix"])
    kept = {k: v.clone() for k, v in weights.state().items()}
    assert kept.keys() == {"matrix", "norm.running_mean", "norm.running_var", "norm.num_batches_tracked"}
    model.norm(torch.randn(8, 4) + 3)
    with torch.no_grad():
        model.matrix.add_(1)
    weights.load(kept)
    assert all(torch.equal(v, kept[k]) for k, v in weights.state().items())


def optimizers(model: Normed) -> list[torch.optim.Optimizer]:
    others = [nn.Parameter(torch.randn(3)), model.frozen]  # the second never gets a gradient
    return [torch.optim.AdamW(others, lr=0.1), torch.optim.Muon([model.matrix], lr=0.1)]


def move(found: list[torch.optim.Optimizer], seed: int) -> list[Tensor]:
    draw = torch.Generator().manual_seed(seed)
    moved = [p for o in found for g in o.param_groups for p in g["params"] if p.requires_grad]
    for p in moved:
        p.grad = torch.randn(p.shape, generator=draw)
    for optimizer in found:
        optimizer.step()
    return moved


def test_optimisers_go_on_bit_for_bit(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Normed()
    first = optimizers(model)
    move(first, 1)
    before = [p.detach().clone() for p in move(first, 2)]
    write_folder(tmp_path / "o", {"optimizer": flatten(first)}, {})
    after = [p.detach().clone() for p in move(first, 3)]

    second = optimizers(Normed())
    for p, value in zip(move(second, 9), before, strict=True):  # a different history, to be forgotten
        p.data.copy_(value)
    found = read_folder(tmp_path / "o", ("optimizer",))
    assert found is not None
    restore(second, found[0]["optimizer"])
    again = move(second, 3)
    assert all(torch.equal(a, b) for a, b in zip(after, again, strict=True))


def test_saving_never_costs_more_than_a_tenth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint that took 3 s is due again after 30 s; a free one after 2 s."""
    now = 100.0
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now)
    points = Checkpoints(tmp_path)
    points.cost = 3.0
    now = 129.9
    assert not points.due()
    now = 130.1
    assert points.due()
    points.cost, points.last = 0.0, 130.1
    now = 132.0
    assert not points.due()
    now = 132.2
    assert points.due()
