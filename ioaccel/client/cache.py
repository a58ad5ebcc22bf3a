"""The public face of a cache."""

from __future__ import annotations

import asyncio
import os
import time
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from aiofiles.base import AiofilesContextManager

from ioaccel import wire
from ioaccel.client.batch import Batch
from ioaccel.client.file import AsyncObjectFile, BufferedObjectFile, open_object
from ioaccel.client.reader import Reader
from ioaccel.config import CacheConfig, PathLike, Size, load
from ioaccel.errors import ConfigError, EngineError, IOAccelError

if TYPE_CHECKING:
    import pyarrow as pa

Url = str | os.PathLike[str]
Extent = Url | tuple[Url, int, int | None]

# A prefix is looked for in the headers of all segments.
_EVICT_SECONDS = 600.0

# URLs of one message that asks about many.
_MANY = 1000


class ObjectInfo(NamedTuple):
    """One object: ``size`` in bytes; ``version`` is its etag, or mtime and size where there is none."""

    url: str
    size: int
    version: str


class Prefetched(NamedTuple):
    """How a prefetch that was waited for went, in extents.

    ``stored`` are in the cache; ``passed`` are not, because it is full or they cannot be cached;
    ``errors`` failed.
    """

    stored: int
    passed: int
    errors: list[IOAccelError]


class Evicted(NamedTuple):
    """What was removed from the cache."""

    blocks: int
    bytes: int


class Verified(NamedTuple):
    """What was checked; ``corrupt`` are the URLs of blocks that were removed, to be fetched anew."""

    blocks: int
    bytes: int
    corrupt: list[str]
    errors: list[str]


class Cache:
    """A cache of objects on local disks. Made by `ioaccel.connect`.

    It may be used from any thread, pickled, and taken along into forked and spawned processes: they
    all read the same cache and belong to the same session. Closing it, or leaving its ``with`` block,
    closes it in this process.
    """

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    # ---- reading --------------------------------------------------------------------------------

    def read(self, url: Url, offset: int = 0, length: int | None = None) -> bytes:
        """The bytes of an object from ``offset`` on, ``length`` of them or all that follow.

        Raises ObjectNotFoundError, AccessDeniedError, RangeError (the range does not lie inside the
        object), StoreError and its kin; each names the URL.
        """
        if offset < 0 or (length is not None and length < 0):
            raise ConfigError(f"{url}: offset {offset} and length {length} cannot be negative", url=str(url))
        if type(url) is str:
            data = self._reader.hit(url, offset, length)
            if data is not None:
                return data
        return bytes(self._reader.read_batch([(url, offset, length)])[0])

    def read_many(self, extents: Iterable[Extent]) -> Batch:
        """The bytes of many extents, each a URL or ``(url, offset, length or None)``, in one buffer.

        What is cached is copied by several threads without the GIL; all that is missing is asked of
        the engine in one message, and fetched at once. Raises the first error among the extents.
        """
        return self._reader.read_batch(extents)

    def open(self, url: Url, mode: str = "rb") -> BufferedObjectFile:
        """The object as a seekable binary file, with ``name`` (the URL) and ``size`` (bytes)."""
        if mode != "rb":
            raise ConfigError(
                f"cannot open {url} with mode {mode!r}: the cache only reads, and only bytes (mode 'rb'); "
                "io.TextIOWrapper(file) makes text of them",
                url=os.fspath(url),
            )
        return open_object(self._reader, os.fspath(url))

    # ---- knowing --------------------------------------------------------------------------------

    def stat(self, url: Url) -> ObjectInfo:
        """Size and version of an object, checked as ``consistency`` asks."""
        reader = self._reader
        name = reader.canonical(url)
        answer = reader.ask(
            wire.Stat(reader.session, reader.sources_of([name]), [name], reader.oldest_ms(), reader.timeout)
        )
        result = answer.results[0] if isinstance(answer, wire.Stats) else None
        if isinstance(result, wire.Failure):
            raise result.error()
        if isinstance(result, wire.ObjectStat):
            return ObjectInfo(name, result.size, result.version)
        info = reader.direct.stat(name, reader.timeout)
        return ObjectInfo(name, info.size, info.version)

    def manifest(self, url: Url, *, refresh: bool = False) -> pa.Table:
        """Everything stored below ``url``: a table of ``key``, ``size`` (bytes) and ``version``.

        The URL of a row is the table's metadata ``ioaccel.root`` plus its key. The table is kept on
        disk and memory-mapped. If it is older than the session it is listed anew; a listing that takes
        more than a third of a second then goes on in the background, and the kept table is served;
        ``refresh=True`` waits for it.
        """
        from ioaccel.client.manifest import read_manifest

        return read_manifest(self._reader, self._reader.canonical(url), refresh)

    def status(self) -> dict[str, Any]:
        """The engine's counters since it started, over all its clients; see docs/METRICS.md."""
        answer = self._reader.ask(wire.Status())
        if not isinstance(answer, wire.State):
            raise self._no_engine()
        return answer.status

    def resident(self, urls: Sequence[Url]) -> list[int]:
        """How many bytes of each object are cached. Asks the store nothing."""
        names = [url for url, _, _ in self._reader.extents(urls)]
        cached: list[int] = []
        for start in range(0, len(names), _MANY):
            some = names[start : start + _MANY]
            answer = self._reader.ask(wire.Residency(self._reader.sources_of(some), some))
            if not isinstance(answer, wire.Resident):
                raise self._no_engine()
            cached += answer.cached_bytes
        return cached

    # ---- changing -------------------------------------------------------------------------------

    def prefetch(self, extents: Iterable[Extent], *, wait: bool = False) -> Prefetched | None:
        """Asks for extents to be cached soon, in the background; with ``wait``, until they are.

        It ends early when the cache is full. Errors of the store show when the object is read, or,
        with ``wait``, in the result.
        """
        reader = self._reader
        wanted = reader.extents(extents)
        answer = reader.ask(
            wire.Prefetch(
                reader.session,
                reader.sources_of(e[0] for e in wanted),
                wanted,
                reader.oldest_ms(),
                reader.timeout,
                wait,
            ),
            # Each wave of a prefetch has the timeout to itself.
            reader.timeout * (1 + len(wanted) // 512) if wait else None,
        )
        if not wait:
            return None
        if not isinstance(answer, wire.Prefetched):
            raise self._no_engine()
        return Prefetched(answer.stored, answer.passed, [f.error() for f in answer.failures])

    def evict(self, url: Url) -> Evicted:
        """Removes an object from the cache, or everything below a URL that ends with ``/``."""
        text = os.fspath(url)
        name = self._reader.canonical(text)
        if text.endswith("/") and not name.endswith("/"):
            name += "/"
        answer = self._reader.ask(wire.Evict(self._reader.sources_of([name]), name), _EVICT_SECONDS)
        if not isinstance(answer, wire.Evicted):
            raise self._no_engine()
        return Evicted(answer.blocks, answer.bytes)

    def verify(self, progress: Callable[[int, int], None] | None = None) -> Verified:
        """Reads every cached block and checks its CRCs; corrupt ones are removed and fetched anew.

        ``progress(done, total)`` is called after each of ``total`` segments.
        """
        blocks = size = 0
        corrupt: list[str] = []
        errors: list[str] = []
        for position, answer in self._over_segments(wire.Verify):
            assert isinstance(answer, wire.Verified)
            blocks += answer.blocks
            size += answer.bytes
            corrupt += answer.corrupt
            errors += [answer.error] if answer.error else []
            if progress:
                progress(position + 1, answer.positions)
        return Verified(blocks, size, corrupt, errors)

    def usage(self, depth: int = 1) -> dict[str, tuple[int, int]]:
        """``{prefix: (blocks, bytes)}`` of what is cached; ``depth`` path components below the bucket."""
        totals: dict[str, tuple[int, int]] = {}
        for _, answer in self._over_segments(lambda position: wire.Usage(position, depth)):
            assert isinstance(answer, wire.Used)
            for prefix, (blocks, size) in answer.prefixes.items():
                before = totals.get(prefix, (0, 0))
                totals[prefix] = (before[0] + blocks, before[1] + size)
        return dict(sorted(totals.items()))

    def _over_segments(
        self, message: Callable[[int], wire.Message]
    ) -> Iterator[tuple[int, wire.Verified | wire.Used]]:
        position, positions = 0, 1
        while position < positions:
            answer = self._reader.ask(message(position))
            if not isinstance(answer, (wire.Verified, wire.Used)):
                raise self._no_engine()
            positions = answer.positions
            yield position, answer
            position += 1

    def _no_engine(self) -> EngineError:
        directory = self._reader.config.directories[0]
        return EngineError(f"no engine serves {directory} for now; see {directory}/engine.log", url=directory)

    # ---- asynchronous twins ---------------------------------------------------------------------
    #
    # A hit is served at once: it takes microseconds, less than a thread would need to start.
    # Everything else waits in a thread, and the event loop goes on.

    async def aread(self, url: Url, offset: int = 0, length: int | None = None) -> bytes:
        """`read`, for asynchronous code."""
        if type(url) is str and offset >= 0 and (length is None or length >= 0):
            data = self._reader.hit(url, offset, length)
            if data is not None:
                return data
        return await asyncio.to_thread(self.read, url, offset, length)

    async def aread_many(self, extents: Iterable[Extent]) -> Batch:
        """`read_many`, for asynchronous code."""
        return await asyncio.to_thread(self.read_many, extents)

    def aopen(self, url: Url, mode: str = "rb") -> AiofilesContextManager[AsyncObjectFile]:
        """`open`, for asynchronous code: ``async with cache.aopen(url) as file``, or await it."""

        async def opened() -> AsyncObjectFile:
            return AsyncObjectFile(await asyncio.to_thread(self.open, url, mode), loop=None, executor=None)

        return AiofilesContextManager(opened())

    async def astat(self, url: Url) -> ObjectInfo:
        """`stat`, for asynchronous code."""
        return await asyncio.to_thread(self.stat, url)

    async def amanifest(self, url: Url, *, refresh: bool = False) -> pa.Table:
        """`manifest`, for asynchronous code."""
        return await asyncio.to_thread(lambda: self.manifest(url, refresh=refresh))

    async def aprefetch(self, extents: Iterable[Extent], *, wait: bool = False) -> Prefetched | None:
        """`prefetch`, for asynchronous code."""
        return await asyncio.to_thread(lambda: self.prefetch(extents, wait=wait))

    async def aevict(self, url: Url) -> Evicted:
        """`evict`, for asynchronous code."""
        return await asyncio.to_thread(self.evict, url)

    async def averify(self, progress: Callable[[int, int], None] | None = None) -> Verified:
        """`verify`, for asynchronous code; ``progress`` is called in a thread."""
        return await asyncio.to_thread(self.verify, progress)

    async def astatus(self) -> dict[str, Any]:
        """`status`, for asynchronous code."""
        return await asyncio.to_thread(self.status)

    # ---- life -----------------------------------------------------------------------------------

    @property
    def directories(self) -> tuple[str, ...]:
        """The cache directories."""
        return self._reader.config.directories

    def close(self) -> None:
        """Hangs up. A private engine leaves a second after its last client."""
        self._reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<ioaccel.Cache in {', '.join(self.directories)}>"


def connect(
    cache_dir: PathLike | Sequence[PathLike] | None = None,
    cache_size: Size | Sequence[Size] | None = None,
    storage_options: Mapping[str, Any] | None = None,
    *,
    consistency: str | None = None,
    max_age: float | None = None,
    timeout: float = 60.0,
) -> Cache:
    """Opens the cache in ``cache_dir``, starting its engine if none runs, and begins a session.

    cache_dir        a directory or a list of them, made if missing; default ``IOACCEL_CACHE_DIR``,
                     ``ioaccel.toml``, the directories of ``ioaccel serve`` (also of one that
                     was killed), or ``~/.cache/ioaccel``
    cache_size       payload bytes: ``"100GB"``, ``"64MiB"``, a number, a fraction of the disk (0.8), or a
                     list with one for each directory; a total is shared by the sizes of the disks. The
                     files are larger by their headers. Default: as the cache was made, or 80% of what
                     is free when it is made. Ignored, with a warning, while an engine runs already
    storage_options  for the stores: fsspec's names or obstore's, flat or by scheme
    consistency      ``"session"`` (default): a version is checked once a session; ``"immutable"``: what is
                     cached is believed
    max_age          seconds that a checked version is believed, instead of ``consistency``
    timeout          seconds that the store has for each read

    Raises ConfigError for settings that make no sense, and CacheDirectoryError, CacheBusyError or
    CacheFormatError for a directory that cannot be used.
    """
    config: CacheConfig = load(cache_dir, cache_size, storage_options, consistency, max_age)
    given: Any = timeout  # not every caller has its types checked
    if not isinstance(given, (int, float)) or not given > 0:
        raise ConfigError(f"timeout is a positive number of seconds, not {timeout!r}")
    reader = Reader(config, uuid.uuid4().hex, int(time.time() * 1000), timeout)
    reader.attach()
    try:
        _warn_of_another_size(reader)
    except BaseException:  # warnings may be errors
        reader.close()
        raise
    return Cache(reader)


_warned_of_another_size = False


def _warn_of_another_size(reader: Reader) -> None:
    """Says, once a process, that the engine ran already, with another size than was asked for."""
    global _warned_of_another_size  # noqa: PLW0603  # a job that connects for each file is told once
    config = reader.config
    if _warned_of_another_size or None in config.capacities:
        return
    answer = reader.ask(wire.Status())
    if not isinstance(answer, wire.State):
        return
    served = {shard["directory"]: shard["capacity_bytes"] for shard in answer.status["shards"]}
    wanted = dict(zip(config.directories, config.capacities, strict=True))
    if all(wanted[directory] == capacity for directory, capacity in served.items()):
        return
    _warned_of_another_size = True
    warnings.warn(
        f"the cache in {', '.join(config.directories)} is served with {_sizes(served.values())}, and the "
        f"{_sizes(wanted.values())} of cache_size ({config.origins['cache_size']}) do not count; to change "
        f"its size, end what uses it (engine {answer.status['engine_pid']}) and connect again",
        stacklevel=3,
    )


def _sizes(sizes: Iterable[int | None]) -> str:
    return " + ".join(f"{(size or 0) / 1e9:.6g} GB" for size in sizes)
