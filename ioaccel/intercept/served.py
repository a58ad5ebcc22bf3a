"""What a program gets to read from instead of the file that it opened."""

from __future__ import annotations

import io
import os
from time import perf_counter
from typing import TYPE_CHECKING, Any, NoReturn

from ioaccel.client.file import ObjectFile

if TYPE_CHECKING:
    from ioaccel.intercept.scope import Scope, Target


class WholeFile(io.BytesIO):
    """A small object in memory. To read all of it makes no copy."""

    mode = "rb"

    def __init__(self, data: bytes, name: str) -> None:
        super().__init__(data)
        self.name = name
        self.size = len(data)
        self._fd = -1

    def fileno(self) -> int:
        """A descriptor of the file itself, for what cannot do without (mmap); only a local file has one."""
        if self.closed:
            raise ValueError("I/O operation on closed file")
        if self._fd < 0:
            if not os.path.isabs(self.name):
                raise io.UnsupportedOperation(f"{self.name} has no descriptor")
            self._fd = os.open(self.name, os.O_RDONLY | os.O_CLOEXEC)
        return self._fd

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        super().close()

    def writable(self) -> bool:
        return False

    def _refuse(self, *_: Any) -> NoReturn:
        raise io.UnsupportedOperation("not writable")

    write = writelines = truncate = _refuse

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _reopened, (self.getvalue(), self.name, self.tell())


def _reopened(data: bytes, name: str, position: int) -> WholeFile:
    file = WholeFile(data, name)
    file.seek(position)
    return file


class RangesFile(ObjectFile):
    """A large object, of which the scope is told what was read."""

    def __init__(self, scope: Scope, target: Target, url: str, name: str, size: int, version: int) -> None:
        super().__init__(target.reader, url, size, version)
        self._scope = scope
        self._store = target.store
        self._fd = -1
        self.path = name

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
        from ioaccel.intercept.scope import Read

        if count:
            self._scope.reads.append(Read(self._store, self.name, start, count))
        self._scope.seconds += perf_counter() - begun

    def fileno(self) -> int:
        """As `WholeFile.fileno`."""
        if self.closed:
            raise ValueError("I/O operation on closed file")
        if self._fd < 0:
            if not os.path.isabs(self.path):
                raise io.UnsupportedOperation(f"{self.path} has no descriptor")
            self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        return self._fd

    def close(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            os.close(self._fd)
            self._fd = -1
        super().close()
