"""A cache made of the core alone: an index, its segments in memory, and views of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ioaccel._core._client import Keyring, View
from ioaccel._core._engine import (
    BLOCK_SIZE,
    CLIENT_PAGE_SIZE,
    DATA_START,
    Index,
    Writer,
    block_key,
    client_page,
)

IDENTITY = bytes(range(16))
NOW_MS = 1_700_000_000_000


class CoreCache:
    """One shard. Blocks are appended to segment ``number``, which ``start`` begins."""

    def __init__(self, segments: int = 3, segment_size: int = 20 << 20, *, hold: bool = True) -> None:
        self.segment_size = segment_size
        self.index = Index([segments], [segment_size])
        if hold:
            self.index.hold()
        self.fd = os.memfd_create("test-shard")
        os.ftruncate(self.fd, DATA_START + segments * segment_size)
        self.page_fd = os.memfd_create("test-page")
        os.ftruncate(self.page_fd, CLIENT_PAGE_SIZE + segments)
        os.pwrite(self.page_fd, client_page(segments), 0)
        self.ring = Keyring()
        self.ring.add("s3", IDENTITY)
        self.sequence = 0
        self.start(0)

    def start(self, number: int) -> None:
        """Begins a segment anew."""
        self.sequence += 1
        self.number = number
        generation = self.index.forget(0, number)
        self.writer = Writer(
            self.fd, self.start_of(number), self.segment_size, self.sequence, 0, number, generation
        )

    def start_of(self, number: int) -> int:
        return DATA_START + number * self.segment_size

    def put(self, url: str, data: bytes, version: str = "v1", checked_ms: int = NOW_MS) -> list[bytes]:
        """Caches an object; the locations of its blocks."""
        locations = []
        for offset in range(0, max(len(data), 1), BLOCK_SIZE):
            self.sequence += 1
            location = self.writer.append(
                self.index, block_key(IDENTITY, url, offset // BLOCK_SIZE), url, version, len(data), offset,
                checked_ms, self.sequence, data[offset : offset + BLOCK_SIZE],
            )  # fmt: skip
            assert location is not None, "the segment is full"
            locations.append(location)
        return locations

    def view(self) -> View:
        return View(self.index.control_fd(), self.index.index_fd(), os.dup(self.page_fd), [os.dup(self.fd)])

    def close(self) -> None:
        os.close(self.fd)
        os.close(self.page_fd)


def _memory_files() -> set[str]:
    """The descriptors of this process that stand for memory, as all do that the core makes."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # closed meanwhile
            target = str(entry.readlink())
            if "memfd:" in target:
                found.add(f"{entry.name} {target}")
    return found


@contextmanager
def no_descriptor_leaks() -> Iterator[None]:
    """Fails if a file stays open that was not open before."""
    before = _memory_files()
    yield
    assert _memory_files() - before == set()
