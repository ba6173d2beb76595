"""Copies of records that a model is asked about beside the records themselves: noise, rotations, exchanged features.

What kind a record is, and with it what a copy of it may look like, is said by the caller in `Records.kind`. Copies
come one at a time, each of all records, so that ten copies need the memory of one.

>>> rotate(np.arange(4.0).reshape(1, 1, 2, 2), 90.0)[0, 0].tolist()
[[1.0, 3.0], [0.0, 2.0]]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import numpy as np

from expunge.errors import InputError
from expunge.membership.classifier import Floats, Ints, Records

Neighbours: TypeAlias = Callable[[Sequence[str], int], Sequence[Sequence[str]]]

SHARE = 0.01  # of half the feature range, or of the features
ANGLES = (1.0, 15.0)  # degrees, either way
BLOCK = 8_000_000  # random numbers drawn at a time


def noisy_copies(records: Records, copies: int, seed: int, share: float = SHARE) -> Iterator[Floats]:
    """Records with a little noise, as Query-neighbor and Query-adv ask for them (TDDBench, arXiv 2411.03363).

    Images and continuous features: Gaussian noise whose standard deviation is `share` of half the range of a feature,
    ``(high - low) / 2`` of the records. Binary features: `share` of them flipped, at least one where it is above 0.
    TDDBench's code takes the range of images from its first image alone, and flips none of fewer than 100 features.

    Args:
        records: Numbers of any kind.
        copies: How many.
        seed: Copy k of two calls with one seed is the same, whatever their numbers of copies.
        share: 0 gives the records themselves.

    Yields:
        [n, ...] one copy of every record.

    Raises:
        InputError: The records are texts, whose neighbours come from `MaskedNeighbours`.
    """
    inputs = numbers(records)
    sd = share * np.asarray(np.asarray(records.high) - np.asarray(records.low), dtype=np.float64) / 2
    for copy in range(copies):
        rng = np.random.default_rng([seed, copy])
        if records.kind != "binary":
            yield inputs + rng.standard_normal(inputs.shape) * sd
            continue
        flipped = inputs.copy()
        for rows, columns in chosen(rng, *_size(inputs, share)):
            flipped[rows, columns] = 1.0 - flipped[rows, columns]
        yield flipped


def augmented_copies(records: Records, copies: int, seed: int, share: float = SHARE) -> Iterator[Floats]:
    """Records as a training augments them: Query-augment's (TDDBench, arXiv 2411.03363).

    Images: all rotated by one angle, 1 to 15 degrees to either side. Features, binary or continuous: `share` of a
    record's features, at least one, taken over from another record (cut-mix); places and donor are drawn for each
    record. One seed gives the same angles for any images, so that a feature of the target's vector means what it
    means in the reference model's.

    Args:
        records: Numbers of any kind; of features at least two.
        copies: How many.
        seed: See `noisy_copies`.
        share: Of the features; not used for images.

    Yields:
        [n, ...] one copy of every record.

    Raises:
        InputError: The records are texts, or a single row of features.
    """
    inputs = numbers(records)
    if records.kind != "image" and len(inputs) < 2:
        raise InputError("One record alone has no other to exchange features with; cut-mix needs at least 2.")
    for copy in range(copies):
        rng = np.random.default_rng([seed, copy])
        if records.kind == "image":
            yield rotate(inputs, float(rng.uniform(*ANGLES) * rng.choice((-1, 1))))
            continue
        donor = (np.arange(len(inputs)) + rng.integers(1, len(inputs), len(inputs))) % len(inputs)
        mixed = inputs.copy()
        for rows, columns in chosen(rng, *_size(inputs, share)):
            mixed[rows, columns] = inputs[donor[rows], columns]
        yield mixed


def rotate(images: Floats, degrees: float) -> Floats:
    """Images turned about their centre, anticlockwise as they are looked at; what was outside is 0.

    The nearest pixel is taken, as the reference code does.

    Args:
        images: [n, channels, height, width].
        degrees: The angle.
    """
    import torch

    height, width = images.shape[2:]
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    # affine_grid measures either side of the image from -1 to 1: the corners turn in pixels, not in these units.
    turn = torch.tensor([[[c, -s * height / width, 0.0], [s * width / height, c, 0.0]]], dtype=torch.float64)
    grid = torch.nn.functional.affine_grid(turn, [1, 1, height, width], align_corners=False)
    turned = torch.nn.functional.grid_sample(
        torch.from_numpy(np.ascontiguousarray(images)), grid.expand(len(images), -1, -1, -1), mode="nearest",
        padding_mode="zeros", align_corners=False,
    )  # fmt: skip
    return np.asarray(turned.numpy(), dtype=np.float64)


def chosen(rng: np.random.Generator, rows: int, width: int, count: int) -> Iterator[tuple[Ints, Ints]]:
    """`count` different places of each row, in blocks of rows.

    Yields:
        Rows [b, 1] and places [b, count]: together an index.
    """
    if count == 0:
        return
    block = max(1, BLOCK // width)
    for start in range(0, rows, block):
        size = min(block, rows - start)
        places = rng.random((size, width), dtype=np.float32).argpartition(count - 1, axis=1)[:, :count]
        yield np.arange(start, start + size)[:, None], places


def neighbours_of(records: Records, neighbours: Neighbours | None, count: int) -> list[list[str]]:
    """At most `count` texts similar to each record, none of them twice.

    Raises:
        InputError: No `neighbours` are given, or it finds none for a text.
    """
    if neighbours is None:
        raise InputError("Texts need `neighbours`, which gives similar texts, such as MaskedNeighbours of a model.")
    found = [list(dict.fromkeys(similar))[:count] for similar in neighbours(list(records.inputs), count)]
    if len(found) != len(records):
        raise InputError(f"The neighbours of {len(found)} texts were given for {len(records)} records.")
    for i, similar in enumerate(found):
        if not similar:
            raise InputError(f"Record {i + 1} has no neighbour: {records.inputs[i][:60]!r}.")
    return found


def numbers(records: Records) -> Floats:
    """The inputs of records that are numbers.

    Raises:
        InputError: They are texts.
    """
    if not isinstance(records.inputs, np.ndarray):
        raise InputError("Texts cannot be copied with noise; their neighbours are other texts.")
    return np.asarray(records.inputs, dtype=np.float64)


def in_range(records: Records) -> tuple[Floats, Floats, Floats]:
    """Inputs [n, ...] with their least and greatest values, each of the shape of one record.

    Raises:
        InputError: They are texts, a value lies outside the range, or the range is empty.
    """
    inputs = numbers(records)
    low, high = (np.broadcast_to(np.asarray(end, dtype=np.float64), inputs.shape[1:])
                 for end in (records.low, records.high))  # fmt: skip
    outside = ((inputs < low) | (inputs > high)).reshape(len(inputs), -1)
    if outside.any():
        i = int(outside.any(1).argmax())
        value = inputs[i].reshape(-1)[int(outside[i].argmax())]
        raise InputError(
            f"Record {i + 1} holds the value {value:g}, outside the range of its features, "
            f"{low.reshape(-1)[int(outside[i].argmax())]:g} to {high.reshape(-1)[int(outside[i].argmax())]:g}."
        )
    if not np.any(low < high):
        raise InputError(f"The range of the features is empty: {low.min():g} to {high.max():g}.")
    return inputs, low, high


def _size(inputs: Floats, share: float) -> tuple[int, int, int]:
    """Rows, features, and how many of these are changed: at least one where any are."""
    rows, width = inputs.shape
    return rows, width, max(1, int(share * width)) if share > 0 else 0
