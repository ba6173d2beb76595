"""Labelled images with the identity each shows: held in memory as bytes, or read from files when they are needed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from expunge.errors import InputError


class Pixels(Protocol):
    """Where pixels come from."""

    def __len__(self) -> int: ...

    def read(self, rows: Tensor) -> Tensor:
        """Pixels of some images, uint8 [b, c, h, w]."""
        ...

    def digest(self, row: int) -> bytes:
        """Content hash of one image."""
        ...


@dataclass(frozen=True, eq=False)
class Held:
    """Pixels in memory.

    Attributes:
        values: uint8 [n, c, h, w].
    """

    values: Tensor

    def __post_init__(self) -> None:
        if self.values.dtype != torch.uint8 or self.values.ndim != 4:
            raise InputError(
                f"Images are uint8 of shape [n, channels, height, width]; found {self.values.dtype} of shape "
                f"{list(self.values.shape)}."
            )

    def __len__(self) -> int:
        return len(self.values)

    def read(self, rows: Tensor) -> Tensor:
        """See `Pixels`."""
        return self.values[rows]

    def digest(self, row: int) -> bytes:
        """See `Pixels`."""
        return hashlib.blake2b(self.values[row].numpy().tobytes(), digest_size=12).digest()


@dataclass(frozen=True, eq=False)
class Images:
    """n images: pixels, labels, and whom or what each shows.

    Attributes:
        source: Pixels of these images and perhaps of others.
        rows: [n] which images of the source.
        labels: int64 [n] classes, or float [n, k] of independent yes-or-no labels.
        clusters: Identity of each image, the unit of inference; empty means only itself.
        names: File, or another name by which a person finds the image.
    """

    source: Pixels
    rows: Tensor
    labels: Tensor
    clusters: tuple[str, ...]
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        n = len(self.rows)
        if not len(self.labels) == len(self.clusters) == len(self.names) == n:
            raise ValueError(
                f"{n} images, {len(self.labels)} labels, {len(self.clusters)} identities, {len(self.names)} names"
            )

    @classmethod
    def of(cls, pixels: Tensor, labels: Tensor, clusters: Sequence[str] = (), names: Sequence[str] = ()) -> Images:
        """Images in memory.

        Args:
            pixels: uint8 [n, c, h, w].
            labels: [n] or [n, k].
            clusters: Identity of each image; none: each its own.
            names: Names of the images; none: their numbers.
        """
        n = len(pixels)
        return cls(
            Held(pixels), torch.arange(n), labels, tuple(clusters) or ("",) * n,
            tuple(names) or tuple(f"image {i + 1}" for i in range(n)),
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.rows)

    def pixels(self, rows: Tensor) -> Tensor:
        """[b, c, h, w] float32 in [0, 1]."""
        return self.source.read(self.rows[rows]).float() / 255

    def take(self, index: Sequence[int] | Tensor) -> Images:
        """Some of the images, in the order given."""
        chosen = torch.as_tensor(index, dtype=torch.long)
        places = chosen.tolist()
        return Images(
            self.source, self.rows[chosen], self.labels[chosen],
            tuple(self.clusters[i] for i in places), tuple(self.names[i] for i in places),
        )  # fmt: skip

    @cached_property
    def digest(self) -> str:
        """Content hash: pixels, labels and identities in their order."""
        hashed = hashlib.blake2b(digest_size=16)
        for row in self.rows.tolist():
            hashed.update(self.source.digest(row))
        hashed.update(self.labels.numpy().tobytes())
        hashed.update("\0".join(self.clusters).encode())
        return hashed.hexdigest()


def concatenate(parts: Sequence[Images]) -> Images:
    """Images of one source, one list after the other.

    Raises:
        ValueError: Images of different sources.
    """
    if len({id(p.source) for p in parts}) != 1:
        raise ValueError("images of different sources cannot be put in one list")
    return Images(
        parts[0].source, torch.cat([p.rows for p in parts]), torch.cat([p.labels for p in parts]),
        sum((p.clusters for p in parts), ()), sum((p.names for p in parts), ()),
    )  # fmt: skip


def require_disjoint(splits: dict[str, Images], *, by: str = "identity") -> None:
    """Refuse an identity, or with ``by="image"`` an image, in two splits.

    Raises:
        InputError: Names it and both splits.
    """
    seen: dict[str, tuple[str, str]] = {}
    for split, images in splits.items():
        keys = images.clusters if by == "identity" else [str(int(r)) for r in images.rows]
        for key, name in zip(keys, images.names, strict=True):
            if not key:
                continue
            where, first = seen.setdefault(key, (split, name))
            if where != split:
                shown = f"identity {key!r}" if by == "identity" else f"image {name!r}"
                raise InputError(f"{shown} is in {where} ({first}) and in {split} ({name}); splits must not share any.")


def check_labels(images: Images, classes: int, where: str) -> None:
    """Refuse a label outside the classes.

    Raises:
        InputError: Names the image and its label.
    """
    if images.labels.ndim == 2:
        if images.labels.shape[1] != classes:
            raise InputError(f"{where}: {images.labels.shape[1]} labels an image, and the model has {classes} outputs.")
        return
    wrong = (images.labels < 0) | (images.labels >= classes)
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise InputError(
            f"{where}, {images.names[row]}: label {int(images.labels[row])} is outside the classes 0 to {classes - 1}."
        )


def cluster_ids(images: Images) -> list[int]:
    """Number of each image's identity, by first appearance; an image without one is its own."""
    numbers: dict[str, int] = {}
    return [numbers.setdefault(key or f"\0{i}", len(numbers)) for i, key in enumerate(images.clusters)]


def folder_of(path: str | Path, what: str) -> Path:
    """A folder that is there.

    Raises:
        InputError: It is not.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise InputError(f"{path}: no such folder; {what}.")
    return folder
