"""Passes over the forgotten and the retained images in turn, and over both mixed: as streams of one training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from expunge.engine.gradients import Turn
from expunge.engine.loop import Stream
from expunge.engine.method import Edit, Step, Trained
from expunge.engine.sampling import epochs
from expunge.engine.training import Training
from expunge.vision.data import Images


@dataclass(frozen=True)
class OwnPasses(Edit):
    """A method whose training passes over the images in a way of its own.

    Attributes:
        freeze_norms: Keep the running statistics of normalisation layers as they are; otherwise all images that
            pass, the forgotten ones too, move them. Source: ours (the reference codes let them move).
    """

    freeze_norms: bool = False


@dataclass(frozen=True)
class Descend(Trained):
    """The task loss on whatever labels the streams carry; steps with one side have that side alone.

    Attributes:
        masks: Which entries of each parameter may move; None for all.
        sides: What is trained on.
    """

    masks: dict[str, Tensor] | None = None
    sides: tuple[str, ...] = ("forget", "retain")

    @property
    def has_forget(self) -> bool:
        """See `Trained`."""
        return "forget" in self.sides

    @property
    def has_retain(self) -> bool:
        """See `Trained`."""
        return "retain" in self.sides

    def forget_loss(self, step: Step) -> Tensor:
        """Mean task loss."""
        loss: Tensor = step.forget.loss
        return loss

    def retain_loss(self, step: Step) -> Tensor:
        """Mean task loss."""
        loss: Tensor = step.retain.loss
        return loss

    def mask(self, model: Any) -> dict[str, Tensor] | None:
        """See `Trained`."""
        return self.masks


def steps_of(images: Images, batch: int) -> int:
    """Steps of one pass over a set."""
    return -(-len(images) // batch)


def rounds(training: Training, turns_of: Callable[[int], list[Turn]]) -> list[Turn]:
    """Which side each step of a run has, epoch by epoch.

    Args:
        training: ``epochs`` counts the rounds; ``steps``, if it is set, cuts them off instead.
        turns_of: The turns of an epoch, counted from 0; never empty.

    >>> rounds(Training(epochs=2), lambda epoch: ["forget", "retain"] if epoch < 1 else ["retain"])
    ['forget', 'retain', 'retain']
    """
    turns: list[Turn] = []
    if training.steps is None:
        for epoch in range(max(1, round(training.epochs))):
            turns += turns_of(epoch)
        return turns
    epoch = 0
    while len(turns) < training.steps:
        turns += turns_of(epoch)
        epoch += 1
    return turns[: training.steps]


def drawn(images: Images, turns: list[Turn], side: Turn, batch: int, seed: int, purpose: str) -> Tensor:
    """[steps of that side, batch] rows: pass after pass, each in a fresh order."""
    return epochs(len(images), turns.count(side), batch, seed, purpose)


def placed(rows: Tensor, turns: list[Turn], side: Turn) -> Tensor:
    """[all steps, batch] rows: those of a side at its steps; elsewhere, where nobody looks, the first of them."""
    at = torch.tensor([turn == side for turn in turns], dtype=torch.bool)
    filler = rows[:1] if len(rows) else torch.zeros(1, rows.shape[1], dtype=torch.long)
    order = filler.repeat(len(turns), 1)
    order[at] = rows
    return order


def visits(job: Any, images: Images, rows: Tensor, labels: Tensor) -> Stream:
    """A stream in which every visit of an image has a label of its own.

    Args:
        job: The request.
        images: The set.
        rows: [steps, batch] rows of the set.
        labels: [steps * batch, ...] label of each visit.

    Returns:
        The stream; its rows are the numbers of the visits, in the shape of `rows`.
    """
    numbers = torch.arange(rows.numel()).view(rows.shape)
    visited, given = (images.take(rows.flatten()), labels) if rows.numel() else (images, None)  # a run of no steps
    stream: Stream = job.stream(visited, numbers, given)
    return stream
