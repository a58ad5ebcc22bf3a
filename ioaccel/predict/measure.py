"""What a store and this node do, measured through a cache that is thrown away."""

from __future__ import annotations

import bisect
import itertools
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ioaccel.errors import ConfigError
from ioaccel.predict.inputs import BLOCK_BYTES
from ioaccel.sources import RetryableError

if TYPE_CHECKING:
    from ioaccel import Cache

Extent = tuple[str, int, int]  # URL, offset, length

# Requests one after the other, for the delay: the median of so many is not moved by two slow ones.
ALONE = 9
# A plain client, for what the store gives to whoever asks: so many requests at once, for so long at most.
DIRECT_THREADS, DIRECT_S = 64, 3.0
# What is fetched as fast as it comes. The governor needs a second to find the store's limit, so few are too
# few to tell; more would only cost more.
MOST_BLOCKS = 5000
MOST_BYTES = 1 << 30
FEWEST_BLOCKS = 100
BATCH = 64
# By what share two rates may differ that are alike, and the share of busy CPUs that may be what limits both.
ALIKE, BUSY = 0.15, 0.7
TELLING_S = 0.5  # what takes less time is alike by chance
NO_ROOM = 4096  # bytes of a cache that is full before it begins
_COPY_SECONDS = 0.3
# How often it is looked what has come, and after how long without any it is read, which tells why.
_LOOK_S, _PATIENCE_S = 0.01, 5.0
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Measured:
    """``request_s``: one request for a mean block, alone; ``start_s``: by how much all that follows comes
    later than if the engine had its pace from the beginning; ``direct_per_s``: blocks a second of a plain
    client with 64 requests at once; ``throttled``: requests that had to be repeated, because the store asked
    for fewer or was late. The others are as `Node` has them."""

    blocks: int
    bytes: int
    request_s: float
    start_s: float
    fetches_per_s: float
    fetch_cpu_s: float
    passing_per_s: float | None
    passing_cpu_s: float | None
    copy_rate: float
    direct_per_s: float
    throttled: int

    def limited_by_store(self, cores: int) -> bool:
        """Whether the engine got all that the store gave: with CPU left, a plain client got the same."""
        busy = self.fetches_per_s * self.fetch_cpu_s / cores
        alike = abs(self.fetches_per_s - self.direct_per_s) <= ALIKE * self.direct_per_s
        return alike and busy < BUSY and self.blocks >= TELLING_S * self.direct_per_s

    @property
    def rough(self) -> bool:
        """Whether there was too little to fetch for the governor to find the store's limit."""
        return self.blocks < MOST_BLOCKS and self.bytes < 0.9 * MOST_BYTES


def chosen(sizes: Sequence[int]) -> list[tuple[int, int, int]]:
    """Blocks to fetch, as (object, offset, length): evenly from all, so that their mean size is that of all.

    ConfigError if there are too few to measure with.
    """
    ends = list(itertools.accumulate(max(1, -(-size // BLOCK_BYTES)) for size in sizes))
    blocks = ends[-1] if ends else 0
    if blocks < FEWEST_BLOCKS:
        raise ConfigError(
            f"{blocks} blocks (objects, or 4 MiB of larger ones) are too few to measure with, which takes "
            f"{FEWEST_BLOCKS}; say what the store does with --store-delay-ms"
        )
    count = min(blocks, MOST_BLOCKS, max(FEWEST_BLOCKS, int(MOST_BYTES * blocks / max(1, sum(sizes)))))
    found = []
    for number in range(0, blocks * count, blocks):
        block = number // count
        index = bisect.bisect_right(ends, block)
        offset = (block - (ends[index - 1] if index else 0)) * BLOCK_BYTES
        found.append((index, offset, min(BLOCK_BYTES, sizes[index] - offset)))
    return found


def measure(
    cache: Cache, extents: Sequence[Extent], full: Cache | None = None, processes: Sequence[int] = ()
) -> Measured:
    """Fetches blocks that are not in ``cache``, which has to have room for them all.

    ``full``: another one, which has room for none of them; they are fetched past it once more, and without it
    nothing is known of what passes by. ``processes``: whose CPU time also counts as that of a fetch, as a
    store's on the same machine does. Raises what the store says.
    """
    cache.read(*extents[0])  # the versions of its neighbours are asked for, connections made
    alone = []
    for extent in extents[1 : ALONE + 1]:
        begun = time.perf_counter()
        cache.read(*extent)
        alone.append(time.perf_counter() - begun)
    request = statistics.median(alone)
    rest = extents[ALONE + 1 :]
    direct = _directly(cache, rest)
    fetches, cpu, late = _paced(cache, rest, processes, _come)
    start = max(0.0, late - request)
    count, copied = _copy(cache, extents)
    passing, passing_cpu, _ = (None, None, 0.0) if full is None else _paced(full, rest, processes, _read)
    throttled = int(cache.status()["store_throttled"])
    return Measured(
        len(extents), count, request, start, fetches, cpu, passing, passing_cpu, copied, direct, throttled
    )


def _directly(cache: Cache, extents: Sequence[Extent]) -> float:
    """Blocks a second of a plain client. What the store refuses it does not count."""
    begun = time.perf_counter()

    def get(extent: Extent) -> bool:
        url, offset, length = extent
        if not length or time.perf_counter() - begun > DIRECT_S:
            return False
        source, key = cache._reader.direct.source_of(url)
        try:
            source.get(key, offset, offset + length)
        except RetryableError:
            return False
        return True

    with ThreadPoolExecutor(DIRECT_THREADS) as pool:
        done = sum(pool.map(get, extents))
    return done / (time.perf_counter() - begun)


def _paced(
    cache: Cache,
    extents: Sequence[Extent],
    processes: Sequence[int],
    arrivals: Callable[[Cache, Sequence[Extent]], Iterator[int]],
) -> tuple[float, float, float]:
    """How many extents a second an engine brings that is told of all at once, CPU seconds of each, and by how
    many seconds all come later than if that were its pace from the beginning.

    ``arrivals`` tells again and again how many there are, and at the end that all are.
    """
    involved = [os.getpid(), int(cache.status()["engine_pid"]), *processes]
    spent = sum(map(_cpu_seconds, involved))
    cache._reader.prefetch(cache._reader.extents(extents), ("measure", 1))
    arrived = {0: time.perf_counter()}
    for count in arrivals(cache, extents):
        arrived[count] = time.perf_counter()
    cpu = sum(map(_cpu_seconds, involved)) - spent
    every = len(extents)
    # The first half is the engine's and the governor's to find their pace in.
    early = min((count for count in arrived if every // 2 <= count < every), default=0)
    rate = (every - early) / max(arrived[every] - arrived[early], 1e-6)
    return rate, cpu / every, arrived[every] - arrived[0] - every / rate


def _come(cache: Cache, extents: Sequence[Extent]) -> Iterator[int]:
    """Blocks come into the cache, and nobody reads them: what that costs a job is its workers' time."""
    before, count, changed = cache.status()["blocks"], 0, time.monotonic()
    while count < len(extents):
        time.sleep(_LOOK_S)
        now = min(cache.status()["blocks"] - before, len(extents))
        if now > count:
            count, changed = now, time.monotonic()
            yield count
        elif time.monotonic() - changed > _PATIENCE_S:
            yield from _read(cache, extents)  # says what is wrong
            return


def _read(cache: Cache, extents: Sequence[Extent]) -> Iterator[int]:
    """What passes by is read as it comes, in batches."""
    for start in range(0, len(extents), BATCH):
        cache.read_many(extents[start : start + BATCH])
        yield min(start + BATCH, len(extents))


def _copy(cache: Cache, extents: Sequence[Extent]) -> tuple[int, float]:
    """Bytes of all extents, and bytes a second of reading them from memory."""
    done, begun = 0, time.perf_counter()
    while (passed := time.perf_counter() - begun) < _COPY_SECONDS:
        for start in range(0, len(extents), BATCH):
            done += cache.read_many(extents[start : start + BATCH]).nbytes
    return sum(length for _, _, length in extents), done / passed


def _cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS
