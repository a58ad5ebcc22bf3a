"""Reading the source itself, when no engine can: it is gone, or it cannot read that kind of store."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from ioaccel._core._client import BLOCK_SIZE
from ioaccel.errors import RangeError
from ioaccel.sources import ObjectInfo, Source, SourceSpec, open_source, split_object_url, split_prefix_url
from ioaccel.sources.base import Fetched
from ioaccel.sources.governor import Governor
from ioaccel.wire import Extent

# Requests in flight for one batch: without an engine every worker process has this many of its own.
_THREADS = 16

# One request for up to this many bytes: a large object is read in pieces, all of one version.
_PIECE = 8 * BLOCK_SIZE


class DirectReader:
    """Opens sources lazily, in this process. Any thread."""

    def __init__(self, spec_of: Callable[[str], SourceSpec]) -> None:
        self._spec_of = spec_of
        self._lock = threading.Lock()
        self._sources: dict[tuple[str, str], Source] = {}
        self._governors: defaultdict[bytes, Governor] = defaultdict(Governor)

    def read_all(self, extents: Sequence[Extent], timeout: float) -> list[bytes]:
        """The bytes of each extent. Raises what the store says, naming the URL."""
        deadline = time.monotonic() + timeout
        if len(extents) == 1:
            return [self._read(extents[0], deadline)]
        with ThreadPoolExecutor(min(_THREADS, len(extents) or 1)) as pool:
            return list(pool.map(lambda extent: self._read(extent, deadline), extents))

    async def aread(self, extent: Extent, timeout: float) -> bytes:
        """One extent, with the source's asynchronous form."""
        url, offset, length = extent
        source, key, governor = self._open(url)
        if length == 0:
            return await asyncio.to_thread(self._read, extent, time.monotonic() + timeout)
        stop = offset + (length if length is not None else _PIECE)
        async with asyncio.timeout(timeout):
            first = await source.aget(key, offset, min(stop, offset + _PIECE))
            pieces, at = [bytes(first.data)], offset + len(first.data)
            end = _end(url, offset, length, first.info)
            while at < end:
                more = await source.aget(key, at, min(end, at + _PIECE), first.info.version)
                pieces.append(bytes(more.data))
                at += len(more.data)
        return b"".join(pieces)

    def _read(self, extent: Extent, deadline: float) -> bytes:
        url, offset, length = extent
        source, key, governor = self._open(url)
        if length == 0:
            _end(url, offset, 0, governor.call(url, lambda: source.stat(key), deadline))
            return b""

        def get(start: int, stop: int, version: str | None) -> Fetched:
            return governor.call(
                url,
                lambda: source.get(key, start, stop, version),
                deadline,
                size_of=lambda f: len(f.data),
                range=(start, stop),
            )

        stop = offset + (length if length is not None else _PIECE)
        first = get(offset, min(stop, offset + _PIECE), None)
        end = _end(url, offset, length, first.info)
        pieces, at = [first.data], offset + len(first.data)
        while at < end:
            more = get(at, min(end, at + _PIECE), first.info.version)
            pieces.append(more.data)
            at += len(more.data)
        return bytes(pieces[0]) if len(pieces) == 1 else b"".join(memoryview(p) for p in pieces)

    def stat(self, url: str, timeout: float) -> ObjectInfo:
        source, key, governor = self._open(url)
        return governor.call(url, lambda: source.stat(key), time.monotonic() + timeout)

    def list_all(self, url: str) -> tuple[str, list[ObjectInfo]]:
        """The root that makes keys URLs, and everything below ``url``."""
        source, key = self._prefix(url)
        return source.url("X")[:-1], [info for page in source.list(key) for info in page]

    def list_directory(self, url: str) -> tuple[list[str], list[tuple[str, ObjectInfo]]]:
        """URLs of directories, and URL and information of objects, directly below ``url``."""
        source, key = self._prefix(url)
        directories, objects = source.list_dir(key)
        return [source.url(d) for d in directories], [(source.url(o.key), o) for o in objects]

    def _prefix(self, url: str) -> tuple[Source, str]:
        scheme, bucket, key = split_prefix_url(url)
        return self._source(self._spec_of(scheme), bucket), key

    def _open(self, url: str) -> tuple[Source, str, Governor]:
        scheme, bucket, key = split_object_url(url)
        spec = self._spec_of(scheme)
        return self._source(spec, bucket), key, self._governors[spec.identity]

    def _source(self, spec: SourceSpec, bucket: str) -> Source:
        with self._lock:
            source = self._sources.get((spec.scheme, bucket))
            if source is None:
                source = self._sources[spec.scheme, bucket] = open_source(spec, bucket)
            return source


def _end(url: str, offset: int, length: int | None, info: ObjectInfo) -> int:
    """Where the extent ends; RangeError if it does not lie inside the object."""
    end = info.size if length is None else offset + length
    if end > info.size or offset > info.size:
        raise RangeError(
            f"{url} has {info.size} bytes, and {offset}..{end} does not lie inside; read within its size",
            url=url,
            range=(offset, end),
        )
    return end
