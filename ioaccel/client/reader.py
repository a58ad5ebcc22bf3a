"""Reads extents through the cache: at memory speed what is there, with one message what is not.

Whatever happens to the engine, a read ends with the right bytes, an error of the store, or an error
that says what to do; see ``_read_answer``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from ioaccel import wire
from ioaccel._core._client import (
    HIT,
    PAST_END,
    TOO_LONG,
    Buffer,
    Request,
    read,
    read_into,
    version_hash,
)
from ioaccel.client.batch import Batch
from ioaccel.client.session import Session
from ioaccel.errors import ConfigError, RangeError
from ioaccel.sources.base import changed

# Rounds of asking and copying before the source is read directly: each round fails only if what the
# engine has just located was evicted before it could be copied.
_ROUNDS = 4

# A deferred extent is read in pieces of this size: half of what an answer can hold in transit.
_PIECE = 32 << 20

# Threads that copy one large batch: beyond this, memory bandwidth is used up.
COPY_THREADS = min(4, os.cpu_count() or 1)


# What the engine did not give, by the extent's number in the request.
_Others = dict[int, "wire.Deferred | wire.Uncached"]

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


class Reader(Session):
    """Reads what the session's stores have, through its cache."""

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

    def read_version(self, extent: wire.Extent, version: int) -> tuple[memoryview, int]:
        """One extent, and the hash of its version, or 0 if it had to be read directly.

        If ``version`` is not 0, it is of that version, or ObjectChangedError is raised.
        """
        request = Request([extent], self._ring, self.canonical, version)
        try:
            batch = self._read_batch(request)
        except RangeError:
            if version and self.size_and_version(extent[0])[1] != version:
                raise changed(extent[0]) from None  # it has become shorter
            raise
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

    def read_versions(self, extents: Iterable[Any]) -> tuple[Batch, list[int]]:
        """The bytes of all extents, and the hash of the version of each; 0 if it was read directly."""
        request = self._request(extents)
        batch, others = self._read_answer(request, None, _reused)
        versions = [0 if i in others else request.version(i) for i in range(len(request))]
        return (self._complete(batch, request, others, None, versions) if others else batch), versions

    def _read_batch(self, request: Request, most: int | None = None, allocate: Allocate = _reused) -> Batch:
        """Reads all of a request, in as many answers of the engine as it takes.

        If the engine finds an object that is longer than ``most``, TooLong is raised.
        """
        batch, others = self._read_answer(request, most, allocate)
        return self._complete(batch, request, others, most) if others else batch

    def _read_answer(self, request: Request, most: int | None, allocate: Allocate) -> tuple[Batch, _Others]:
        """Looks up, asks for what is missing, copies; and again, if it was evicted in between.

        Without an engine, or when that goes on, the source is read directly. Also returns what the engine
        did not give, which is empty in the batch.
        """
        unreadable: list[int] = []
        for _ in range(_ROUNDS):
            view = self._current()
            if view is None:
                break
            others: _Others = {}
            if request.lookup(view, self.oldest_ms(), unreadable):
                answer = self._ask_for(request, unreadable, most)
                if answer is None:
                    continue
                others = answer
            offsets = np.empty(len(request) + 1, np.int64)
            buffer = allocate(request.offsets(offsets))
            if request.copy(buffer, COPY_THREADS):
                return Batch(buffer, offsets), others
            unreadable = request.unreadable
        return self._read_directly(request), {}

    def _ask_for(self, request: Request, unreadable: list[int], most: int | None = None) -> _Others | None:
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
        others: _Others = {}
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
        self,
        batch: Batch,
        request: Request,
        others: _Others,
        most: int | None,
        versions: list[int] | None = None,
    ) -> Batch:
        """Reads what the engine would not give in one answer, and puts all together; notes ``versions``."""
        parts: list[Any] = list(batch)
        extents, pinned = request.extents(), request.pinned
        versions = [0] * len(parts) if versions is None else versions
        while others:
            uncached = [i for i, answer in others.items() if isinstance(answer, wire.Uncached)]
            if uncached:
                data = self.direct.read_all([extents[i] for i in uncached], self.timeout, pinned)
                for i, part in zip(uncached, data, strict=True):
                    parts[i] = part
            deferred = {i: answer for i, answer in others.items() if isinstance(answer, wire.Deferred)}
            rest = []
            for i, answer in deferred.items():
                length = _known_length(extents[i], answer)
                if most is None and length is not None and length > _PIECE:
                    parts[i], versions[i] = self._read_large(extents[i], pinned)
                else:
                    rest.append(i)
            if not rest:
                break
            request = Request([extents[i] for i in rest], self._ring, self.canonical, pinned)
            batch, missing = self._read_answer(request, most, _reused)
            for n, i in enumerate(rest):
                if n not in missing:
                    parts[i], versions[i] = batch[n], request.version(n)
            others = {rest[n]: answer for n, answer in missing.items()}
        return _join(parts)

    def _read_large(self, extent: wire.Extent, version: int) -> tuple[memoryview, int]:
        """One extent in pieces, two at a time, each of which an answer can hold, and all of one version; also
        which that is, or 0."""
        url, offset, length = extent
        if length is None:  # the size in the engine's answer may be that of an older version
            size, found = self.size_and_version(url)
            if version and found not in (0, version):
                raise changed(url)
            if size < offset:
                raise _past_end(extent, size)
            version, length = version or found, size - offset
        first, version = self.read_version((url, offset, min(_PIECE, length)), version)
        if version == 0:  # the engine is gone
            return memoryview(self.direct.read_all([extent], self.timeout)[0]), 0
        whole = memoryview(Buffer(length))
        whole[: len(first)] = first

        def read_piece(at: int) -> None:
            size = min(_PIECE, length - at)
            whole[at : at + size] = self.read_version((url, offset + at, size), version)[0]

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(read_piece, range(len(first), length, _PIECE)))
        return whole, version

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
