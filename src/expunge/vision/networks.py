"""Classifiers of our own, small enough to be trained while one waits; saved as weights and a few numbers."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Shape:
    """What a `SmallCNN` is built from.

    Attributes:
        channels: Channels of an image.
        classes: Outputs.
        widths: Channels after each convolution; every one but the first halves the side.
        features: Penultimate features.
        norm: Whether convolutions are followed by batch normalisation.
    """

    channels: int
    classes: int
    widths: tuple[int, ...] = (16, 32, 64)
    features: int = 64
    norm: bool = True

    def to_dict(self) -> dict[str, object]:
        """Plain data."""
        return asdict(self)


class SmallCNN(nn.Module):
    """Convolutions with ReLU, a mean over the picture, a feature layer and a linear head."""

    def __init__(self, shape: Shape) -> None:
        """Fresh weights from torch's global generator."""
        super().__init__()
        self.shape = shape
        layers: list[nn.Module] = []
        before = shape.channels
        for i, width in enumerate(shape.widths):
            layers.append(nn.Conv2d(before, width, 3, stride=2 if i else 1, padding=1, bias=not shape.norm))
            if shape.norm:
                layers.append(nn.BatchNorm2d(width))
            layers.append(nn.ReLU())
            before = width
        self.convolutions = nn.Sequential(*layers)
        self.feature = nn.Linear(before, shape.features)
        self.head = nn.Linear(shape.features, shape.classes)

    def forward(self, images: Tensor) -> Tensor:
        """[b, c, h, w] in [0, 1] -> [b, C] logits."""
        states = self.convolutions(2 * images - 1).mean((2, 3))
        logits: Tensor = self.head(torch.relu(self.feature(states)))
        return logits


class Normalised(nn.Module):
    """A classifier that wants normalised pixels, taking pixels in [0, 1] at any size."""

    def __init__(self, inner: nn.Module, mean: tuple[float, ...], std: tuple[float, ...], size: int) -> None:
        """Wrap a model.

        Args:
            inner: Normalised images to logits, or to an output with ``logits``.
            mean: Of each channel.
            std: Of each channel.
            size: Side its images have.
        """
        super().__init__()
        self.inner, self.size = inner, size
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """[b, c, h, w] in [0, 1] -> [b, C] logits."""
        if images.shape[-2:] != (self.size, self.size):
            images = nn.functional.interpolate(
                images, (self.size, self.size), mode="bilinear", antialias=True, align_corners=False
            )
        mean, std = self.get_buffer("mean"), self.get_buffer("std")
        found = self.inner((images - mean) / std)
        logits: Tensor = getattr(found, "logits", found)
        return logits
