"""Carrying out one method on one classifier: the streams it draws from, and the training it asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from expunge.engine.gradients import Turn
from expunge.engine.loop import Loop, Observers, Stream, TrainLog
from expunge.engine.method import Edit, Guard, Method, Trained
from expunge.engine.sampling import epochs, uniform
from expunge.engine.training import Training
from expunge.errors import InputError
from expunge.vision.data import Images
from expunge.vision.forward import Augment, ImageExamples
from expunge.vision.norms import frozen_norms
from expunge.vision.subject import Subject


@dataclass
class UnlearnJob:
    """One request: which images to forget, which to keep, and how training is to be done.

    Attributes:
        subject: The target; methods work on it in place.
        forget: Images that must go.
        retain: Images that must stay.
        training: Settings of the loop.
        seed: Fixes every random draw.
        folder: Where checkpoints go; None for none.
        observers: Probes, selection, progress.
        base: Makes the subject as it was before it was trained on these images (for retraining).
        base_training: How the target was trained from it.
        augment: Changes batches at random in training, as it did when the target was trained.
        held_out: Images of the same kind as the forgotten ones that no model was trained on, for methods that
            choose among their own results (SCRUB's rewind); None without any.
        logs: What happened in each training this job caused.
    """

    subject: Subject
    forget: Images
    retain: Images
    training: Training
    seed: int = 0
    folder: Path | None = None
    observers: Observers | None = None
    base: Callable[[], Subject] | None = None
    base_training: Training | None = None
    augment: Augment | None = None
    held_out: Images | None = None
    logs: list[TrainLog] = field(default_factory=list)

    def train(
        self,
        method: Trained,
        subject: Subject,
        training: Training | None = None,
        *,
        part: str = "",
        quiet: bool = False,
        streams: Mapping[str, Stream] | None = None,
        turns: Sequence[Turn] | None = None,
        reference: nn.Module | None = None,
        freeze_norms: bool = False,
    ) -> Subject:
        """Train a subject in place with a loss, and return it.

        Args:
            method: The loss.
            subject: What to train.
            training: Settings other than the job's.
            part: Name of this training when a method needs more than one (its own checkpoints).
            quiet: Leave the probes out (for an intermediate model nobody selects).
            streams: Ready-made streams; None makes them from the job's images.
            turns: Which side each step has; None gives every step both.
            reference: The reference model, if it is not the subject as it stands.
            freeze_norms: Keep the running statistics of normalisation layers as they are.
        """
        training = training or self.training
        if streams is None:
            streams = self.streams(method, training)
        observers = self.observers
        if quiet and observers is not None:
            observers = replace(observers, probe=None, score=None)
        folder = self.folder / part if self.folder and part else self.folder
        with frozen_norms(subject.model, freeze_norms):
            loop = Loop(
                subject.model, method, streams, training, seed=self.seed, folder=folder, observers=observers,
                reference=reference, turns=turns,
            )  # fmt: skip
            self.logs.append(loop.run())
        return subject

    def streams(self, method: Trained, training: Training) -> dict[str, Stream]:
        """What the method draws from, and which rows each step sees.

        An epoch is one pass over the forget set; each step pairs its forget images with as many retain images drawn
        uniformly. A method without a forget side passes over the retain set instead.

        Raises:
            InputError: A set the method needs is empty.
        """
        sets = {"forget": self.forget, "retain": self.retain}
        for name in method.streams:
            require(sets[name], name, method)
        driving = self.forget if method.has_forget else self.retain
        steps, batch = training.total_steps(len(driving)), training.batch_size
        streams = {}
        for name in method.streams:
            draw = epochs if name == "forget" or not method.has_forget else uniform
            order = draw(len(sets[name]), steps, batch, self.seed, name)
            streams[name] = self.stream(sets[name], order)
        return streams

    def stream(self, images: Images, order: Tensor, labels: Tensor | None = None) -> Stream:
        """A stream of images in a given order, augmented as the target's were; `labels` other than their own."""
        return Stream(ImageExamples(images, labels, self.augment), order)

    def passes(self, images: Images, count: int, batch: int, purpose: str, labels: Tensor | None = None) -> Stream:
        """A stream of `count` whole passes over a set, in steps of `batch`, each pass in a fresh order."""
        steps = count * -(-len(images) // batch)
        return self.stream(images, epochs(len(images), steps, batch, self.seed, purpose), labels)


def require(images: Images, name: str, method: Method) -> None:
    """Refuse an empty set.

    Raises:
        InputError: There is no image in it.
    """
    if len(images) == 0:
        raise InputError(f"{type(method).__name__} needs {name} images and there are none.")


def unlearn(method: Method, job: UnlearnJob) -> Subject:
    """Carry out a method.

    Returns:
        The unlearned subject (the job's subject changed in place, or a new one).

    Raises:
        InputError: An empty forget set; a retain set the method needs and does not have; an image in both sets.
    """
    if len(job.forget) == 0:
        raise InputError("The forget set is empty: there is nothing to unlearn.")
    if job.forget.source is job.retain.source and bool(torch.isin(job.forget.rows, job.retain.rows).any()):
        row = int(torch.isin(job.forget.rows, job.retain.rows).nonzero()[0])
        raise InputError(f"{job.forget.names[row]} is in the forget set and in the retain set.")
    if isinstance(method, Edit):
        return method.apply(job)  # type: ignore[no-any-return]
    if isinstance(method, Guard):
        return method.wrap(job)  # type: ignore[no-any-return]
    if not isinstance(method, Trained):
        raise InputError(f"{type(method).__name__} is neither a trained method nor an edit nor a guard.")
    return job.train(method, job.subject)
