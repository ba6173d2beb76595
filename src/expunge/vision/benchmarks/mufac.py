"""MUFAC: age groups of real faces, people to be forgotten (Choi and Na 2023); the user supplies the folder."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import torch

from expunge.errors import InputError
from expunge.report.scorecard import Published
from expunge.vision.augmentation import Augmentation
from expunge.vision.data import Images, concatenate, folder_of, require_disjoint
from expunge.vision.image_files import Broken, load_images, read_table, require_files
from expunge.vision.metrics.accuracy import Accuracy
from expunge.vision.metrics.membership import Membership
from expunge.vision.metrics.nomus import NoMUS
from expunge.vision.networks import Shape
from expunge.vision.subject import Subject, small_cnn
from expunge.vision.workload import Workload

LETTERS = "abcdefgh"
FILES = {  # the table and folder called "val" are the test people, those called "test" the unseen ones
    "train": ("custom_train_dataset.csv", "train_images"),
    "test": ("custom_val_dataset.csv", "val_images"),
    "unseen": ("custom_test_dataset.csv", "test_images"),
}
SIZES = {"train": 10_025, "test": 1_539, "unseen": 1_504}
FORGET_ROWS = 1_500
HOUSEHOLD = re.compile(r"(F\d+)_")
_SOURCE = "README of ndb796/MachineUnlearning, ResNet-18"
_PRINTED = (  # method, accuracy, forgetting score, NoMUS
    ("before", 0.5951, 0.2136, 0.5839),
    ("gold", 0.488, 0.0445, 0.6995),
    ("fine-tune", 0.6055, 0.2129, 0.5898),
    ("CF-3", 0.5900, 0.2126, 0.5824),
    ("NegGrad", 0.4048, 0.0485, 0.6539),
    ("UNSIR, stage 1", 0.5893, 0.2089, 0.5857),
    ("UNSIR, stage 2", 0.5925, 0.1990, 0.5972),
    ("SCRUB", 0.5984, 0.1415, 0.6577),
    ("Advanced NegGrad", 0.5633, 0.0953, 0.6863),
)


def published() -> list[Published]:
    """The printed table. Its original and retrained models were trained by different recipes."""
    where = (("accuracy", "test"), ("forgetting_score", "forget"), ("nomus", "all"))
    return [
        Published(metric, split, "ResNet-18", method, value, _SOURCE)
        for method, *values in _PRINTED
        for (metric, split), value in zip(where, values, strict=True)
    ]


@dataclass(frozen=True)
class MUFAC:
    """Eight age groups of 13,068 face pictures; people of some households are to be forgotten.

    The data derives from a licensed data set and is not part of this package: `path` is a folder with the three
    tables and the three folders of pictures. As published the first 1,500 rows are forgotten, and the cut may go
    through a household; `by` = ``household`` forgets whole households of about as many pictures instead.

    Attributes:
        path: Folder with the tables and pictures. Source: paper.
        by: What is forgotten: ``rows`` (as published) or whole ``household``s. Source: paper; ours.
        side: Pixels of a side. Source: paper (128).
        augment: Flip, shear, scale and colour jitter in training. Source: paper.
        broken: A picture that cannot be decoded: ``stop``, or ``skip`` with a note. Source: ours.
    """

    paper: ClassVar[str] = (
        "Choi, Na, Towards Machine Unlearning Benchmarks: Forgetting the Personal Identities in Facial Recognition "
        "Systems, 2023 (arXiv 2311.02240)"
    )

    path: str
    by: Literal["rows", "household"] = "household"
    side: int = 128
    augment: bool = True
    broken: Broken = "stop"

    def __post_init__(self) -> None:
        if self.by not in ("rows", "household"):
            raise InputError(f"mufac: by={self.by!r}; rows or household.")
        if self.side < 8:
            raise InputError(f"mufac: side={self.side} must be at least 8 pixels.")

    def network(self, seed: int) -> Subject:
        """An untrained network of our own, for a quick look; name a model for real work."""
        return small_cnn(Shape(3, len(LETTERS), (32, 64, 128, 256), 128), seed)

    def load(self, seed: int) -> Workload:
        """See `Benchmark`.

        Raises:
            InputError: A missing table or picture, a label letter outside a to h, or a household in two sets.
        """
        notes: list[str] = []
        folder = folder_of(self.path, "MUFAC's folder holds three tables and three folders of pictures")
        parts = {name: self._read(folder, *files, notes) for name, files in FILES.items()}
        for name, images in parts.items():
            if len(images) != SIZES[name]:
                notes.append(f"MUFAC {name}: {len(images)} pictures; the published set has {SIZES[name]}.")
        forget, retain = self._divide(parts["train"], notes)
        splits = {"forget": forget, "retain": retain, "test": parts["test"], "holdout": parts["unseen"]}
        require_disjoint({k: v for k, v in splits.items() if k in ("test", "holdout")})
        require_disjoint({"training": concatenate([forget, retain]), "test": parts["test"]})
        require_disjoint({"training": concatenate([forget, retain]), "holdout": parts["unseen"]})
        return Workload(
            forget, retain, splits, (Accuracy(splits=tuple(splits)), Membership(), NoMUS()), len(LETTERS),
            augment=Augmentation() if self.augment else None, notes=notes, published=published(),
        )  # fmt: skip

    def _read(self, folder: Path, table: str, pictures: str, notes: list[str]) -> Images:
        rows = read_table(folder / table, ("image_path", "age_class"))
        labels = []
        for i, row in enumerate(rows, 1):
            letter = row["age_class"].strip()
            if letter not in LETTERS or len(letter) != 1:
                raise InputError(f"{folder / table}, record {i}: age_class {letter!r} must be one of a to h.")
            labels.append(LETTERS.index(letter))
        paths = [folder / pictures / Path(row["image_path"]).name for row in rows]
        if self.broken == "stop":
            require_files(paths, folder / table)
        names = [match.group(1) if (match := HOUSEHOLD.match(p.name)) else "" for p in paths]
        return load_images(paths, labels, names, self.side, broken=self.broken, note=notes.append)

    def _divide(self, train: Images, notes: list[str]) -> tuple[Images, Images]:
        """What is forgotten and what is kept of the training pictures."""
        count = round(FORGET_ROWS * len(train) / SIZES["train"])
        first = torch.arange(len(train)) < count
        if self.by == "household":
            chosen = set(train.clusters[:count])
            first = torch.tensor([c in chosen if c else bool(f) for c, f in zip(train.clusters, first, strict=True)])
        forget, retain = (train.take(torch.nonzero(side)[:, 0]) for side in (first, ~first))
        if not len(forget) or not len(retain):
            raise InputError(f"{self.path}: {len(train)} training pictures are too few to divide.")
        both = (set(forget.clusters) & set(retain.clusters)) - {""}
        if both:
            notes.append(
                f"The first {count} rows cut through {len(both)} households (such as {min(both)}): their other "
                f"pictures stay in the retain set. by=household forgets whole households."
            )
        return forget, retain
