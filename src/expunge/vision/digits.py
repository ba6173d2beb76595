"""Handwritten digits, 8 by 8 pixels, from scikit-learn's package: real images without a download."""

from __future__ import annotations

import torch

from expunge.errors import InputError
from expunge.vision.data import Images


def digits() -> Images:
    """1,797 images of ten classes, grey values as bytes.

    Raises:
        InputError: scikit-learn is missing.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise InputError("The digits need the extra 'vision': pip install 'expunge[vision]'.") from None
    found = load_digits()
    pixels = torch.tensor(found.images / 16 * 255).round().byte()[:, None]
    return Images.of(pixels, torch.tensor(found.target), names=[f"digit {i + 1}" for i in range(len(pixels))])
