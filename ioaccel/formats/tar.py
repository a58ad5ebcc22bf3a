"""An index of the samples in tar shards: any of them by its number, without reading what stands before it."""

from __future__ import annotations

import hashlib
import itertools
import json
from bisect import bisect_right
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import pyarrow as pa

from ioaccel._core._client import version_hash
from ioaccel.client.cache import Cache
from ioaccel.client.file import ObjectFile
from ioaccel.client.listing import stat_many
from ioaccel.client.reader import Reader
from ioaccel.errors import FormatError, IOAccelError
from ioaccel.formats.braces import expand_urls
from ioaccel.formats.tables import Table, Tables
from ioaccel.formats.tarsamples import SCHEMA, Sample, ShardSamples, samples_of

# Shards that are indexed at once. Each has one request of a block (4 MiB) in flight, which gives 60 MB/s
# where the first byte takes 20 ms: 16 of them fill a line of 8 Gbit/s. They hold 64 MiB.
_THREADS = 16

_METADATA = b"ioaccel.shards"
# Goes into the names of the files: an index of another layout, or made by other rules, is not found.
_FORMAT = 1


class Shard(NamedTuple):
    """One tar file: its size in bytes, the version that was indexed, and how many samples it has."""

    url: str
    size: int
    version: str
    samples: int


class TarIndex:
    """The samples of some shards, in the order of the shards and of their members.

    It is a mapped file in the cache directory, which all processes of a node share; pickling it pickles
    the path. Any thread.
    """

    def __init__(self, table: Table) -> None:
        self._table = table
        self._reset()

    def _reset(self) -> None:
        self.shards = [Shard(*s) for s in json.loads(self._table.schema.metadata[_METADATA])]
        self._starts = [0, *itertools.accumulate(s.samples for s in self.shards)]
        self._batches: dict[int, ShardSamples] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"_table": self._table}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()

    def __len__(self) -> int:
        return self._starts[-1]

    def shard_of(self, index: int) -> Shard:
        """The shard in which a sample lies."""
        return self.shards[bisect_right(self._starts, index) - 1]

    def __getitem__(self, index: int) -> Sample:
        rows, row = self._locate(index)
        return rows[row]

    def extents(self, index: int) -> list[tuple[str, int, int]]:
        """``(url, offset, length)`` of each member of a sample."""
        rows, row = self._locate(index)
        url = self.shard_of(index).url
        return [(url, offset, length) for offset, length in rows.extents(row)]

    def _locate(self, index: int) -> tuple[ShardSamples, int]:
        number = bisect_right(self._starts, index) - 1
        rows = self._batches.get(number)
        if rows is None:
            rows = self._batches[number] = ShardSamples(self._table.batch(number))
        return rows, index - self._starts[number]


def tar_index(cache: Cache, urls: str | Iterable[str]) -> TarIndex:
    """The index of the shards that ``urls`` name, which may have brace ranges.

    It is made in one pass over the shards, and kept in the cache's first directory. When a shard has changed
    since (its version, in this session), that shard is indexed anew. Raises what the store says, ConfigError
    for urls that name nothing, and FormatError for a shard that is compressed, truncated or no tar archive.
    """
    reader = cache._reader
    names = [reader.canonical(url) for url in expand_urls(urls)]
    infos = stat_many(reader, names)
    versions: list[tuple[int, str]] = []
    for info in infos:
        if isinstance(info, IOAccelError):
            raise info
        versions.append((info.size, info.version))
    specs = reader.sources_of(names)
    identities = {scheme: spec.identity.hex() for scheme, spec in specs.items()}
    tables = Tables(cache.directories[0], f"tar-{_digest([_FORMAT, identities, names])}")
    content = _digest(versions)
    table = tables.find(content)
    if table is None:
        table = _make(reader, tables, content, names, versions)
    return TarIndex(table)


def _make(
    reader: Reader, tables: Tables, content: str, names: list[str], versions: list[tuple[int, str]]
) -> Table:
    kept = _unchanged(tables.latest(), names, versions)

    def index(number: int) -> pa.RecordBatch:
        size, version = versions[number]
        if number in kept:
            return kept[number]
        with ObjectFile(reader, names[number], size, version_hash(version)) as file:
            return samples_of(file)

    with ThreadPoolExecutor(min(_THREADS, len(names)), thread_name_prefix="tar-index") as pool:
        try:
            batches = list(pool.map(index, range(len(names))))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    shards = [
        Shard(name, size, version, batch.num_rows)
        for name, (size, version), batch in zip(names, versions, batches, strict=True)
    ]
    if not any(batch.num_rows for batch in batches):
        raise FormatError(
            f"{names[0]}: no sample in {len(names)} shards; members need names such as 0001.jpg and 0001.cls",
            url=names[0],
        )
    return tables.keep(content, SCHEMA.with_metadata({_METADATA: json.dumps(shards)}), batches)


def _unchanged(
    table: Table | None, names: list[str], versions: list[tuple[int, str]]
) -> dict[int, pa.RecordBatch]:
    """What an older index of the same shards knows of those that have not changed, by their numbers."""
    if table is None:
        return {}
    old = [Shard(*s) for s in json.loads(table.schema.metadata[_METADATA])]
    return {
        number: table.batch(number)
        for number, (shard, name, (size, version)) in enumerate(zip(old, names, versions, strict=True))
        if (shard.url, shard.size, shard.version) == (name, size, version)
    }


def _digest(facts: object) -> str:
    """A name for JSON-like facts; the same for all time."""
    return hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=16).hexdigest()
