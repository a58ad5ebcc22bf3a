"""Reads extents through the cache: at memory speed what is there, with one message what is not.

Whatever happens to the engine, a read ends with the right bytes, an error of the store, or an error
that says what to do; see ``_read_batch``.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ioaccel import wire
from ioaccel._core._client import (
    HIT,
    PAST_END,
    TOO_LONG,
    Buffer,
    Keyring,
    Request,
    View,
    read,
    read_into,
    version_hash,
)
from ioaccel.client.batch import Batch
from ioaccel.client.direct import DirectReader
from ioaccel.client.link import Backoff, EngineLost, Link
from ioaccel.config import CacheConfig
from ioaccel.errors import CacheClosedError, ConfigError, IOAccelError, RangeError, UnsupportedURLError
from ioaccel.sources import SourceSpec, canonical, resolve
from ioaccel.sources.base import changed

log = logging.getLogger("ioaccel")

# Rounds of asking and copying before the source is read directly: each round fails only if what the
# engine has just located was evicted before it could be copied.
_ROUNDS = 4

# A deferred extent is read in pieces of this size: half of what an answer can hold in transit.
_PIECE = 32 << 20

# Threads that copy one large batch: beyond this, memory bandwidth is used up.
COPY_THREADS = min(4, os.cpu_count() or 1)


# Memory for a batch of so many bytes.
Allocate = Callable[[int], "npt.NDArray[np.uint8]"]


def _reused(size: int) -> npt.NDArray[np.uint8]:
    """Memory that goes back to the process's pool when the last view of it is gone."""
    return np.frombuffer(memoryview(Buffer(size)), np.uint8)


class TooLong(Exception):
    """The object is longer than the caller wants to have."""

    def __init__(self, size: int, version: int) -> None:
        self.size = size
        self.version = version


class Reader:
    """One cache, as one process tree reads it. Any thread; survives fork and pickling."""

    def __init__(
        self,
        config: CacheConfig,
        session: str,
        started_ms: int,
        timeout: float,
        sources: dict[str, SourceSpec] | None = None,
    ) -> None:
        self.config = config
        self.session = session
        self.started_ms = started_ms
        self.timeout = timeout
        self._sources: dict[str, SourceSpec] = {}
        self._ring = Keyring()
        self._closed = False
        self._derived: dict[str, Reader] = {}  # by their options; closed together with this one
        for spec in (sources or {}).values():
            self._add(spec)
        self._reset()
        _readers.add(self)

    def _reset(self) -> None:
        """Makes what belongs to one process; also called in a forked child."""
        self._lock = threading.RLock()
        self._link: Link | None = None
        self._view: View | None = None
        self._backoff = Backoff()
        self.direct = DirectReader(self.spec_of)
        self._complained = False
        self._counting = threading.Lock()  # of what was waited for
        self.waited_seconds = 0.0  # for what was not cached; threads that wait together count together
        self._taken = (0.0, 0.0)  # by `take_waits`

    def __getstate__(self) -> dict[str, Any]:
        return {
            "config": self.config,
            "session": self.session,
            "started_ms": self.started_ms,
            "timeout": self.timeout,
            "sources": self._sources,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def with_options(self, scheme: str, options: Mapping[str, Any]) -> Reader:
        """A reader of the same cache and session that reaches the stores of a scheme in another way."""
        # fsspec's file system of http:// reads https://, too.
        schemes = ("http", "https") if scheme in ("http", "https") else (scheme,)
        config = replace(self.config, storage_options={s: dict(options) for s in schemes})
        return self.adopt(Reader(config, self.session, self.started_ms, self.timeout))

    def adopt(self, reader: Reader) -> Reader:
        """A reader of the same cache that closes together with this one: the first with its options."""
        with self._lock:
            reader._closed = self._closed
            return self._derived.setdefault(repr(reader.config.storage_options), reader)

    def begin_session(self) -> None:
        """From now on, what the store said before counts only with ``max_age`` or ``immutable``."""
        self.started_ms = int(time.time() * 1000)

    @property
    def disk_seconds(self) -> float:
        """How long copies have waited for the disk, in all threads of this process."""
        view = self._view
        return view.disk_seconds if view is not None else 0.0

    def take_waits(self) -> tuple[float, float]:
        """Seconds that were waited for stores and for disks since the last call, of any thread."""
        with self._counting:
            waits = (self.waited_seconds, self.disk_seconds)
            before, self._taken = self._taken, waits
        # Another engine's counters begin at zero.
        return max(0.0, waits[0] - before[0]), max(0.0, waits[1] - before[1])

    def close(self) -> None:
        """Hangs up; the private engine leaves after its last client."""
        with self._lock:
            self._closed = True
            self._drop()
            derived, self._derived = self._derived, {}
        for reader in derived.values():
            reader.close()

    # ---- names ----------------------------------------------------------------------------------

    def spec_of(self, scheme: str) -> SourceSpec:
        """How to reach the stores of a scheme; settled once for the session, and for its workers."""
        spec = self._sources.get(scheme)
        if spec is None:
            with self._lock:
                spec = self._sources.get(scheme)
                if spec is None:
                    spec = resolve(scheme, self.config.storage_options)
                    self._add(spec)
        return spec

    def _add(self, spec: SourceSpec) -> None:
        self._ring.add(spec.scheme, spec.identity)
        self._sources[spec.scheme] = spec

    def canonical(self, url: str | os.PathLike[Any]) -> str:
        """The canonical URL, whose scheme is known from now on."""
        name = canonical(url)
        scheme, _, rest = name.partition("://")
        if not rest:
            raise UnsupportedURLError(f"cannot read {name!r}: it names nothing", url=name)
        self.spec_of(scheme)
        return name

    def sources_of(self, urls: Iterable[str]) -> dict[str, SourceSpec]:
        """What the engine must know to read these canonical URLs."""
        schemes = {url[: url.index("://")] for url in urls}
        return {scheme: self.spec_of(scheme) for scheme in schemes}

    def oldest_ms(self) -> int:
        """A version that was last checked before this does not count."""
        if self.config.max_age is not None:
            return int((time.time() - self.config.max_age) * 1000)
        return 0 if self.config.consistency == "immutable" else self.started_ms

    # ---- the engine -----------------------------------------------------------------------------

    def _current(self) -> View | None:
        """The view of a live engine, or None if there is none for now."""
        view = self._view
        if view is not None and view.current:
            return view
        with self._lock:
            if self._closed:
                raise CacheClosedError("this cache was closed; connect() again")
            try:
                return self._renew().view
            except EngineLost:
                self._drop()
                return None

    def _renew(self) -> Link:
        """The link to a live engine; the caller holds the lock. EngineLost if there is none for now."""
        link = self._link
        if link is not None and link.view.alive:
            if not link.view.current:
                link.remap()
            return link
        self._drop()
        if not self._backoff.ready():
            raise EngineLost("waiting to try again")
        try:
            self.attach()
        except IOAccelError as error:
            self._backoff.failed()
            if not self._complained:
                log.warning("%s; reading the store directly until an engine can be reached", error)
                self._complained = True
            raise EngineLost(str(error)) from error
        assert self._link is not None
        if self._complained:
            log.warning("engine %d serves the cache again", self._link.engine_pid)
            self._complained = False
        self._backoff.worked()
        return self._link

    def attach(self) -> None:
        """Reaches the engine now, and raises the reason if that cannot be done."""
        with self._lock:
            if self._link is None:
                self._link = Link(self.config.directories, self.config.capacities, self.session)
                self._view = self._link.view

    def _drop(self) -> None:
        self._view = None
        if self._link is not None:
            self._link.close()
            self._link = None

    def ask(self, message: wire.Message, timeout: float | None = None) -> wire.Answer | None:
        """The engine's answer, or None if there is no engine; a dead one is replaced once."""
        for _ in range(2):
            with self._lock:
                if self._closed:
                    raise CacheClosedError("this cache was closed; connect() again")
                try:
                    link = self._renew()
                except EngineLost:
                    return None
            try:
                return link.request(message, self.timeout if timeout is None else timeout)
            except EngineLost as lost:
                with self._lock:
                    if self._link is link:
                        log.info("the engine is gone (%s)", lost)
                        self._drop()
        return None

    # ---- reading --------------------------------------------------------------------------------

    def hit(self, url: str, offset: int, length: int | None, version: int = 0) -> bytes | None:
        """The bytes of an extent that is cached, else None. Microseconds, and no message.

        A ``version`` that is not 0 is the hash of the only one that will do.
        """
        view = self._view
        if view is None or not view.current:
            view = self._current()
            if view is None:
                return None
        data = read(view, self._ring, url, offset, length, self.oldest_ms(), version)
        return data if type(data) is bytes else None

    def read_small(self, url: str, most: int) -> bytes | tuple[int, int]:
        """A whole object, if it has at most ``most`` bytes; else its size and the hash of its version."""
        view = self._view
        if view is None or not view.current:
            view = self._current()
        if view is not None:
            data = read(view, self._ring, url, 0, None, self.oldest_ms(), 0, most)
            if type(data) is bytes:
                return data
            if data != TOO_LONG:
                try:
                    return bytes(self._read_batch(self._request([url]), most)[0])
                except TooLong as long:
                    return long.size, long.version
        return self.size_and_version(url)

    def hit_into(self, url: str, offset: int, target: memoryview, version: int) -> bool:
        """Fills ``target`` with cached bytes of a version from ``offset`` on; whether they are cached."""
        view = self._current()
        return (
            view is not None
            and read_into(view, self._ring, url, offset, target, self.oldest_ms(), version) == HIT
        )

    def read_batch(self, extents: Iterable[Any], allocate: Allocate | None = None) -> Batch:
        """The bytes of all extents. Raises the first error among them.

        ``allocate`` is asked for memory, a uint8 array of so many bytes; what does not come out of the
        cache in one piece is put elsewhere nevertheless.
        """
        return self._read_batch(self._request(extents), allocate=allocate or _reused)

    def extents(self, extents: Iterable[Any]) -> list[wire.Extent]:
        """What callers give as extents, with canonical URLs."""
        return self._request(extents).extents()

    def _request(self, extents: Iterable[Any]) -> Request:
        if isinstance(extents, (str, os.PathLike)):
            raise ConfigError(f"expected a list of extents, not one URL: {extents!r}; put it into a list")
        return Request(extents, self._ring, self.canonical)

    def read_all_small(self, urls: list[str], most: int) -> Batch:
        """Many whole objects; TooLong if one of them, that was not cached, has more than ``most`` bytes."""
        return self._read_batch(self._request(urls), most)

    def missing(self, extents: Iterable[Any], *, hint: bool = False) -> list[wire.Extent]:
        """Those extents that are not cached. With ``hint``, the kernel reads ahead what is."""
        request = self._request(extents)
        view = self._current()
        if view is not None:
            request.lookup(view, self.oldest_ms())
            if hint:
                request.hint()
        every = request.extents()
        return [every[i] for i in request.missing()]

    def cached_bytes(self, extents: Iterable[Any]) -> int:
        """Bytes of those extents that are cached."""
        request = self._request(extents)
        view = self._current()
        if view is None:
            return 0
        request.lookup(view, self.oldest_ms())
        missing = set(request.missing())
        rest = ((i, extent) for i, extent in enumerate(request.extents()) if i not in missing)
        return sum(
            request.object_size(i) - offset if length is None else length for i, (_, offset, length) in rest
        )

    def prefetch(self, extents: list[wire.Extent]) -> None:
        """Asks for extents with canonical URLs to be cached soon."""
        sources = self.sources_of(extent[0] for extent in extents)
        self.ask(wire.Prefetch(self.session, sources, extents, self.oldest_ms(), self.timeout))

    def post(self, board: str, note: bytes) -> None:
        """Leaves a note for other processes of the session; it is lost if there is no engine."""
        self.ask(wire.Post(self.session, board, note))

    def collect(self, board: str) -> list[bytes]:
        """The notes that were left, and are taken away."""
        answer = self.ask(wire.Collect(self.session, board))
        return answer.notes if isinstance(answer, wire.Notes) else []

    def read_version(self, extent: wire.Extent, version: int) -> tuple[memoryview, int]:
        """One extent, and the hash of its version, or 0 if it had to be read directly.

        If ``version`` is not 0, it is of that version, or ObjectChangedError is raised.
        """
        request = Request([extent], self._ring, self.canonical, version)
        batch = self._read_batch(request)
        return batch[0], request.version(0)

    def size_and_version(self, url: str) -> tuple[int, int]:
        """The size of an object and the hash of its version. If not cached, its first block is fetched."""
        request = Request([(url, 0, 0)], self._ring, self.canonical)
        view = self._current()
        if view is not None:
            known = request.lookup(view, self.oldest_ms()) == 0 or self._ask_for(request, []) == {}
            if known:
                return request.object_size(0), request.version(0)
        info = self.direct.stat(request.extents()[0][0], self.timeout)
        return info.size, version_hash(info.version)

    def _read_batch(self, request: Request, most: int | None = None, allocate: Allocate = _reused) -> Batch:
        """Looks up, asks for what is missing, copies; and again, if it was evicted in between.

        Without an engine, or when that goes on, the source is read directly. If the engine finds an
        object that is longer than ``most``, TooLong is raised.
        """
        unreadable: list[int] = []
        for _ in range(_ROUNDS):
            view = self._current()
            if view is None:
                break
            others: dict[int, wire.Deferred | wire.Uncached] | None = {}
            if request.lookup(view, self.oldest_ms(), unreadable):
                others = self._ask_for(request, unreadable, most)
                if others is None:
                    continue
            offsets = np.empty(len(request) + 1, np.int64)
            buffer = allocate(request.offsets(offsets))
            if request.copy(buffer, COPY_THREADS):
                batch = Batch(buffer, offsets)
                return self._complete(batch, request, others) if others else batch
            unreadable = request.unreadable
        return self._read_directly(request)

    def _ask_for(
        self, request: Request, unreadable: list[int], most: int | None = None
    ) -> dict[int, wire.Deferred | wire.Uncached] | None:
        """Resolves what is missing from the engine's answer. Raises the first error in it.

        Returns what has to be read in another way, and leaves it out of the request; None if the
        engine is gone.
        """
        extents = request.extents()
        missing = request.missing()
        wanted = [extents[i] for i in missing]
        bad = set(unreadable)
        message = wire.Fetch(
            self.session,
            self.sources_of(e[0] for e in wanted),
            wanted,
            self.oldest_ms(),
            self.timeout,
            [n for n, i in enumerate(missing) if i in bad],
            most,
        )
        link = self._link
        begun = time.perf_counter()
        answers = self.ask(message)
        with self._counting:
            self.waited_seconds += time.perf_counter() - begun
        if link is None or self._link is not link or not isinstance(answers, wire.Answers):
            return None  # what another engine says does not fit the view that was looked up
        others: dict[int, wire.Deferred | wire.Uncached] = {}
        for i, answer in zip(missing, answers.results, strict=True):
            if isinstance(answer, wire.Found):
                if most is not None and answer.object_size > most:
                    raise TooLong(answer.object_size, answer.version)
                if request.pinned not in (0, answer.version):
                    raise changed(extents[i][0])
                if request.resolve(i, answer.object_size, answer.version, answer.locations) == PAST_END:
                    raise _past_end(extents[i], answer.object_size)
            elif isinstance(answer, wire.Failure):
                raise answer.error()
            else:
                others[i] = answer
                request.skip(i)
        return others

    def _complete(
        self, batch: Batch, request: Request, others: dict[int, wire.Deferred | wire.Uncached]
    ) -> Batch:
        """Reads what the engine would not give in one answer, and puts all together."""
        extents = request.extents()
        parts: list[Any] = list(batch)
        uncached = [i for i, answer in others.items() if isinstance(answer, wire.Uncached)]
        deferred = [i for i, answer in others.items() if isinstance(answer, wire.Deferred)]
        if uncached:
            data = self.direct.read_all([extents[i] for i in uncached], self.timeout, request.pinned)
            for i, part in zip(uncached, data, strict=True):
                parts[i] = part
        small = []
        for i in deferred:
            length = _known_length(extents[i], others[i])
            if length is not None and (len(deferred) == 1 or length > _PIECE):
                parts[i] = self._read_large(extents[i], length, request.pinned)
            else:
                small.append(i)
        if small:
            rest = Request([extents[i] for i in small], self._ring, self.canonical, request.pinned)
            for i, item in zip(small, self._read_batch(rest), strict=True):
                parts[i] = item
        return _join(parts)

    def _read_large(self, extent: wire.Extent, length: int, version: int) -> memoryview:
        """One extent in pieces, two at a time, each of which an answer can hold, and all of one version."""
        url, offset, _ = extent
        first, version = self.read_version((url, offset, min(_PIECE, length)), version)
        if version == 0:  # the engine is gone
            return memoryview(self.direct.read_all([extent], self.timeout)[0])
        whole = memoryview(Buffer(length))
        whole[: len(first)] = first

        def read_piece(at: int) -> None:
            size = min(_PIECE, length - at)
            whole[at : at + size] = self.read_version((url, offset + at, size), version)[0]

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(read_piece, range(len(first), length, _PIECE)))
        return whole

    def _read_directly(self, request: Request) -> Batch:
        """Without the cache: slower, and right."""
        request.unresolve()
        batch = _join(self.direct.read_all(request.extents(), self.timeout, request.pinned))
        if self._view is not None:
            self._view.add_direct(batch.nbytes)
        return batch


def _known_length(extent: wire.Extent, answer: wire.Deferred | wire.Uncached) -> int | None:
    """How many bytes a deferred extent has; None if the size of its object is not known."""
    _, offset, length = extent
    size = answer.object_size if isinstance(answer, wire.Deferred) else None
    if length is not None or size is None:
        return length
    return size - offset


def _past_end(extent: wire.Extent, size: int) -> RangeError:
    url, offset, length = extent
    stop = offset + (length or 0)
    return RangeError(
        f"{url} has {size} bytes, and {offset}..{stop} does not lie inside; read within its size",
        url=url,
        range=(offset, stop),
    )


def _join(parts: list[Any]) -> Batch:
    """One batch of parts that stand apart."""
    offsets = np.zeros(len(parts) + 1, np.int64)
    np.cumsum([len(p) for p in parts], out=offsets[1:])
    buffer = _reused(int(offsets[-1]))
    view = buffer.data
    for part, start in zip(parts, offsets.tolist(), strict=False):
        view[start : start + len(part)] = part
    return Batch(buffer, offsets)


# ---- forks --------------------------------------------------------------------------------------

_readers: weakref.WeakSet[Reader] = weakref.WeakSet()


def _after_fork() -> None:
    """In the child: hangs up what was inherited (the parent keeps its own) and begins anew."""
    for reader in list(_readers):
        reader._drop()
        reader._reset()


os.register_at_fork(after_in_child=_after_fork)
