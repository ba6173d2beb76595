"""Your own images: a folder with a table, or a data set of the hub; people, classes or single images go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal

import torch

from expunge.engine.sampling import generator
from expunge.errors import InputError, nearest
from expunge.vision.augmentation import Augmentation
from expunge.vision.data import Images, require_disjoint
from expunge.vision.hub import hub_images
from expunge.vision.image_files import Broken, load_images, read_table, require_files
from expunge.vision.metrics.accuracy import Accuracy
from expunge.vision.metrics.membership import Membership
from expunge.vision.networks import Shape
from expunge.vision.subject import Subject, small_cnn
from expunge.vision.workload import Workload

SPLITS = ("train", "test", "holdout")


@dataclass(frozen=True)
class ImageSet:
    """Erasure requests on your own images: a folder with a CSV table of files, labels and identities.

    Who is asked for is forgotten with all training images. Of everybody else some are set apart: ``test`` shows
    utility, ``holdout`` the attacker's non-members. A column ``split`` (train, test, holdout) says who is where;
    without one, whole identities (or images, where nobody has one) are drawn. A path that is no folder is a data set of
    the hub with the columns ``image``, ``label`` and perhaps an identity.

    Attributes:
        path: Folder with the table and the images, or id of a data set. Source: ours.
        forget: Names of identities, of classes, or of files, as the table has them. Source: ours.
        by: What they are names of: ``identity``, ``class`` or ``image``. Source: ours.
        table: CSV file in the folder. Source: ours.
        file: Its column of file names, relative to the folder. Source: ours.
        label: Column of classes; any words. Source: ours.
        identity: Column of who is shown; empty for none. Source: ours.
        test: Share of the others set apart to show utility. Source: ours.
        holdout: Share of the others set apart for the attacker. Source: ours.
        side: Pixels of a side. Source: ours.
        augment: Flip, shear, scale and colour jitter in training. Source: ours.
        broken: An image that cannot be decoded: ``stop``, or ``skip`` with a note. Source: ours.
        split_seed: Draws who is set apart. Source: ours.
    """

    paper: ClassVar[str] = "ours"

    path: str
    forget: Sequence[str]
    by: Literal["identity", "class", "image"] = "identity"
    table: str = "images.csv"
    file: str = "file"
    label: str = "label"
    identity: str = ""
    test: float = 0.15
    holdout: float = 0.15
    side: int = 64
    augment: bool = False
    broken: Broken = "stop"
    split_seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.forget, str) or not self.forget:
            raise InputError(f"image-set: forget={self.forget!r} is a list of the names that must go.")
        if self.by not in ("identity", "class", "image"):
            raise InputError(f"image-set: by={self.by!r}; identity, class or image.")
        if self.by == "identity" and not self.identity:
            raise InputError("image-set: by=identity needs the column that says who is shown (identity).")
        if min(self.test, self.holdout) <= 0 or self.test + self.holdout >= 1:
            raise InputError(
                f"image-set: test={self.test} and holdout={self.holdout} must be above 0 and together below 1."
            )
        if self.side < 8:
            raise InputError(f"image-set: side={self.side} must be at least 8 pixels.")

    @cached_property
    def _read(self) -> tuple[Images, list[str], list[str], list[str]]:
        """All images, the names of the classes, the split of each image (empty: to be drawn), and notes."""
        notes: list[str] = []
        folder = Path(self.path).expanduser()
        if not folder.is_dir():
            if folder.exists() or self.path.startswith((".", "/", "~")):
                raise InputError(f"{self.path}: no such folder; a folder with {self.table} or a data set is needed.")
            images, classes = hub_images(self.path, self.label, self.identity, self.side)
            return images, classes, [""] * len(images), notes
        place = folder / self.table
        columns = [self.file, self.label, *([self.identity] if self.identity else [])]
        rows = read_table(place, columns)
        paths = [folder / row[self.file] for row in rows]
        if self.broken == "stop":
            require_files(paths, place)
        classes = sorted({row[self.label] for row in rows})
        splits = {str(path): row.get("split") or "" for path, row in zip(paths, rows, strict=True)}
        if len(splits) < len(rows):
            raise InputError(f"{place}: it names {len(rows) - len(splits)} images twice.")
        for i, found in enumerate(splits.values(), 1):
            if found and found not in SPLITS:
                raise InputError(f"{place}, record {i}: split {found!r} must be one of {', '.join(SPLITS)}.")
        labels = [classes.index(row[self.label]) for row in rows]
        people = [row[self.identity] if self.identity else "" for row in rows]
        images = load_images(paths, labels, people, self.side, broken=self.broken, note=notes.append)
        return images, classes, [splits[name] for name in images.names], notes

    def network(self, seed: int) -> Subject:
        """An untrained network of our own, for a quick look; name a model for real work."""
        images, classes, _, _ = self._read
        channels = int(images.pixels(torch.tensor([0])).shape[1])
        return small_cnn(Shape(channels, len(classes), (32, 64, 128), 128), seed)

    def load(self, seed: int) -> Workload:
        """See `Benchmark`.

        Raises:
            InputError: A missing file or column, an image that cannot be decoded, a name that nobody has, an identity
                in two splits, or nothing left to keep or to test on.
        """
        images, classes, given, notes = self._read
        asked = self._asked(images, classes)
        drawn = [s or d for s, d in zip(given, self._drawn(images, asked), strict=True)]
        index = {
            "forget": [i for i, s in enumerate(drawn) if asked[i] and s == "train"],
            "retain": [i for i, s in enumerate(drawn) if not asked[i] and s == "train"],
            "test": [i for i, s in enumerate(drawn) if not asked[i] and s == "test"],
            "holdout": [i for i, s in enumerate(drawn) if s == "holdout" and (self.by == "class") == asked[i]],
            "forget_paraphrase": [i for i, s in enumerate(drawn) if asked[i] and s == "test"],
        }
        if not index["forget"]:
            raise InputError(f"image-set: no training image is left of {', '.join(self.forget)}.")
        for name in ("retain", "test", "holdout"):
            if not index[name]:
                raise InputError(f"image-set: no image is left for {name}; name it in a column 'split', or add images.")
        splits = {name: images.take(rows) for name, rows in index.items() if rows}
        if self.by == "identity":
            require_disjoint({n: s for n, s in splits.items() if n != "forget_paraphrase"})
        return Workload(
            splits["forget"], splits["retain"], splits, (Accuracy(splits=tuple(splits)), Membership()), len(classes),
            augment=Augmentation() if self.augment else None, notes=list(notes),
        )  # fmt: skip

    def _asked(self, images: Images, classes: list[str]) -> list[bool]:
        """Whether each image is asked for."""
        names = {
            "identity": list(images.clusters),
            "class": [classes[i] for i in images.labels.tolist()],
            "image": [Path(name).name for name in images.names],
        }[self.by]
        for wanted in self.forget:
            if wanted not in names:
                known = sorted(set(names))
                hint = nearest(wanted, known) if len(known) < 30 else ""
                raise InputError(f"image-set: no image has the {self.by} {wanted!r}.{hint}")
        if len(set(names)) == len(set(self.forget)):
            raise InputError("image-set: everything is to be forgotten; nothing would be retained.")
        return [name in set(self.forget) for name in names]

    def _drawn(self, images: Images, asked: list[bool]) -> list[str]:
        """A split for each image: whole subjects together. Of those who are asked for, classes alone are divided."""
        units = [cluster or f"\0{i}" for i, cluster in enumerate(images.clusters)]
        kept = [u for u, gone in zip(units, asked, strict=True) if not gone or self.by == "class"]
        names = list(dict.fromkeys(kept))
        order = torch.randperm(len(names), generator=generator(self.split_seed, "image set")).tolist()
        test, held = max(1, round(self.test * len(names))), max(1, round(self.holdout * len(names)))
        place = {names[n]: "test" if i < test else "holdout" for i, n in enumerate(order[: test + held])}
        return [place.get(unit, "train") for unit in units]
