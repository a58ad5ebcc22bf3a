"""Extents on their way: what a request asks of them, and what is known of each so far."""

from __future__ import annotations

import msgspec

from ioaccel._core._engine import BLOCK_SIZE
from ioaccel.engine.block import block_of
from ioaccel.engine.objects import Known, Target
from ioaccel.engine.passing import Ahead
from ioaccel.engine.sessions import Session
from ioaccel.errors import IOAccelError, RangeError, StoreTimeoutError


class Terms(msgspec.Struct, frozen=True):
    """What a request asks of all its extents."""

    session: Session
    oldest_ms: int  # a version that was last checked before does not count
    deadline: float  # monotonic
    urgent: bool = True  # somebody waits for it
    keep: bool = False  # a prefetch: what the cache has no room for is not fetched
    ahead: Ahead | None = None  # or as far ahead of the job as memory has room for it


class Item(msgspec.Struct):
    """One extent on its way."""

    target: Target
    offset: int
    length: int | None
    most: int | None = None  # bytes; of a longer extent to the end, no blocks are wanted
    known: Known | None = None
    blocks: dict[int, bytes] = {}  # block number -> location
    stored: bool = True  # every block is in the cache, none in transit
    deferred: bool = False  # too much for one answer
    refused: bool = False  # a prefetch for which there is no room
    needs_version: bool = False  # nothing can be fetched before the store has said size and version
    error: Exception | None = None
    late: StoreTimeoutError | None = None  # a flight that it joined ran out of time

    def block(self, number: int) -> bytes:
        """The key of a block."""
        return block_of(self.target.base, number)

    def covers(self, number: int) -> bool:
        """Whether all of a block is read, so that nobody has to read on in it; the object must be known."""
        assert self.known is not None
        size = self.known.size
        stop = size if self.length is None else self.offset + self.length
        if self.length is None and self.most is not None and size - self.offset > self.most:
            return False
        start = number * BLOCK_SIZE
        return self.offset <= start and min(start + BLOCK_SIZE, size) <= stop

    def wanted(self) -> list[bytes]:
        """The keys of the blocks to fetch; of an object that is not known yet, the first of them."""
        numbers = [self.offset // BLOCK_SIZE] if self.known is None else self.numbers()
        return [self.block(number) for number in numbers]

    def restart(self) -> None:
        self.known = None
        self.blocks.clear()

    def numbers(self) -> range:
        """The blocks that the extent touches; the object must be known."""
        assert self.known is not None
        length = self.known.size - self.offset if self.length is None else self.length
        if self.length is None and self.most is not None and length > self.most:
            length = 0
        if self.offset + length > self.known.size or length < 0:
            raise RangeError(
                f"{self.target.url} has {self.known.size} bytes, and {self.offset}..{self.offset + length} "
                "does not lie inside; read within its size",
                url=self.target.url,
                range=(self.offset, self.offset + max(length, 0)),
            )
        first = self.offset // BLOCK_SIZE
        return range(first, (self.offset + length - 1) // BLOCK_SIZE + 1 if length else first)

    def settled(self) -> bool:
        """Whether there is nothing left to do; an extent that lies outside its object has its error."""
        try:
            return (
                self.error is not None
                or self.deferred
                or self.refused
                or (self.known is not None and len(self.blocks) >= len(self.numbers()))
            )
        except RangeError as error:
            self.error = error
            return True


def as_ioaccel_error(error: Exception, url: str) -> IOAccelError:
    """What the client is told; anything unforeseen keeps its type and text."""
    if isinstance(error, IOAccelError):
        return error
    return IOAccelError(f"{url}: {type(error).__name__}: {error}", url=url)
