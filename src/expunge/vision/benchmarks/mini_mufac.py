"""A drawn miniature of MUFAC: invented people of four age groups, some of whom are forgotten."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch

from expunge.engine.training import Training
from expunge.errors import InputError
from expunge.vision.data import Images, require_disjoint
from expunge.vision.faces import GROUPS, Faces
from expunge.vision.metrics.accuracy import Accuracy
from expunge.vision.metrics.membership import Membership
from expunge.vision.metrics.nomus import NoMUS
from expunge.vision.networks import Shape
from expunge.vision.subject import Subject, small_cnn
from expunge.vision.workload import Workload

# AdamW reaches in 14 passes what SGD with momentum does not in thirty (docs/log.md).
TARGET_TRAINING = Training(
    epochs=14, batch_size=64, lr=2e-3, schedule="cosine", warmup=0.05, weight_decay=5e-4, clip=None
)


@dataclass(frozen=True)
class MiniMUFAC:
    """Age groups of drawn faces: forgetting people, not classes, on a network trained while one waits.

    As in MUFAC the label says nothing about who is shown, and the people of the four sets differ. A fifth set is
    other pictures of the forgotten people, which were not trained on.

    Attributes:
        forget: People to be forgotten. Source: ours.
        retain: People to be kept. Source: ours.
        test: People who show utility. Source: ours.
        unseen: People for the attacker's non-members. Source: ours.
        images: Pictures of each person in training. Source: ours.
        others: Other pictures of each forgotten person. Source: ours.
        side: Of a picture, in pixels. Source: ours.
        world_seed: Draws the people. Source: ours.
    """

    paper: ClassVar[str] = "ours; after MUFAC of Choi and Na, 2023 (arXiv 2311.02240)"

    forget: int = 40
    retain: int = 120
    test: int = 40
    unseen: int = 40
    images: int = 10
    others: int = 3
    side: int = 32
    world_seed: int = 0

    def __post_init__(self) -> None:
        for name in ("forget", "retain", "test", "unseen", "images"):
            if getattr(self, name) < 1:
                raise InputError(f"mini-mufac: {name}={getattr(self, name)} must be at least 1.")
        if self.others < 0 or self.side < 8:
            raise InputError(f"mini-mufac: others={self.others} must be at least 0 and side={self.side} at least 8.")

    @cached_property
    def splits(self) -> dict[str, Images]:
        """All sets of pictures."""
        drawn = Faces(
            self.forget, self.retain, self.test, self.unseen, self.images + self.others, self.side, seed=self.world_seed
        ).splits
        found = {}
        for name, pictures in drawn.items():
            number = torch.arange(len(pictures)) % (self.images + self.others)
            found[name] = pictures.take(torch.nonzero(number < self.images)[:, 0])
            if name == "forget":
                found["forget_paraphrase"] = pictures.take(torch.nonzero(number >= self.images)[:, 0])
        require_disjoint({k: v for k, v in found.items() if k != "forget_paraphrase"})
        return found

    @property
    def target_training(self) -> Training:
        """How the network learns the people."""
        return TARGET_TRAINING

    def network(self, seed: int) -> Subject:
        """The untrained network."""
        return small_cnn(Shape(3, GROUPS, (16, 32, 64, 64), 64), seed)

    def load(self, seed: int) -> Workload:
        """See `Benchmark`."""
        found = dict(self.splits)
        found["holdout"] = found.pop("unseen")
        if not self.others:
            del found["forget_paraphrase"]
        return Workload(
            forget=found["forget"],
            retain=found["retain"],
            splits=found,
            metrics=(
                Accuracy(splits=tuple(found)),
                Membership(),
                NoMUS(),
            ),
            classes=GROUPS,
            shown=True,
        )
