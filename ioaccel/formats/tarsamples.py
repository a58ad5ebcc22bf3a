"""The samples of one tar shard, in WebDataset's layout, as a record batch."""

from __future__ import annotations

import re
from typing import NamedTuple

import pyarrow as pa

from ioaccel.client.file import ObjectFile
from ioaccel.errors import FormatError
from ioaccel.formats.tables import numbers
from ioaccel.formats.tarheaders import members

# Both are webdataset's own (tariterators.py): what it makes of a name must be made of it here.
_NAME = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$")
_METADATA = re.compile(r"__[^/]*__($|/)")

_MEMBER = pa.struct([("extension", pa.binary()), ("offset", pa.int64()), ("length", pa.int64())])
SCHEMA = pa.schema([("key", pa.binary()), ("members", pa.list_(_MEMBER))])
"""A row is a sample. Names are bytes: those in a tar archive need not be UTF-8."""


class Sample(NamedTuple):
    """The ``key`` of a sample, and where its parts lie: ``(extension, offset, length)`` of each, in bytes."""

    key: str
    members: list[tuple[str, int, int]]


def samples_of(file: ObjectFile) -> pa.RecordBatch:
    """The samples of a shard, in order, by `SCHEMA`.

    Members that follow each other and have the same name up to the first dot of its last component are a
    sample; the rest of the name, in lower case, is the extension. FormatError as `members`, and if a sample
    has an extension twice.
    """
    keys: list[bytes] = []
    starts: list[int] = []
    extensions: list[bytes] = []
    offsets: list[int] = []
    lengths: list[int] = []
    current: str | None = None
    seen: set[str] = set()
    for name, offset, length in members(file):
        match = _NAME.match(name)
        if match is None or _METADATA.match(name):
            continue
        key, extension = match[1], match[2].lower()
        if key != current:
            current = key
            seen = {"__key__", "__url__"}
            keys.append(_encode(key))
            starts.append(len(extensions))
        if extension in seen:
            raise FormatError(
                f"{file.name} cannot be read as a shard: sample {key!r} has two members {extension!r}; "
                "give its samples different names",
                url=file.name,
            )
        seen.add(extension)
        extensions.append(_encode(extension))
        offsets.append(offset)
        lengths.append(length)
    starts.append(len(extensions))
    parts = [pa.array(extensions, pa.binary()), pa.array(offsets, pa.int64()), pa.array(lengths, pa.int64())]
    rows = pa.ListArray.from_arrays(
        pa.array(starts, pa.int32()),
        pa.StructArray.from_arrays(parts, fields=list(_MEMBER)),
        type=pa.list_(_MEMBER),
    )
    return pa.record_batch([pa.array(keys, pa.binary()), rows], schema=SCHEMA)


class ShardSamples:
    """The rows of such a batch, one at a time, without Python objects for all of them."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        rows = batch.column("members")
        self._keys = batch.column("key")
        self._starts = numbers(rows.offsets)
        self._extensions = rows.values.field("extension")
        self._offsets = numbers(rows.values.field("offset"))
        self._lengths = numbers(rows.values.field("length"))

    def __getitem__(self, row: int) -> Sample:
        start, stop = self._starts[row : row + 2].tolist()
        extensions = [_decode(self._extensions[i].as_py()) for i in range(start, stop)]
        offsets = self._offsets[start:stop].tolist()
        lengths = self._lengths[start:stop].tolist()
        return Sample(_decode(self._keys[row].as_py()), list(zip(extensions, offsets, lengths, strict=True)))

    def extents(self, row: int) -> list[tuple[int, int]]:
        """``(offset, length)`` of each member of a sample."""
        start, stop = self._starts[row : row + 2].tolist()
        offsets: list[int] = self._offsets[start:stop].tolist()
        return list(zip(offsets, self._lengths[start:stop].tolist(), strict=True))


def _encode(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _decode(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
