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
from ioaccel.intercept.reads import Read

if TYPE_CHECKING:
    import pyarrow as pa

# Rows that are kept as Python objects before they become a batch of a table.
_ROWS = 4096

_COLUMNS = ["index", "store", "url", "offset", "length"]


class Trace:
    """Index -> reads. A memory-mapped table, rows sorted by index; new records replace it when it is kept.

    One writer (the main process of a job) and any number of readers.
    """

    def __init__(self, directory: str, name: str) -> None:
        digest = hashlib.blake2b(name.encode(), digest_size=16).hexdigest()
        self._path = Path(directory) / "traces" / f"{digest}.arrow"
        self._seen = (0, 0)  # inode and time of the table that is mapped
        self._table: pa.Table | None = None
        self._index: npt.NDArray[np.int64] = np.empty(0, np.int64)
        self.samples = 0  # of so many something was recorded
        self._rows: list[tuple[int, int, Read]] = []  # number of the record, index, read
        self._batches: list[pa.RecordBatch] = []
        self._records = 0

    @property
    def known(self) -> bool:
        """Whether anything was recorded, up to the last `refresh`."""
        return self._table is not None

    def refresh(self) -> None:
        """Goes over to the newest table on disk; one ``stat`` if there is none."""
        try:
            found = os.stat(self._path)
        except OSError:
            return
        seen = found.st_ino, found.st_mtime_ns
        if seen == self._seen:
            return
        self._seen = seen
        import pyarrow as pa

        with contextlib.suppress(OSError, pa.ArrowException):
            table = pa.ipc.open_file(pa.memory_map(str(self._path))).read_all()
            if table.column_names == _COLUMNS and table.num_rows:
                self._table = table.combine_chunks()
                self._index = numbers(self._table["index"].chunk(0))
                self.samples = int(np.count_nonzero(np.diff(self._index))) + 1

    def of(self, indices: Sequence[int]) -> list[Read]:
        """What these samples read, in order."""
        return [read for reads in self.each_of(indices) for read in reads]

    def each_of(self, indices: Sequence[int]) -> list[list[Read]]:
        """The same, by sample."""
        if self._table is None or not len(indices):
            return [[] for _ in indices]
        first = np.searchsorted(self._index, indices).tolist()
        last = np.searchsorted(self._index, indices, "right").tolist()
        # One scalar at a time, and not `take`: that imports pandas.
        columns = [self._table[name].chunk(0) for name in _COLUMNS[1:]]
        return [
            [Read(*(column[row].as_py() for column in columns)) for row in range(a, b)]
            for a, b in zip(first, last, strict=True)
        ]

    def add(self, records: Iterable[tuple[int, Sequence[Read]]]) -> None:
        """Takes note of what samples have read, until `keep`."""
        for index, reads in records:
            self._records += 1
            self._rows += [(self._records, index, read) for read in reads]
        if len(self._rows) >= _ROWS:
            self._pack()

    def _pack(self) -> None:
        import pyarrow as pa

        if not self._rows:
            return
        records, indices, reads = zip(*self._rows, strict=True)
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
                    pa.array(records, pa.int64()),
                ],
                [*_COLUMNS, "record"],
            )
        )

    def keep(self) -> None:
        """Writes what was added, together with what was known of other samples. OSError if it cannot."""
        import pyarrow as pa
        from pyarrow import compute

        self._pack()
        if not self._batches:
            return
        new = _latest(pa.Table.from_batches(self._batches).unify_dictionaries())
        self._batches = []
        self.refresh()
        if self._table is not None:
            seen = compute.is_in(self._table["index"], compute.unique(new["index"]))
            new = pa.concat_tables([self._table.filter(compute.invert(seen)), new]).unify_dictionaries()
        # A stable order: what a sample reads first is read first.
        order = np.argsort(numbers(new["index"].combine_chunks()), kind="stable")
        table = new.take(pa.array(order)).combine_chunks()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self._path.with_name(f".{uuid.uuid4().hex}")
        try:
            with pa.OSFile(str(fresh), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
                writer.write_table(table)
            os.replace(fresh, self._path)
        finally:
            fresh.unlink(missing_ok=True)
        self.refresh()


def _latest(new: pa.Table) -> pa.Table:
    """Of samples that were read more than once, the last time."""
    import numpy as np
    import pyarrow as pa

    index, record = new["index"].to_numpy(), new["record"].to_numpy()
    order = np.lexsort((record, index))
    last = np.searchsorted(index[order], index, "right") - 1
    return new.filter(pa.array(record == record[order][last])).drop_columns("record")
