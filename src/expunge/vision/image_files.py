"""Images in files: decoded with Pillow when they are read, resized to one side; tables that label them."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from expunge.errors import InputError
from expunge.vision.data import Held, Images

Broken = Literal["stop", "skip"]
HELD_BYTES = 2**30  # sets whose resized pixels are smaller than this are decoded once and kept


@dataclass(frozen=True, eq=False)
class Files:
    """Pixels read from files each time they are asked for.

    Attributes:
        paths: One file for each image.
        side: Of the square every image becomes: its shorter side is resized to it, the middle is cut out.
        workers: Threads that decode.
    """

    paths: Sequence[Path]
    side: int
    workers: int = 2
    _digests: dict[int, bytes] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, rows: Tensor) -> Tensor:
        """See `Pixels`.

        Raises:
            InputError: A file that is not there or cannot be decoded; names it.
        """
        wanted = [self.paths[i] for i in rows.tolist()]
        with ThreadPoolExecutor(self.workers) as pool:
            found = list(pool.map(lambda path: decode(path, self.side), wanted))
        return torch.from_numpy(np.stack(found)) if found else torch.zeros(0, 3, self.side, self.side).byte()

    def digest(self, row: int) -> bytes:
        """See `Pixels`: of the file, so that nothing need be decoded."""
        if row not in self._digests:
            content = self.paths[row].read_bytes() + str(self.side).encode()
            self._digests[row] = hashlib.blake2b(content, digest_size=12).digest()
        return self._digests[row]


def decode(path: Path, side: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """uint8 [3, side, side] of an image file: shorter side resized (bilinear), middle cut out.

    Raises:
        InputError: Pillow is missing; the file is not there, or no image that can be decoded.
    """
    try:
        from PIL import Image
    except ImportError:
        raise InputError("Reading image files needs the extra 'vision': pip install 'expunge[vision]'.") from None
    try:
        with Image.open(path) as opened:
            picture = opened.convert("RGB")
    except FileNotFoundError:
        raise InputError(f"{path}: no such image file.") from None
    except Exception as error:  # broken files raise a zoo of errors
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: cannot be decoded as an image ({reason}).") from None
    return squared(picture, side)


def squared(picture: Any, side: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """uint8 [3, side, side] of an RGB image of Pillow: shorter side resized (bilinear), middle cut out."""
    from PIL import Image

    width, height = picture.size
    scale = side / min(width, height)
    width, height = max(side, round(width * scale)), max(side, round(height * scale))
    picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - side) // 2, (height - side) // 2
    cut = picture.crop((left, top, left + side, top + side))
    return np.ascontiguousarray(np.asarray(cut, dtype=np.uint8).transpose(2, 0, 1))


def load_images(
    paths: Sequence[Path],
    labels: Sequence[Any],
    clusters: Sequence[str],
    side: int,
    *,
    broken: Broken = "stop",
    note: Callable[[str], None] = lambda _: None,
) -> Images:
    """Images of labelled files; small sets are decoded once and held.

    Args:
        paths: One file for each image.
        labels: Class, or list of yes-or-no labels, of each.
        clusters: Identity of each.
        side: Pixels of a side.
        broken: What a file that cannot be read does: ``stop``, or ``skip`` with a note that names it.
        note: Told what was skipped.

    Raises:
        InputError: A file that cannot be read (``stop``); none is left (``skip``).
    """
    keep, held = list(range(len(paths))), len(paths) * 3 * side * side <= HELD_BYTES
    pixels: list[Any] = []
    if held or broken == "skip":
        keep = []
        for i, path in enumerate(paths):
            try:
                pixels.append(decode(path, side) if held else decode(path, 8))
            except InputError as error:
                if broken == "stop":
                    raise
                note(f"Left out: {error}")
                continue
            keep.append(i)
    if not keep:
        raise InputError(f"None of {len(paths)} image files can be read; the first is {paths[0]}.")
    files = [paths[i] for i in keep]
    source: Any = Held(torch.from_numpy(np.stack(pixels))) if held else Files(files, side)
    values = torch.tensor([labels[i] for i in keep])
    return Images(
        source, torch.arange(len(keep)), values if values.ndim == 1 else values.float(),
        tuple(clusters[i] for i in keep), tuple(str(f) for f in files),
    )  # fmt: skip


def read_table(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Rows of a CSV file that has some columns.

    Raises:
        InputError: The file is not there, is no CSV, or lacks a column or a value.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file.") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not a text file in UTF-8.") from None
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        missing = [c for c in columns if c not in (reader.fieldnames or ())]
        if missing:
            raise InputError(f"{path}: no column {missing[0]!r}; there are {', '.join(reader.fieldnames or ())}.")
        rows = list(reader)
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.reader.line_num}: not CSV ({error}).") from None
    if not rows:
        raise InputError(f"{path}: no records in it.")
    for i, row in enumerate(rows, 1):
        for column in columns:
            if not row.get(column):
                raise InputError(f"{path}, record {i}: no value for {column!r}.")
    return rows


def require_files(paths: Sequence[Path], table: Path) -> None:
    """Refuse a table that names more images than its folder holds.

    Raises:
        InputError: Says how many are missing and names the first.
    """
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise InputError(
            f"{table} names {len(paths)} images and {len(missing)} of them are not there; the first is {missing[0]}."
        )
