"""Random changes of pictures in training: flips, affine maps, colour jitter, on whole batches."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

GREY = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Augmentation:
    """Each picture of a batch is changed on its own; draws from torch's global generator.

    The defaults are MUFAC's: flip with probability one half, shear up to 10 degrees, scale 0.8 to 1.2, no rotation,
    brightness, contrast and saturation jittered by 0.2 each, in this order.

    Attributes:
        flip: Probability of a horizontal flip.
        shear: Largest shear along x, in degrees.
        scale: Least and largest scale.
        jitter: Largest relative change of brightness, contrast and saturation.
    """

    flip: float = 0.5
    shear: float = 10.0
    scale: tuple[float, float] = (0.8, 1.2)
    jitter: float = 0.2

    def __call__(self, pixels: Tensor) -> Tensor:
        """[b, c, h, w] in [0, 1] -> the same."""
        return self._colours(self._moved(pixels))

    def _moved(self, pixels: Tensor) -> Tensor:
        n = len(pixels)
        low, high = self.scale
        scale = low + (high - low) * torch.rand(n)
        slope = torch.tan(math.radians(self.shear) * (2 * torch.rand(n) - 1))
        sign = torch.where(torch.rand(n) < self.flip, -1.0, 1.0)
        maps = torch.zeros(n, 2, 3)
        maps[:, 0, 0], maps[:, 0, 1], maps[:, 1, 1] = sign / scale, -slope / scale, 1 / scale
        grid = F.affine_grid(maps, list(pixels.shape), align_corners=False)
        return F.grid_sample(pixels, grid, mode="bilinear", padding_mode="zeros", align_corners=False)

    def _colours(self, pixels: Tensor) -> Tensor:
        n, channels = pixels.shape[:2]

        def factor() -> Tensor:
            return 1 + self.jitter * (2 * torch.rand(n, 1, 1, 1) - 1)

        pixels = (pixels * factor()).clamp(0, 1)
        weights = (
            torch.tensor(GREY).view(1, 3, 1, 1) if channels == 3 else torch.full((1, channels, 1, 1), 1 / channels)
        )
        mean = (pixels * weights).sum(1, keepdim=True).mean((2, 3), keepdim=True)
        pixels = (mean + (pixels - mean) * factor()).clamp(0, 1)
        grey = (pixels * weights).sum(1, keepdim=True)
        return (grey + (pixels - grey) * factor()).clamp(0, 1)
