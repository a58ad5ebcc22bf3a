"""What samples were seen to read: kept in the cache directory, from epoch to epoch and run to run."""

from __future__ import annotations

import contextlib
import hashlib
import os
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ioaccel.formats.tables import numbers
from ioaccel.intercept import Read

if TYPE_CHECKING:
    import pyarrow as pa

# Rows that are kept as Python objects before they become a batch of a table.
_ROWS = 4096


class Trace:
    """Index -> reads. A memory-mapped table, rows sorted by index; new records replace it when it is kept.

    One writer (the main process of a job) and any number of readers.
    """

    def __init__(self, directory: str, name: str) -> None:
        digest = hashlib.blake2b(name.encode(), digest_size=16).hexdigest()
        self._path = Path(directory) / "traces" / f"{digest}.arrow"
        self._inode = 0
        self._table: pa.Table | None = None
        self._index: npt.NDArray[np.int64] = np.empty(0, np.int64)
        self._rows: list[tuple[int, Read]] = []
        self._batches: list[pa.RecordBatch] = []

    @property
    def known(self) -> bool:
        """Whether anything was recorded, up to the last `refresh`."""
        return self._table is not None

    def refresh(self) -> None:
        """Goes over to the newest table on disk; one ``stat`` if there is none."""
        try:
            inode = os.stat(self._path).st_ino
        except OSError:
            return
        if inode == self._inode:
            return
        import pyarrow as pa

        with contextlib.suppress(OSError, pa.ArrowInvalid):
            self._table = pa.ipc.open_file(pa.memory_map(str(self._path))).read_all()
            self._index = numbers(self._table["index"].chunk(0))
            self._inode = inode

    def of(self, indices: Sequence[int]) -> list[Read]:
        """What these samples read, in order."""
        if self._table is None or not len(indices):
            return []
        first = np.searchsorted(self._index, indices)
        last = np.searchsorted(self._index, indices, "right")
        rows = [row for a, b in zip(first.tolist(), last.tolist(), strict=True) for row in range(a, b)]
        columns = [self._table[name].chunk(0) for name in ("store", "url", "offset", "length")]
        return [Read(*(column[row].as_py() for column in columns)) for row in rows]

    def add(self, records: Iterable[tuple[int, Sequence[Read]]]) -> None:
        """Takes note of what samples have read, until `keep`."""
        for index, reads in records:
            self._rows += [(index, read) for read in reads]
        if len(self._rows) >= _ROWS:
            self._pack()

    def _pack(self) -> None:
        import pyarrow as pa

        if not self._rows:
            return
        indices, reads = zip(*self._rows, strict=True)
        stores, urls, offsets, lengths = zip(*reads, strict=True)
        self._rows = []
        self._batches.append(
            pa.record_batch(
                [
                    pa.array(indices, pa.int64()),
                    pa.array(stores).dictionary_encode().cast(pa.dictionary(pa.int32(), pa.string())),
                    pa.array(urls, pa.string()),
                    pa.array(offsets, pa.int64()),
                    pa.array(lengths, pa.int64()),
                ],
                ["index", "store", "url", "offset", "length"],
            )
        )

    def keep(self) -> None:
        """Writes what was added, together with what was known of other samples. OSError if it cannot."""
        import pyarrow as pa

        self._pack()
        if not self._batches:
            return
        new = pa.Table.from_batches(self._batches).unify_dictionaries()
        self._batches = []
        self.refresh()
        if self._table is not None:
            seen = pa.compute.is_in(self._table["index"], pa.compute.unique(new["index"]))
            new = pa.concat_tables([self._table.filter(pa.compute.invert(seen)), new]).unify_dictionaries()
        # A stable order: what a sample reads first is read first.
        order = np.argsort(numbers(new["index"].combine_chunks()), kind="stable")
        table = new.take(pa.array(order)).combine_chunks()
        self._path.parent.mkdir(exist_ok=True)
        fresh = self._path.with_name(f".{uuid.uuid4().hex}")
        try:
            with pa.OSFile(str(fresh), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
                writer.write_table(table)
            os.replace(fresh, self._path)
        finally:
            fresh.unlink(missing_ok=True)
        self.refresh()
