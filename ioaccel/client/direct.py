"""Reading the source itself, when no engine can: it is gone, or it cannot read that kind of store."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from ioaccel._core._client import BLOCK_SIZE, version_hash
from ioaccel.errors import RangeError
from ioaccel.sources import ObjectInfo, Source, SourceSpec, open_source, split_object_url, split_prefix_url
from ioaccel.sources.base import Fetched, anything, changed
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

    def read_all(self, extents: Sequence[Extent], timeout: float, version: int = 0) -> list[bytes]:
        """The bytes of each extent. Raises what the store says, naming the URL.

        If ``version`` is not 0, all are of the version with that hash, or ObjectChangedError is raised.
        """
        deadline = time.monotonic() + timeout
        if len(extents) == 1:
            return [self._read(extents[0], deadline, version)]
        with ThreadPoolExecutor(min(_THREADS, len(extents) or 1)) as pool:
            return list(pool.map(lambda extent: self._read(extent, deadline, version), extents))

    def _read(self, extent: Extent, deadline: float, version: int) -> bytes:
        url, offset, length = extent
        source, key, governor = self._open(url)
        if length == 0:
            _end(url, offset, 0, governor.call(url, lambda: source.stat(key), deadline))
            return b""

        def get(start: int, stop: int, same: str | None) -> Fetched:
            return governor.call(
                url,
                lambda: source.get(key, start, stop, same),
                deadline,
                size_of=lambda f: len(f.data),
                range=(start, stop),
            )

        stop = offset + (length if length is not None else _PIECE)
        try:
            first = get(offset, min(stop, offset + _PIECE), None)
        except RangeError:
            _end(url, offset, length, governor.call(url, lambda: source.stat(key), deadline))
            return b""
        if version not in (0, version_hash(first.info.version)):
            raise changed(url)
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

    def list_all(self, url: str, timeout: float) -> tuple[str, list[ObjectInfo]]:
        """The root that makes keys URLs, and everything below ``url``."""
        source, key, governor = self._prefix(url)
        found = governor.call(
            url, lambda: [info for page in source.list(key) for info in page], time.monotonic() + timeout
        )
        return source.url("X")[:-1], found

    def list_directory(
        self, url: str, timeout: float, probe: bool
    ) -> tuple[list[str], list[tuple[str, ObjectInfo]]]:
        """URLs of directories, and URL and information of objects, directly below ``url``; with ``probe``,
        of one object at any depth."""
        source, key, governor = self._prefix(url)
        directories, objects = governor.call(
            url,
            lambda: ([], anything(source, key)) if probe else source.list_dir(key),
            time.monotonic() + timeout,
        )
        return [source.url(d) for d in directories], [(source.url(o.key), o) for o in objects]

    def source_of(self, url: str) -> tuple[Source, str]:
        """What reads an object, and its key there."""
        return self._open(url)[:2]

    def _prefix(self, url: str) -> tuple[Source, str, Governor]:
        scheme, bucket, key = split_prefix_url(url)
        spec = self._spec_of(scheme)
        return self._source(spec, bucket), key, self._governors[spec.identity]

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
