"""Class forgetting: which classes go, and how images are divided by them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from expunge.engine.sampling import generator
from expunge.errors import InputError
from expunge.vision.data import Images, folder_of
from expunge.vision.image_files import Broken, load_images

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")


def class_folders(
    path: str, side: int, broken: Broken = "stop", note: Callable[[str], None] = lambda _: None
) -> tuple[Images, list[str]]:
    """Images of a folder with one folder for each class, in the order of their names.

    Returns:
        The images, whose label is the number of their folder, and the folders' names.

    Raises:
        InputError: No such folder, fewer than two classes, a class without images, or unreadable images.
    """
    folder = folder_of(path, "a folder with one folder of images for each class is needed")
    names = sorted(p.name for p in folder.iterdir() if p.is_dir())
    if len(names) < 2:
        raise InputError(f"{path}: {len(names)} folders of images in it; one for each class is needed, at least two.")
    paths: list[Path] = []
    labels: list[int] = []
    for number, name in enumerate(names):
        found = sorted(p for p in (folder / name).rglob("*") if p.suffix.lower() in SUFFIXES)
        if not found:
            raise InputError(f"{folder / name}: no images in it ({', '.join(SUFFIXES)}).")
        paths += found
        labels += [number] * len(found)
    return load_images(paths, labels, [""] * len(paths), side, broken=broken, note=note), names


def random_classes(classes: int, count: int, seed: int) -> tuple[int, ...]:
    """Some classes, drawn uniformly.

    Raises:
        InputError: As many as there are, or more.
    """
    if not 0 < count < classes:
        raise InputError(f"count={count}: of {classes} classes between 1 and {classes - 1} can be forgotten.")
    return tuple(torch.randperm(classes, generator=generator(seed, "forgotten classes"))[:count].tolist())


def nearest_classes(images: Images, classes: int, first: int, count: int) -> tuple[int, ...]:
    """A class and those whose mean pictures are most like its own (Euclidean), nearest first."""
    if not 0 < count < classes:
        raise InputError(f"count={count}: of {classes} classes between 1 and {classes - 1} can be forgotten.")
    means = torch.stack(
        [images.pixels(torch.nonzero(images.labels == c)[:, 0]).mean(0).flatten() for c in range(classes)]
    )
    distance = (means - means[first]).norm(dim=1)
    return tuple(distance.argsort(stable=True)[:count].tolist())


def divide_by_class(images: Images, classes: int, gone: Sequence[int], seed: int) -> dict[str, Images]:
    """80% for training and 20% for tests, each divided into forgotten and kept classes.

    Returns:
        ``forget``, ``retain``, ``forget_test`` and ``test``.

    Raises:
        InputError: A class outside the classes, or none left.
    """
    outside = [c for c in gone if not 0 <= c < classes]
    if outside:
        raise InputError(f"forget: class {outside[0]} is outside the classes 0 to {classes - 1}.")
    if len(set(gone)) >= classes:
        raise InputError(f"forget names all {classes} classes; none would be left.")
    order = torch.randperm(len(images), generator=generator(seed, "test images"))
    cut = round(0.8 * len(images))
    forgotten = torch.isin(images.labels, torch.tensor(list(gone)))
    sides = {"": order[:cut].sort()[0], "_test": order[cut:].sort()[0]}
    return {
        "forget": images.take(sides[""][forgotten[sides[""]]]),
        "retain": images.take(sides[""][~forgotten[sides[""]]]),
        "forget_test": images.take(sides["_test"][forgotten[sides["_test"]]]),
        "test": images.take(sides["_test"][~forgotten[sides["_test"]]]),
    }
