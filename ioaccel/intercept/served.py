"""What a program gets to read from instead of the file that it opened."""

from __future__ import annotations

import errno
import io
import os
from time import perf_counter
from typing import Any, NoReturn

from ioaccel.client.file import ObjectFile
from ioaccel.intercept.reads import Read, Target, open_ledger


class _Descriptor:
    """A descriptor of the file itself, for what cannot do without (mmap); only a local file has one."""

    def __init__(self, path: str | None) -> None:
        self._path = path
        self._fd = -1

    def get(self, name: Any) -> int:
        if self._path is None:
            raise io.UnsupportedOperation(f"{name} has no descriptor")
        if self._fd < 0:
            self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        return self._fd

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class WholeFile(io.BytesIO):
    """A small object in memory. To read all of it makes no copy."""

    mode = "rb"
    _descriptor: _Descriptor | None = None

    def __init__(self, data: bytes, name: str, path: str | None = None) -> None:
        super().__init__(data)
        self.name = name
        self.size = len(data)
        self._path = path

    def fileno(self) -> int:
        """As that of a file, if it is one."""
        if self.closed:
            raise ValueError("I/O operation on closed file")
        if self._descriptor is None:
            self._descriptor = _Descriptor(self._path)
        return self._descriptor.get(self.name)

    def close(self) -> None:
        if self._descriptor is not None:
            self._descriptor.close()
        super().close()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """A file does not go before its beginning, where BytesIO stops there."""
        if offset < 0 and not self.closed:
            base = {io.SEEK_CUR: self.tell(), io.SEEK_END: self.size}.get(whence, 0)
            if base + offset < 0:
                if self._path is None:
                    raise ValueError("Seek before start of file")
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return super().seek(offset, whence)

    def peek(self, size: int = 0) -> bytes:
        """As BufferedReader's."""
        start = self.tell()
        data = self.read(max(size, io.DEFAULT_BUFFER_SIZE))
        super().seek(start)
        return data

    def writable(self) -> bool:
        return False

    def _refuse(self, *_: Any) -> NoReturn:
        raise io.UnsupportedOperation("not writable")

    write = writelines = truncate = _refuse

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _reopened, (self.getvalue(), self.name, self._path, self.tell())


def _reopened(data: bytes, name: str, path: str | None, position: int) -> WholeFile:
    file = WholeFile(data, name, path)
    file.seek(position)
    return file


class RangesFile(ObjectFile):
    """A large object, of which is noted what was read."""

    def __init__(
        self,
        target: Target,
        url: str,
        name: str,
        size: int,
        version: int,
        path: str | None = None,
    ) -> None:
        super().__init__(target.reader, url, size, version)
        self.name = name
        self._store = target.store
        self._path = path
        self._descriptor = _Descriptor(path)

    def readinto(self, target: Any) -> int:
        begun, start = perf_counter(), self.tell()
        count = super().readinto(target)
        self._note(start, count, begun)
        return count

    def readall(self) -> bytes:
        begun, start = perf_counter(), self.tell()
        data = super().readall()
        self._note(start, len(data), begun)
        return data

    def _note(self, start: int, count: int, begun: float) -> None:
        ledger = open_ledger()  # of whoever reads now: the file may be older
        if ledger is None:
            return
        reads = ledger.reads
        ledger.seconds += perf_counter() - begun
        if not count:
            return
        stop = start + count
        if reads and reads[-1][:2] == (self._store, self._url) and reads[-1].length is not None:
            last = reads[-1]
            if last.offset + (last.length or 0) == start:  # steps of one extent
                start = last.offset
                reads.pop()
        whole = start == 0 and stop == self.size
        reads.append(Read(self._store, self._url, start, None if whole else stop - start))

    def fileno(self) -> int:
        """As `WholeFile.fileno`."""
        self._check_open()
        return self._descriptor.get(self.name)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """As `WholeFile.seek`."""
        try:
            return super().seek(offset, whence)
        except ValueError:
            if self._path is None or self.closed or whence not in (io.SEEK_SET, io.SEEK_CUR, io.SEEK_END):
                raise
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL)) from None

    def close(self) -> None:
        if "_descriptor" in self.__dict__:
            self._descriptor.close()
        super().close()
