"""Image data sets of the hub, or a local folder in its formats."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from expunge.errors import InputError
from expunge.vision.data import Held, Images
from expunge.vision.image_files import squared


def hub_images(name: str, label: str, identity: str, side: int, *, split: str = "train") -> tuple[Images, list[str]]:
    """Read a data set with a column ``image``.

    Args:
        name: Its id, or a local folder in a format of the `datasets` library.
        label: Column of classes.
        identity: Column of who is shown; empty for none.
        side: Pixels of a side; the shorter side is resized to it, the middle is cut out.
        split: Which of its splits.

    Returns:
        The images, and the names of the classes.

    Raises:
        InputError: The library is missing, no such data set, a missing column, or an image that cannot be read.
    """
    try:
        import datasets
    except ImportError:
        raise InputError(
            f"{name}: no such folder; to read it as a hub data set install the extras 'data' and 'vision'."
        ) from None
    try:
        rows = datasets.load_dataset(name, split=split)
    except Exception as error:  # network, name, format: the library raises a zoo of errors
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{name}: neither a folder nor a hub data set that can be loaded ({reason}).") from None
    wanted = ["image", label, *([identity] if identity else [])]
    missing = [column for column in wanted if column not in rows.column_names]
    if missing:
        raise InputError(f"{name}: no column {missing[0]!r}; there are {', '.join(rows.column_names)}.")
    named = getattr(rows.features[label], "names", None)
    values = rows[label]
    classes = list(named) if named else sorted({str(v) for v in values})
    labels = [int(v) if named else classes.index(str(v)) for v in values]
    pixels = np.stack([_square(row["image"], side, f"{name}, record {i}") for i, row in enumerate(rows, 1)])
    people = tuple(str(v) for v in rows[identity]) if identity else ("",) * len(rows)
    names = tuple(f"{name}, record {i}" for i in range(1, len(rows) + 1))
    source = Held(torch.from_numpy(pixels))
    return Images(source, torch.arange(len(rows)), torch.tensor(labels), people, names), classes


def _square(picture: Any, side: int, where: str) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    try:
        return squared(picture.convert("RGB"), side)
    except Exception as error:  # broken images raise a zoo of errors
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{where}: cannot be decoded as an image ({reason}).") from None
