"""The evidence store: logits and features of one classifier on every split, from one pass each, kept on disk."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from expunge.errors import InputError
from expunge.vision.data import Images, cluster_ids
from expunge.vision.forward import per_image
from expunge.vision.subject import Subject

Floats = NDArray[np.float64]


class EvidenceStore:
    """What one model says about every split, unaugmented."""

    def __init__(
        self,
        name: str,
        subject: Subject | Callable[[], Subject],
        splits: Mapping[str, Images],
        folder: Path | None = None,
        *,
        fingerprint: str | None = None,
    ) -> None:
        """Bind a model to the splits.

        Args:
            name: The model's name in the scorecard.
            subject: The model, or what loads it the first time something is missing on disk.
            splits: Named lists of images.
            folder: Where results are kept; None keeps them in memory only.
            fingerprint: The model's fingerprint if it is known, so that it need not be loaded for it.
        """
        self.name, self._subject, self._splits, self.folder = name, subject, splits, folder
        self._fingerprint = fingerprint
        self._memory: dict[str, dict[str, torch.Tensor]] = {}

    @property
    def subject(self) -> Subject:
        """The model, loaded now if it was not."""
        if not isinstance(self._subject, Subject):
            self._subject = self._subject()
        return self._subject

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits there are."""
        return tuple(self._splits)

    def images(self, split: str) -> Images:
        """The images of a split.

        Raises:
            InputError: There is no such split.
        """
        if split not in self._splits:
            raise InputError(f"No split {split!r}; there are {', '.join(self._splits)}.")
        return self._splits[split]

    def clusters(self, split: str) -> NDArray[np.int64]:
        """[n] identity number of each image."""
        return np.array(cluster_ids(self.images(split)), dtype=np.int64)

    def logits(self, split: str) -> Floats:
        """[n, C]."""
        return np.asarray(self._outputs(split)["logits"].double().numpy())

    def features(self, split: str) -> Floats:
        """[n, d] penultimate features."""
        return np.asarray(self._outputs(split)["features"].double().numpy())

    def labels(self, split: str) -> NDArray[np.int64]:
        """[n] classes, or [n, k] independent labels."""
        return np.asarray(self.images(split).labels.numpy())

    def losses(self, split: str) -> Floats:
        """[n] task loss of each image, nats."""
        found = per_image(self._outputs(split)["logits"].double(), self.images(split).labels)
        return np.asarray(found.numpy())

    def hits(self, split: str) -> Floats:
        """[n] share of an image's labels that are predicted right: 0 or 1 for classes."""
        return hits(self._outputs(split)["logits"], self.images(split))

    @cached_property
    def fingerprint(self) -> str:
        """The model's."""
        return self._fingerprint or self.subject.fingerprint()

    def _outputs(self, split: str) -> dict[str, torch.Tensor]:
        images = self.images(split)
        text = f"{self.fingerprint}|{images.digest}"
        key = f"outputs-{hashlib.blake2b(text.encode(), digest_size=12).hexdigest()}"
        if key not in self._memory:
            path = self.folder / f"{key}.safetensors" if self.folder else None
            if path and path.exists():
                self._memory[key] = load_file(path)
            else:
                logits, features = self.subject.outputs(images)
                self._memory[key] = {"logits": logits.contiguous(), "features": features.contiguous()}
                if path:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
                    save_file(self._memory[key], temporary)
                    os.replace(temporary, path)
        return self._memory[key]


def hits(logits: torch.Tensor, images: Images) -> Floats:
    """[n] share of each image's labels that the logits [n, C] predict right."""
    if images.labels.ndim == 2:
        right = ((logits > 0) == (images.labels > 0.5)).double().mean(1)
    else:
        right = (logits.argmax(1) == images.labels).double()
    return np.asarray(right.numpy())
