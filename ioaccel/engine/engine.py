"""The engine: everything that writes a cache, behind one method a request."""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ioaccel
from ioaccel import wire
from ioaccel._core._engine import BLOCK_SIZE, Index, block_key, list_segment, verify_block
from ioaccel.engine.block import block_of
from ioaccel.engine.fetch import Fetcher
from ioaccel.engine.flights import Flights
from ioaccel.engine.item import Item, Terms, as_ioaccel_error
from ioaccel.engine.manifests import Manifests
from ioaccel.engine.objects import Known, Objects, now_ms
from ioaccel.engine.passing import Ahead, Passing
from ioaccel.engine.prefetch import Prefetches, Settled, Wave
from ioaccel.engine.sessions import ClientPage, Clients
from ioaccel.engine.shard import Segment, Shard
from ioaccel.engine.space import Space
from ioaccel.engine.targets import NotForUs, Targets
from ioaccel.engine.transit import ANSWER_BYTES, SEGMENT_SIZE, SEGMENTS, Transit
from ioaccel.errors import ConfigError, IOAccelError
from ioaccel.sources.base import anything

log = logging.getLogger("ioaccel.engine")

# Extents that are on their way at once for a caller who waits: enough to fill any governor's limit.
_WAITED_WAVE = 512


class Engine:
    """One per set of cache directories; ``shards`` are opened and locked. Any thread."""

    def __init__(self, shards: list[Shard]) -> None:
        self.identity = uuid.uuid4().hex
        self.shards = shards
        counts = [len(s.segments) for s in shards] + [SEGMENTS]
        sizes = [s.segment_size for s in shards] + [SEGMENT_SIZE]
        self.index = Index(counts, sizes)
        self.clients = Clients(self.index.total_segments)
        self.transit = Transit(len(shards), self.index)
        self.space = Space(self.index, shards, self.transit, self.clients)
        self.flights = Flights()
        self.objects = Objects(self.index, self.flights, self.space.remove)
        self.passing = Passing(self.transit, self.clients.names)
        self.fetcher = Fetcher(self.index, shards, self.space, self.objects, self.flights, self.passing)
        self.manifests = Manifests(shards[0].directory / "manifests", self.flights, self.objects)
        self._lock = threading.Lock()
        self.targets = Targets()
        self._prefetches = Prefetches(self._prefetch_wave, self.clients.names, self.passing)
        self._list_requests = 0
        self._started = time.monotonic()
        self._recover()
        # From here on the index may be believed, for as long as this process lives.
        self.index.hold()

    def _recover(self) -> None:
        """Finds what an earlier engine left, all shards at once."""
        with ThreadPoolExecutor(len(self.shards)) as pool:
            results = list(pool.map(lambda shard: shard.recover(self.index), self.shards))
        self.recovered_blocks = self.index.usage()[0]
        self.space.recovered(max(newest for _, newest in results))

    def close(self) -> None:
        """Stops prefetching and releases the directories. Readers see the engine die with its process."""
        self._prefetches.close()
        self.flights.close()
        for shard in self.shards:
            shard.close()
        self.transit.close()

    # ---- clients --------------------------------------------------------------------------------

    def attach(self, session: str) -> tuple[ClientPage, list[int], list[bool]]:
        """A new client's page, the descriptors for it (to be closed), and which shards have one."""
        page = self.clients.join(session)
        descriptors: list[int] = []
        readable = []
        try:
            descriptors.append(self.index.control_fd())
            descriptors.append(self.index.index_fd())
            descriptors.append(os.dup(page.fd))
        except OSError:
            for fd in descriptors:
                os.close(fd)
            self.clients.leave(page)
            raise
        for reader_fd in [*(s.reader_fd for s in self.shards), self.transit.reader_fd]:
            try:
                descriptors.append(reader_fd())
                readable.append(True)
            except OSError:
                readable.append(False)
        return page, descriptors, readable

    # ---- reading --------------------------------------------------------------------------------

    def fetch(self, request: wire.Fetch) -> wire.Answers:
        """Locates every extent, fetching what is missing."""
        items = self.targets.items(request.extents, request.sources)
        for i in request.unreadable:
            if isinstance(item := items[i], Item):
                self.fetcher.drop(item)
        for item in items:
            if isinstance(item, Item):
                item.most = request.most
        self.fetcher.settle([i for i in items if isinstance(i, Item)], self._terms(request))
        return wire.Answers([_answer(item) for item in items])

    def _terms(
        self,
        request: wire.Fetch | wire.Prefetch,
        *,
        urgent: bool = True,
        keep: bool = False,
        ahead: Ahead | None = None,
    ) -> Terms:
        deadline = time.monotonic() + request.timeout
        session = self.clients.session(request.session)
        return Terms(session, request.oldest_ms, deadline, urgent, keep, ahead)

    def prefetch(self, request: wire.Prefetch) -> wire.Prefetched:
        """Brings extents into the cache, now or in the background."""
        accepted = len(request.extents)
        if not request.wait:
            self._prefetches.add(request)
            return wire.Prefetched(accepted)
        stored = 0
        failures: list[wire.Failure] = []
        for start in range(0, accepted, _WAITED_WAVE):
            items = self._bring(request, request.extents[start : start + _WAITED_WAVE], urgent=True)
            answers = [_answer(i) for i in items if not isinstance(i, Item) or i.error is not None]
            failures += [answer for answer in answers if isinstance(answer, wire.Failure)]
            stored += sum(isinstance(i, Item) and i.error is None and i.stored for i in items)
            if _no_room(items):
                break
        return wire.Prefetched(accepted, stored, accepted - stored - len(failures), failures)

    def _prefetch_wave(self, wave: Wave) -> Settled:
        """Brings some extents into the cache."""
        try:
            items = self._bring(wave.request, wave.extents, urgent=False, ahead=wave.ahead)
            if not any(isinstance(item, Item) and item.error is None for item in items):
                return Settled(None)
            return Settled(not _no_room(items), self._refused(items, wave.ahead))
        except Exception:
            log.exception("a prefetch failed")
            return Settled(True)

    def _refused(self, items: list[Item | wire.Uncached | wire.Failure], ahead: Ahead | None) -> list[int]:
        """Which of a wave's items its plan still waits for: there was no room for them, or none for who had
        asked for them before, whose flight they have joined."""
        if ahead is None:
            return []
        refused = [
            (n, item)
            for n, item in enumerate(items)
            if isinstance(item, Item) and item.refused and item.error is None
        ]
        return [n for n, item in refused if self.passing.wants(ahead, item.wanted())]

    def _bring(
        self,
        request: wire.Prefetch,
        extents: list[wire.Extent],
        *,
        urgent: bool,
        ahead: Ahead | None = None,
    ) -> list[Item | wire.Uncached | wire.Failure]:
        """Brings extents into the cache, as far as there is room."""
        items = self.targets.items(extents, request.sources)
        self.fetcher.settle(
            [i for i in items if isinstance(i, Item)],
            self._terms(request, urgent=urgent, keep=True, ahead=ahead),
        )
        for item in items:
            if isinstance(item, Item) and item.deferred and item.known is not None:
                self._settle_in_pieces(item, request, urgent=urgent)
        return items

    def _settle_in_pieces(self, item: Item, request: wire.Prefetch, *, urgent: bool) -> None:
        """Brings an extent into the cache that is too large for one answer; it ends deferred no more."""
        assert item.known is not None
        stop = item.known.size if item.length is None else item.offset + item.length
        item.deferred = False
        for offset in range(item.offset, stop, ANSWER_BYTES):
            piece = Item(item.target, offset, min(ANSWER_BYTES, stop - offset))
            self.fetcher.settle([piece], self._terms(request, urgent=urgent, keep=True))
            item.error, item.stored = piece.error, piece.stored
            if item.error is not None or not item.stored:
                return

    def stat(self, request: wire.Stat) -> wire.Stats:
        """Size and version of objects, checked recently enough."""
        deadline = time.monotonic() + request.timeout
        items = self.targets.items([(url, 0, None) for url in request.urls], request.sources)
        targets = [item.target for item in items if isinstance(item, Item)]
        found: dict[bytes, Known | Exception] = {}
        for target in targets:
            known = self.objects.get(target)
            if known is not None and known.checked_ms >= request.oldest_ms and known.version is not None:
                found[target.base] = known
        unknown = [t for t in targets if t.base not in found]
        found |= self.objects.check(unknown, request.oldest_ms, deadline)
        results: list[wire.ObjectStat | wire.Uncached | wire.Failure] = []
        for item in items:
            if not isinstance(item, Item):
                results.append(item)
                continue
            known_or_error = found[item.target.base]
            if isinstance(known_or_error, Known):
                results.append(
                    wire.ObjectStat(item.target.url, known_or_error.size, known_or_error.version or "")
                )
            else:
                results.append(wire.Failure.of(as_ioaccel_error(known_or_error, item.target.url)))
        return wire.Stats(results)

    def list_directory(self, request: wire.ListDirectory) -> wire.Directory | wire.Uncached:
        """What stands directly below a URL, or whether anything does."""
        try:
            spec, source, key = self.targets.prefix(request.url, request.sources)
        except NotForUs as reason:
            return wire.Uncached(str(reason))
        governor = self.targets.governors[spec.identity]
        asked_ms = now_ms()
        directories, objects = governor.call(
            request.url,
            lambda: ([], anything(source, key)) if request.probe else source.list_dir(key),
            time.monotonic() + request.timeout,
        )
        for info in objects:
            self.objects.listed(block_key(spec.identity, source.url(info.key)), info, asked_ms)
        return wire.Directory(
            [source.url(d) for d in directories],
            [wire.ObjectStat(source.url(o.key), o.size, o.version) for o in objects],
        )

    def manifest(self, request: wire.Manifest) -> wire.ManifestFile | wire.Uncached:
        """A file that lists everything below a URL."""
        try:
            spec, source, key = self.targets.prefix(request.url, request.sources)
            path = self.manifests.path(
                spec, source, key, request.oldest_ms, request.timeout, request.refresh, self._count_listing
            )
        except NotForUs as reason:
            return wire.Uncached(str(reason))
        except OSError as error:
            if isinstance(error, IOAccelError):
                raise
            return wire.Uncached(f"a manifest cannot be written: {error}")
        return wire.ManifestFile(str(path))

    def _count_listing(self, requests: int) -> None:
        with self._lock:
            self._list_requests += requests

    # ---- what is cached -------------------------------------------------------------------------

    def residency(self, request: wire.Residency) -> wire.Resident:
        """How many bytes of each object are cached."""
        cached, sizes = [], []
        for url in request.urls:
            base = block_key(request.sources[url.partition("://")[0]].identity, url)
            entry = self.index.get(base)
            size = entry[2] if entry is not None else self.objects.size(base)
            total, number = 0, 0
            while entry is not None or (size is not None and number * BLOCK_SIZE < size):
                total += entry[1] if entry is not None else 0
                number += 1
                if size is not None and number * BLOCK_SIZE >= size:
                    break
                entry = self.index.get(block_of(base, number))
            cached.append(total)
            sizes.append(size)
        return wire.Resident(cached, sizes)

    def evict(self, request: wire.Evict) -> wire.Evicted:
        """Removes an object, or all below a URL that ends with a slash."""
        spec = request.sources[request.url.partition("://")[0]]
        base = block_key(spec.identity, request.url)
        entry = self.index.get(base)
        if not request.url.endswith("/") and entry is not None:
            keys = [block_of(base, n) for n in range(max(1, -(-entry[2] // BLOCK_SIZE)))]
            return wire.Evicted(*self._remove(keys))
        blocks = size = 0
        for position in range(self._positions()):
            keys = []
            for key, url, _, _, offset, *_ in self._headers(position):
                below = url.startswith(request.url) if request.url.endswith("/") else url == request.url
                if below and key == block_of(block_key(spec.identity, url), offset // BLOCK_SIZE):
                    keys.append(key)
            count, freed = self._remove(keys)
            blocks += count
            size += freed
        return wire.Evicted(blocks, size)

    def _remove(self, keys: list[bytes]) -> tuple[int, int]:
        """Takes blocks out of the cache, wherever they stand: how many were there, and their bytes."""
        found = [(key, entry[0]) for key in dict.fromkeys(keys) if (entry := self.index.get(key)) is not None]
        return self.space.remove_all(found)

    def verify(self, request: wire.Verify) -> wire.Verified:
        """Checks every block of one segment against its CRCs; removes those that are corrupt."""
        shard, segment = self._segment(request.position)
        blocks = size = 0
        corrupt: list[str] = []
        try:
            for key, url, _, _, _, offset, length, *_ in self._headers(request.position):
                entry = self.index.get(key)
                if entry is None or not _stands_at(entry[0], shard, segment, offset):
                    continue
                start = shard.start_of(segment.number)
                if verify_block(shard.fd, start, shard.segment_size, key, entry[3], offset, length):
                    self.index.touch(key, entry[0], 0, True)
                    blocks += 1
                    size += length
                elif self.space.remove(key, entry[0]):
                    self.fetcher.corrupt += 1
                    corrupt.append(url)
        except OSError as error:
            return wire.Verified(self._positions(), blocks, size, corrupt, f"{shard.directory}: {error}")
        return wire.Verified(self._positions(), blocks, size, corrupt)

    def usage(self, request: wire.Usage) -> wire.Used:
        """What one segment holds, by prefix."""
        shard, segment = self._segment(request.position)
        prefixes: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0])
        for key, url, _, _, _, offset, length, *_ in self._headers(request.position):
            entry = self.index.get(key)
            if entry is not None and _stands_at(entry[0], shard, segment, offset):
                totals = prefixes[_prefix_of(url, request.depth)]
                totals[0] += 1
                totals[1] += length
        return wire.Used(self._positions(), {p: (n, b) for p, (n, b) in prefixes.items()})

    def _positions(self) -> int:
        return sum(len(shard.segments) for shard in self.shards)

    def _segment(self, position: int) -> tuple[Shard, Segment]:
        for shard in self.shards:
            if position < len(shard.segments):
                return shard, shard.segments[position]
            position -= len(shard.segments)
        raise ConfigError(f"there is no segment {position}")

    def _headers(self, position: int) -> list[Any]:
        shard, segment = self._segment(position)
        if self.index.segment_usage(shard.number, segment.number)[0] == 0:
            return []
        headers = list_segment(shard.fd, shard.start_of(segment.number), shard.segment_size)
        # The last one at each place: empty blocks take no room, so several may stand at one offset.
        return list({(header[0], header[5]): header for header in headers if not header[-1]}.values())

    # ---- counters -------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """All counters; bytes unless the name says otherwise."""
        blocks, cached = self.index.usage()
        governors = list(self.targets.governors.values())
        return {
            **self.clients.counters(),
            "store_requests": sum(g.requests for g in governors) + self._list_requests,
            "store_bytes": sum(g.bytes for g in governors),
            "store_retries": sum(g.retries for g in governors),
            "store_hedged": sum(g.hedges for g in governors),
            "store_throttled": sum(g.throttled for g in governors),
            "store_concurrency": sum(int(g.limit) for g in governors),
            "cached_bytes": cached,
            "blocks": blocks,
            "capacity_bytes": sum(s.capacity for s in self.shards),
            "passed_bytes": self.transit.passed_bytes,
            "ahead_bytes": self.passing.total_bytes,
            "recovered_blocks": self.recovered_blocks,
            "corrupt_blocks": self.fetcher.corrupt,
            **self.space.usage(),
            "clients": len(self.clients),
            "engine_pid": os.getpid(),
            "version": ioaccel.__version__,
            "uptime_s": round(time.monotonic() - self._started, 3),
            "shards": [
                {
                    "directory": str(s.directory),
                    "capacity_bytes": s.capacity,
                    "cached_bytes": self.index.shard_usage(s.number)[1],
                    "health": s.health.value,
                    "trouble": s.trouble,
                }
                for s in self.shards
            ],
        }


def _no_room(items: list[Item | wire.Uncached | wire.Failure]) -> bool:
    """Whether some of what was brought could not be kept."""
    return not all(i.stored for i in items if isinstance(i, Item) and i.error is None and not i.deferred)


def _answer(
    item: Item | wire.Uncached | wire.Failure,
) -> wire.Found | wire.Deferred | wire.Uncached | wire.Failure:
    if not isinstance(item, Item):
        return item
    if item.error is not None:
        return wire.Failure.of(as_ioaccel_error(item.error, item.target.url))
    if item.deferred:
        return wire.Deferred(item.known.size if item.known else None)
    assert item.known is not None
    known = item.known
    return wire.Found(known.size, known.version_hash, b"".join(item.blocks[n] for n in item.numbers()))


def _stands_at(location: bytes, shard: Shard, segment: Segment, offset: int) -> bool:
    return (
        int.from_bytes(location[0:2], "little") == shard.number
        and int.from_bytes(location[4:8], "little") == segment.number
        and int.from_bytes(location[12:16], "little") == offset
    )


def _prefix_of(url: str, depth: int) -> str:
    """``s3://bucket/`` and ``depth`` path components more."""
    scheme, separator, rest = url.partition("://")
    parts = rest.split("/")
    directories = parts[:-1][: depth + 1]
    return scheme + separator + "/".join(directories) + "/"
