"""Tables in which a data set looks its samples up: Arrow files in the cache directory, mapped by all.

A table is named by what it was made from (``family``) and by what is in it (``content``). So a process that
was handed a data set finds the very table that the data set was made with, or an error; never a newer one, in
which sample 7 may be another sample.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ioaccel.errors import ObjectChangedError

# Tables of a family that no data set was made with for so long are removed when a new one is written. A
# running job needs the file only to start workers; then it has it mapped.
_KEEP_SECONDS = 7 * 24 * 3600.0


class Table:
    """One such table. It pickles as its path; in memory, if it could not be written, as its bytes."""

    def __init__(self, path: str | None, data: bytes | None = None) -> None:
        self._path = path
        self._data = data
        self._buffer: pa.Buffer | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"_path": self._path, "_data": self._data, "_buffer": None}

    @property
    def schema(self) -> pa.Schema:
        """The columns, and as metadata whatever the writer put there."""
        return self._open().schema

    def batch(self, number: int) -> pa.RecordBatch:
        """A record batch, as it was written; nothing is copied."""
        return self._open().get_batch(number)

    def read(self) -> pa.Table:
        """All of it; nothing is copied."""
        return self._open().read_all()

    def _open(self) -> pa.ipc.RecordBatchFileReader:
        """A new reader: one serves one thread only, and a lock for it would have to survive forks."""
        if self._buffer is None:
            self._buffer = self._map() if self._data is None else pa.py_buffer(self._data)
        return pa.ipc.open_file(self._buffer)

    def _map(self) -> pa.Buffer:
        try:
            with pa.memory_map(self._path) as file:
                return file.read_buffer()  # it stays mapped, without a descriptor
        except FileNotFoundError as error:
            raise ObjectChangedError(
                f"{self._path}: the table that this data set was made with is gone; make the data set anew",
                url=self._path,
            ) from error


class Tables:
    """The tables of one family, in a cache directory."""

    def __init__(self, cache_directory: str, family: str) -> None:
        self._directory = Path(cache_directory, "indexes")
        self._family = family

    def find(self, content: str) -> Table | None:
        """The table with this content, if it is kept."""
        return _usable(self._path(content))

    def latest(self) -> Table | None:
        """The one that was used last, whatever its content."""
        for path in sorted(self._directory.glob(f"{self._family}-*.arrow"), key=_used, reverse=True):
            if (table := _usable(path)) is not None:
                return table
        return None

    def keep(self, content: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> Table:
        """Writes a table; into memory, if the disk does not take it: the job need not fail for that."""
        batches = list(batches)
        path = self._path(content)
        scratch = path.with_suffix(f".{os.getpid()}.{threading.get_ident()}.tmp")
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            try:
                with open(scratch, "wb") as file:
                    _write(file, schema, batches)
                    file.flush()
                    os.fsync(file.fileno())  # a table with holes, after a power cut, would name wrong bytes
                os.replace(scratch, path)
            finally:
                scratch.unlink(missing_ok=True)
            self._prune(path)
        except OSError:
            sink = pa.BufferOutputStream()
            _write(sink, schema, batches)
            return Table(None, sink.getvalue().to_pybytes())
        return Table(str(path))

    def _path(self, content: str) -> Path:
        return self._directory / f"{self._family}-{content}.arrow"

    def _prune(self, current: Path) -> None:
        oldest = time.time() - _KEEP_SECONDS
        for path in self._directory.glob(f"{self._family}-*"):
            if path != current and _used(path) < oldest:
                path.unlink(missing_ok=True)


def numbers(array: pa.Array) -> npt.NDArray[Any]:
    """The integers of an Arrow array without nulls; nothing is copied.

    What Arrow's own ``to_numpy`` gives, which first imports pandas: 0.3 s and 40 MB for each worker.
    """
    kind = np.dtype(f"i{array.type.bit_width // 8}")
    return np.frombuffer(array.buffers()[1], kind, len(array), array.offset * kind.itemsize)


def _write(sink: Any, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
    with pa.ipc.new_file(sink, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)


def _usable(path: Path) -> Table | None:
    """The table in a file, which counts as used from now on; None if there is none, or no whole one."""
    table = Table(str(path))
    try:
        os.utime(path)
        _ = table.schema
    except (OSError, pa.ArrowInvalid):
        return None
    return table


def _used(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
