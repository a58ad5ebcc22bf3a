"""An object as a binary file."""

from __future__ import annotations

import io
from types import TracebackType
from typing import Any, Self

from aiofiles.threadpool.binary import AsyncBufferedReader

from ioaccel._core._client import BLOCK_SIZE
from ioaccel.client.reader import Reader

# Read ahead for those who read in small steps (tarfile headers, readline): a step costs 2 us from the
# cache, too. What is larger goes straight into the caller's memory, but for its last part.
BUFFER_SIZE = 32 << 10


class ObjectFile(io.RawIOBase):
    """An object of ``size`` bytes, read through the cache; seekable, read-only, unbuffered.

    Every read is of the version that was opened, or raises ObjectChangedError.
    """

    def __init__(self, reader: Reader, url: str, size: int, version: int) -> None:
        self._reader = reader
        self._url = url
        self._size = size
        self._version = version
        self._position = 0
        self._missed = -1  # where the last read ended that was not cached
        self._rest = memoryview(b"")  # what was fetched beyond it, and not kept by the cache
        self.name = url
        self.mode = "rb"

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    @property
    def size(self) -> int:
        """Bytes of the object."""
        return self._size

    def readinto(self, target: Any) -> int:
        self._check_open()
        view = memoryview(target).cast("B")
        view = view[: max(0, self._size - self._position)]
        if not view:
            return 0
        if self._rest and self._position == self._missed:
            view = view[: len(self._rest)]
            view[:] = self._rest[: len(view)]
            self._missed, self._rest = self._missed + len(view), self._rest[len(view) :]
        elif not self._reader.hit_into(self._url, self._position, view, self._version):
            self._miss(view)
        self._position += len(view)
        return len(view)

    def _miss(self, view: memoryview) -> None:
        """Fills ``view`` from the store. If the step before it was missing, too, and was not kept, the rest
        of the block comes along: without it, the engine would be asked for each small step."""
        start, stop = self._position, self._position + len(view)
        end = stop
        if start == self._missed:
            end = max(stop, min(self._size, (start // BLOCK_SIZE + 1) * BLOCK_SIZE))
        data = self._reader.read_version((self._url, start, end - start), self._version)[0]
        view[:] = data[: len(view)]
        self._missed, self._rest = stop, data[len(view) :]

    def readall(self) -> bytes:
        """The rest of the object, in one read."""
        self._check_open()
        rest = max(0, self._size - self._position)
        if rest == 0:
            return b""
        data = self._reader.hit(self._url, self._position, rest, self._version)
        if data is None:
            data = bytes(self._reader.read_version((self._url, self._position, rest), self._version)[0])
        self._position += rest
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._check_open()
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}.get(whence)
        if base is None:
            raise ValueError(f"invalid whence {whence}")
        if base + offset < 0:
            raise ValueError(f"negative seek position {base + offset} in {self.name}")
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        self._check_open()
        return self._position

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError(f"I/O operation on closed file {self.name}")

    def __repr__(self) -> str:
        return f"<ObjectFile {self.name!r}, {self._size} bytes>"


class BufferedObjectFile(io.BufferedReader):
    """What ``cache.open`` returns: `ObjectFile` with a buffer, and its ``size``."""

    raw: ObjectFile

    @property
    def size(self) -> int:
        """Bytes of the object."""
        return self.raw.size

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickles as the object, opened at the same position."""
        raw = self.raw
        return _reopen, (raw._reader, raw._url, raw.size, raw._version, self.tell())


class AsyncObjectFile(AsyncBufferedReader):  # type: ignore[misc]  # aiofiles has no types
    """What ``cache.aopen`` returns: aiofiles' face of `BufferedObjectFile`, whose calls are awaited."""

    _file: BufferedObjectFile

    @property
    def size(self) -> int:
        """Bytes of the object."""
        return self._file.size

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def open_object(reader: Reader, url: str) -> BufferedObjectFile:
    """Opens an object. The errors of the store are raised here, not at the first read."""
    url = reader.canonical(url)
    return BufferedObjectFile(ObjectFile(reader, url, *reader.size_and_version(url)), BUFFER_SIZE)


def _reopen(reader: Reader, url: str, size: int, version: int, position: int) -> BufferedObjectFile:
    file = BufferedObjectFile(ObjectFile(reader, url, size, version), BUFFER_SIZE)
    file.seek(position)
    return file
