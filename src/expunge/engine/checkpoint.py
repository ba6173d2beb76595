"""Checkpoints of a training run: safetensors and JSON, written atomically, read back bit for bit."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from expunge.errors import RunError


def write_folder(folder: Path, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> None:
    """Write files into a temporary folder beside `folder`, then put it in place in one step.

    Raises:
        RunError: It cannot be written (the disk is full); what stood in `folder` still stands.
    """
    temporary = folder.with_name(folder.name + ".tmp")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        for name, group in tensors.items():
            save_file({k: v.contiguous() for k, v in group.items()}, temporary / f"{name}.safetensors")
        (temporary / "state.json").write_text(json.dumps(state), encoding="utf-8")
        _replace_folder(temporary, folder)
    except (OSError, SafetensorError) as error:  # safetensors wraps the operating system's errors
        shutil.rmtree(temporary, ignore_errors=True)
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise RunError(
            f"The checkpoint {folder} cannot be written ({reason}). The one before it is intact: "
            f"make room and run the same command again."
        ) from error


def _replace_folder(temporary: Path, folder: Path) -> None:
    """Put `temporary` in the place of `folder`."""
    if not folder.exists():
        os.replace(temporary, folder)
        return
    # A folder cannot be replaced in one step; the old one is kept until the new one stands.
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    os.replace(folder, old)
    os.replace(temporary, folder)
    shutil.rmtree(old, ignore_errors=True)


def read_folder(folder: Path, names: tuple[str, ...]) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]] | None:
    """What `write_folder` last put in place, or None.

    Raises:
        RunError: It is there and cannot be read.
    """
    # A run killed in the middle of `_replace_folder` leaves its last checkpoint under the name `.old`.
    for place in (folder, folder.with_name(folder.name + ".old")):
        if (place / "state.json").exists():
            try:
                state = json.loads((place / "state.json").read_text(encoding="utf-8"))
                return {name: load_file(place / f"{name}.safetensors") for name in names}, state
            except (OSError, SafetensorError, ValueError) as error:
                raise RunError(f"The checkpoint {place} is damaged ({error}); remove it.") from error
    return None


def flatten(optimizers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """State of the optimisers as one flat dictionary of tensors."""
    return {
        f"{i}.{index}.{key}": value if isinstance(value, Tensor) else torch.tensor(value)
        for i, optimizer in enumerate(optimizers)
        for index, entries in optimizer.state_dict()["state"].items()
        for key, value in entries.items()
    }


def restore(optimizers: list[torch.optim.Optimizer], flat: dict[str, Tensor]) -> None:
    """Undo `flatten`."""
    states: list[dict[int, dict[str, Tensor]]] = [{} for _ in optimizers]
    for name, value in flat.items():
        i, index, key = name.split(".", 2)
        states[int(i)].setdefault(int(index), {})[key] = value
    for optimizer, state in zip(optimizers, states, strict=True):
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


class Checkpoints:
    """The newest checkpoint of one run and the best weights so far, in one folder.

    A checkpoint is written when a tenth of the time since the last one would pay for it: cheap models
    are saved often, large ones rarely, and saving never costs more than about a tenth of the run.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.last = time.monotonic()
        self.cost = 0.0

    def due(self) -> bool:
        """Whether it is time to write one."""
        return self.folder is not None and time.monotonic() - self.last > max(2.0, 10 * self.cost)

    def save(
        self,
        weights: dict[str, Tensor],
        optimizers: list[torch.optim.Optimizer],
        begun: dict[str, Tensor],
        average: dict[str, Tensor],
        state: dict[str, Any],
    ) -> None:
        """Write the newest checkpoint over the previous one."""
        if self.folder is None:
            return
        started = time.monotonic()
        tensors = {"weights": weights, "optimizer": flatten(optimizers), "begun": begun, "average": average}
        write_folder(self.folder / "latest", tensors, state)
        self.last = time.monotonic()
        self.cost = self.last - started

    def load(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]] | None:
        """The newest complete checkpoint, or None."""
        if self.folder is None:
            return None
        return read_folder(self.folder / "latest", ("weights", "optimizer", "begun", "average"))

    def keep_best(self, weights: dict[str, Tensor]) -> None:
        """Keep the weights of the best probe so far."""
        if self.folder is not None:
            write_folder(self.folder / "best", {"weights": weights}, {})

    def load_best(self) -> dict[str, Tensor] | None:
        """The weights of the best probe, or None."""
        if self.folder is None:
            return None
        found = read_folder(self.folder / "best", ("weights",))
        return found and found[0]["weights"]
