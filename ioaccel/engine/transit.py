"""The transit shard: memory through which blocks pass that the cache has no room for.

A few segments in a memfd, reused first in, first out. Its blocks are never in the index, so they
are never hits; a client gets their locations in the answer to its request and copies them like
any other, checking the generation, and asks again if they were overwritten meanwhile.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from ioaccel._core._engine import BLOCK_SIZE, DATA_START, Index, Writer
from ioaccel.engine.block import Block

if TYPE_CHECKING:
    from typing_extensions import Buffer

# 256 MiB in all: twice what 128 requests of 1 MiB in flight can bring, in steps coarse enough to
# give every reader at least 7/8 of it before its bytes are overwritten.
SEGMENTS = 8
SEGMENT_SIZE = 8 * BLOCK_SIZE

# What one answer may hold in transit: so that a client can copy it before it is overwritten.
ANSWER_BYTES = 64 << 20


class Transit:
    """A ring of memory segments. Any thread."""

    def __init__(self, shard: int, index: Index) -> None:
        self._shard = shard
        self._index = index
        self._fd = os.memfd_create("ioaccel-transit", os.MFD_CLOEXEC)
        os.ftruncate(self._fd, DATA_START + SEGMENTS * SEGMENT_SIZE)
        self._changed = threading.Condition()
        self._sequence = 0
        self._appending = [0] * SEGMENTS
        self._generations = [0] * SEGMENTS
        self._writer, self._number = self._begin()
        self.passed_bytes = 0

    def reader_fd(self) -> int:
        """A new read-only descriptor, owned by the caller."""
        return os.open(f"/proc/self/fd/{self._fd}", os.O_RDONLY | os.O_CLOEXEC)

    def store(self, block: Block, data: Buffer, length: int) -> bytes:
        """Appends a block; its location."""
        while True:
            with self._changed:
                writer, number = self._writer, self._number
                self._appending[number] += 1
            location = None
            try:
                location = writer.append(
                    None, block.key, block.url, block.version, block.object_size,
                    block.object_offset, block.checked_ms, 0, data,
                )  # fmt: skip
            finally:
                with self._changed:
                    self._appending[number] -= 1
                    self._changed.notify_all()
            with self._changed:
                if location is not None:
                    self.passed_bytes += length
                    return location
                if self._writer is writer:
                    self._advance(writer)

    def holds(self, location: bytes) -> bool:
        """Whether a block is in transit, and has not been overwritten yet."""
        if not location or int.from_bytes(location[0:2], "little") != self._shard:
            return False
        number = int.from_bytes(location[4:8], "little")
        return self._generations[number] == int.from_bytes(location[8:12], "little")

    def _advance(self, full: Writer) -> None:
        """Goes over to the oldest segment, once nobody writes to it any more; the caller holds the lock."""
        oldest = self._sequence % SEGMENTS
        self._changed.wait_for(lambda: self._appending[oldest] == 0)
        if self._writer is full:  # or another thread has done it meanwhile
            self._writer, self._number = self._begin()

    def _begin(self) -> tuple[Writer, int]:
        """The oldest segment, begun anew."""
        number = self._sequence % SEGMENTS
        self._sequence += 1
        self._generations[number] = generation = self._index.forget(self._shard, number)
        start = DATA_START + number * SEGMENT_SIZE
        writer = Writer(self._fd, start, SEGMENT_SIZE, self._sequence, self._shard, number, generation)
        return writer, number

    def close(self) -> None:
        os.close(self._fd)
