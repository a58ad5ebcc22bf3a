"""A batch: many extents in one buffer."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np
import numpy.typing as npt


class Batch(Sequence[memoryview]):
    """The bytes of many extents, back to back.

    ``buffer``   uint8 array of all bytes; writable, owned by the batch
    ``offsets``  int64 array of ``len(batch) + 1`` offsets: item ``i`` is ``buffer[offsets[i]:offsets[i+1]]``

    ``batch[i]`` is a memoryview of item ``i``. The memory is used again for a later batch once the
    batch and every view of it are gone; until then nothing changes it.
    """

    __slots__ = ("_view", "buffer", "offsets")

    def __init__(self, buffer: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64]) -> None:
        self.buffer = buffer
        self.offsets = offsets
        self._view = buffer.data

    @overload
    def __getitem__(self, index: int) -> memoryview: ...
    @overload
    def __getitem__(self, index: slice) -> list[memoryview]: ...
    def __getitem__(self, index: int | slice) -> memoryview | list[memoryview]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        count = len(self)
        if not -count <= index < count:
            raise IndexError(f"item {index} of a batch of {count}")
        index %= count
        return self._view[self.offsets[index] : self.offsets[index + 1]]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __iter__(self) -> Iterator[memoryview]:
        bounds = self.offsets.tolist()
        return (self._view[a:b] for a, b in itertools.pairwise(bounds))

    @property
    def nbytes(self) -> int:
        """Bytes of all items."""
        return int(self.offsets[-1])

    def __repr__(self) -> str:
        return f"<Batch of {len(self)} items, {self.nbytes} bytes>"
