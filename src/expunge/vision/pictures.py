"""Images for the report: one sheet of a few people, or of a few classes."""

from __future__ import annotations

import base64
import io

import torch
from torch import Tensor

from expunge.errors import InputError
from expunge.vision.data import Images

SUBJECTS, EACH = 12, 2
SMALLEST = 32  # pixels of a side as shown


def sheet(images: Images) -> str:
    """A PNG as a data URI: two images (or the only one) of each of up to twelve subjects, one subject a column.

    Raises:
        InputError: Pillow is missing.
    """
    try:
        from PIL import Image
    except ImportError:
        raise InputError("Images in reports need the extra 'vision': pip install 'expunge[vision]'.") from None

    columns = _columns(images)
    pixels = images.pixels(torch.tensor([row for column in columns for row in column]))
    tiles = pixels.view(len(columns), -1, *pixels.shape[1:])
    drawn = Image.fromarray(_laid_out(tiles).numpy())
    factor = -(-SMALLEST // tiles.shape[-1])
    if factor > 1:
        drawn = drawn.resize((drawn.width * factor, drawn.height * factor), Image.Resampling.NEAREST)
    stream = io.BytesIO()
    drawn.save(stream, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def _columns(images: Images) -> list[list[int]]:
    """Rows of the first images of the first subjects; of classes where nobody is shown.

    Subjects with fewer images are passed over, unless nobody has as many.
    """
    shown: dict[str, list[int]] = {}
    for row, cluster in enumerate(images.clusters):
        shown.setdefault(cluster or str(images.labels[row].tolist()), []).append(row)
    each = min(EACH, max(map(len, shown.values())))
    return [rows[:each] for rows in shown.values() if len(rows) >= each][:SUBJECTS]


def _laid_out(tiles: Tensor) -> Tensor:
    """[subjects, each, c, h, w] in [0, 1] to uint8 [height, width, 3], a white line between tiles."""
    framed = torch.nn.functional.pad(tiles.expand(-1, -1, 3, -1, -1), (1, 1, 1, 1), value=1.0)
    subjects, each, _, h, w = framed.shape
    flat = framed.permute(1, 3, 0, 4, 2).reshape(each * h, subjects * w, 3)
    return (255 * flat).round().to(torch.uint8).contiguous()
