"""The data set: a URL becomes a small tensor and a label. Both runs use this class and this code."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIDE = 32
"""Pixels a side of what the model sees."""

SHAPE = (3, SIDE, SIDE)


class ObjectDataset(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
    """A map-style data set with one object a sample, as a user would write it."""

    def __init__(self, urls: Sequence[str], labels: Sequence[int], read: Callable[[str], bytes]) -> None:
        """``read`` is called in the worker processes, once a sample."""
        self.urls = urls
        self.labels = labels
        self._read = read

    def __len__(self) -> int:
        return len(self.urls)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return decode(self._read(self.urls[index])), self.labels[index]


def decode(data: bytes) -> torch.Tensor:
    """A tensor of SHAPE, values from 0 to 1: the image, or of anything else its first bytes."""
    import PIL

    try:
        pixels = _image(data)
    except (PIL.UnidentifiedImageError, OSError):
        pixels = _leading_bytes(data)
    return torch.from_numpy(pixels.astype(np.float32) / 255)


def _image(data: bytes) -> NDArray[np.uint8]:
    import PIL.Image

    with PIL.Image.open(io.BytesIO(data)) as image:
        image.draft("RGB", (SIDE, SIDE))  # lets libjpeg skip the detail that the resize would drop
        small = image.convert("RGB").resize((SIDE, SIDE), PIL.Image.Resampling.BILINEAR)
    return np.asarray(small).transpose(2, 0, 1)


def _leading_bytes(data: bytes) -> NDArray[np.uint8]:
    size = int(np.prod(SHAPE))
    return np.frombuffer(data[:size].ljust(size, b"\0"), np.uint8).reshape(SHAPE)
