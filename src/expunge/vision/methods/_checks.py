"""The checks that methods share: ranges of hyper-parameters, and what kind of images they can work on."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch

from expunge.errors import InputError
from expunge.vision.data import Images


def public_name(method: object) -> str:
    """The name a method goes by in recipes: its file's name."""
    return type(method).__module__.rpartition(".")[2].replace("_", "-")


def above_zero(method: object, *names: str) -> None:
    """Refuse hyper-parameters that are not above 0.

    Raises:
        InputError: Names the method, the hyper-parameter and its value.
    """
    for name in names:
        value = getattr(method, name)
        if not 0 < value < float("inf"):
            raise InputError(f"{public_name(method)}: {name}={value} must be above 0.")


def not_negative(method: object, *names: str) -> None:
    """Refuse hyper-parameters below 0.

    Raises:
        InputError: Names the method, the hyper-parameter and its value.
    """
    for name in names:
        value = getattr(method, name)
        if not 0 <= value < float("inf"):
            raise InputError(f"{public_name(method)}: {name}={value} must be a number not below 0.")


def share(method: object, name: str) -> None:
    """Refuse a hyper-parameter outside [0, 1].

    Raises:
        InputError: Names the method, the hyper-parameter and its value.
    """
    value = getattr(method, name)
    if not 0 <= value <= 1:
        raise InputError(f"{public_name(method)}: {name}={value} must lie between 0 and 1.")


def one_of(method: object, name: str, allowed: Sequence[str]) -> None:
    """Refuse a value that is not among those there are.

    Raises:
        InputError: Names the method, the hyper-parameter, its value and what is allowed.
    """
    value = getattr(method, name)
    if value not in allowed:
        raise InputError(f"{public_name(method)}: {name}={value!r} must be one of {', '.join(allowed)}.")


def classes_only(method: object, images: Images) -> None:
    """Refuse images with several yes-or-no labels each, where the method speaks of one class an image.

    Raises:
        InputError: Names the method.
    """
    if images.labels.ndim == 2:
        raise InputError(
            f"{public_name(method)}: needs one class an image, and these images have {images.labels.shape[1]} labels "
            f"each."
        )


def whole_batches(method: object, job: Any) -> None:
    """Refuse to divide a batch whose images are compared with each other.

    Raises:
        InputError: Names the method and the setting.
    """
    training = job.training
    if training.micro_batch is not None and training.micro_batch < training.batch_size:
        raise InputError(
            f"{public_name(method)}: compares the images of a batch with each other, so micro_batch="
            f"{training.micro_batch} would change the method; leave it out or lower batch_size."
        )
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError(
            f"{public_name(method)}: compares the images of a batch with each other; run it in a single process."
        )


def gone_classes(forget: Images, retain: Images) -> list[int]:
    """Classes that are forgotten entirely: some image of D_f has them, none of D_r."""
    return sorted(set(torch.unique(forget.labels).tolist()) - set(torch.unique(retain.labels).tolist()))
