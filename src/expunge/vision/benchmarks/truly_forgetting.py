"""Are We Truly Forgetting? Whole classes are forgotten, and the features are asked (Kim, Cha, Kim 2025)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

import torch

from expunge.engine.training import Training
from expunge.errors import InputError
from expunge.vision.classes import class_folders, divide_by_class, nearest_classes, random_classes
from expunge.vision.data import Images, check_labels
from expunge.vision.digits import digits
from expunge.vision.image_files import Broken
from expunge.vision.metrics.accuracy import Accuracy
from expunge.vision.metrics.membership import Membership
from expunge.vision.metrics.representation import Representation
from expunge.vision.networks import Shape
from expunge.vision.subject import Subject, small_cnn
from expunge.vision.workload import Workload

TARGET_TRAINING = Training(
    epochs=12, batch_size=64, lr=2e-3, schedule="cosine", warmup=0.05, weight_decay=5e-4, clip=None
)


@dataclass(frozen=True)
class TrulyForgetting:
    """Forget whole classes and compare features with a model that never saw them, not only answers.

    Without a path the images are scikit-learn's digits, 8 by 8 pixels. With one, a folder with one folder of images
    for each class (as ImageNet's) is read; 80% are trained on.

    Attributes:
        path: Folder with one folder of images for each class; empty for the digits. Source: paper (ImageNet-1K).
        forget: Classes to be forgotten, by number; empty to choose them by `choose`. Source: paper.
        choose: ``random``, or ``similar``: the classes whose mean pictures lie nearest to the first one drawn, so
            that what stays must be told from what goes. Source: paper (random, and most similar to a downstream
            set); ours.
        count: How many are chosen. Source: paper (100 of 1,000).
        side: Pixels of a side of images from a folder. Source: paper (224).
        split_seed: Divides training from test images. Source: paper (2).
        broken: An image that cannot be decoded: ``stop``, or ``skip`` with a note. Source: ours.
    """

    paper: ClassVar[str] = (
        "Kim, Cha, Kim, Are We Truly Forgetting? A Critical Re-examination of Machine Unlearning Evaluation "
        "Protocols, 2025 (arXiv 2503.06991)"
    )

    path: str = ""
    forget: tuple[int, ...] = (3, 5, 8)
    choose: Literal["random", "similar"] = "random"
    count: int = 3
    side: int = 224
    split_seed: int = 2
    broken: Broken = "stop"

    def __post_init__(self) -> None:
        if self.choose not in ("random", "similar"):
            raise InputError(f"truly-forgetting: choose={self.choose!r}; random or similar.")
        if len(set(self.forget)) < len(self.forget):
            raise InputError(f"truly-forgetting: forget={list(self.forget)} names a class twice.")
        if not self.forget and self.count < 1:
            raise InputError(f"truly-forgetting: count={self.count} must be at least 1.")

    @property
    def target_training(self) -> Training:
        """How a network of our own learns the digits."""
        return TARGET_TRAINING

    @cached_property
    def _read(self) -> tuple[Images, int, list[str]]:
        notes: list[str] = []
        if not self.path:
            return digits(), 10, notes
        images, names = class_folders(self.path, self.side, self.broken, notes.append)
        return images, len(names), notes

    def network(self, seed: int) -> Subject:
        """The untrained network."""
        images, classes, _ = self._read
        channels = int(images.pixels(torch.tensor([0])).shape[1])
        return small_cnn(Shape(channels, classes, (16, 32, 64), 64, norm=False), seed)

    def load(self, seed: int) -> Workload:
        """See `Benchmark`.

        Raises:
            InputError: A class that is not there, nothing left to keep, or unreadable images.
        """
        images, classes, notes = self._read
        check_labels(images, classes, self.path or "digits")
        gone = self.forget or self._chosen(images, classes, seed)
        splits = divide_by_class(images, classes, gone, self.split_seed)
        notes = [*notes, f"Forgotten classes: {', '.join(map(str, gone))} of {classes}."]
        return Workload(
            forget=splits["forget"],
            retain=splits["retain"],
            splits={**splits, "holdout": splits["forget_test"]},
            metrics=(Accuracy(splits=tuple(splits)), Membership(), Representation()),
            classes=classes,
            notes=notes,
            shown=not self.path,
        )

    def _chosen(self, images: Images, classes: int, seed: int) -> tuple[int, ...]:
        first = random_classes(classes, self.count, seed)
        return first if self.choose == "random" else nearest_classes(images, classes, first[0], self.count)
