"""What a store and this node do, measured through a cache that is thrown away."""

from __future__ import annotations

import bisect
import itertools
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ioaccel.errors import ConfigError
from ioaccel.predict.inputs import BLOCK_BYTES

if TYPE_CHECKING:
    from ioaccel import Cache

Extent = tuple[str, int, int]  # URL, offset, length

# Requests one after the other, for the delay: the median of so many is not moved by two slow ones.
ALONE = 9
# What is fetched as fast as it comes. The governor needs a second to find the store's limit, so few are too
# few to tell; more would only cost more.
MOST_BLOCKS = 2000
MOST_BYTES = 1 << 30
FEWEST_BLOCKS = 100
BATCH = 64
NO_ROOM = 4096  # bytes of a cache that is full before it begins
_COPY_SECONDS = 0.3
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Measured:
    """``request_s``: one request for a mean block, alone. The others are as `Node` has them."""

    blocks: int
    bytes: int
    request_s: float
    fetches_per_s: float
    passing_per_s: float | None
    fetch_cpu_s: float
    copy_rate: float


def chosen(sizes: Sequence[int]) -> list[tuple[int, int, int]]:
    """Blocks to fetch, as (object, offset, length): evenly from all, so that their mean size is that of all.

    ConfigError if there are too few to measure with.
    """
    ends = list(itertools.accumulate(max(1, -(-size // BLOCK_BYTES)) for size in sizes))
    blocks = ends[-1] if ends else 0
    if blocks < FEWEST_BLOCKS:
        raise ConfigError(
            f"{blocks} objects are too few to measure with; say what the store does with --store-delay-ms"
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
    ``passing_per_s`` is None. ``processes``: whose CPU time also counts as that of a fetch, as a store's on
    the same machine does. Raises what the store says.
    """
    cache.read(*extents[0])  # the versions of its neighbours are asked for, connections made
    alone = []
    for extent in extents[1 : ALONE + 1]:
        begun = time.perf_counter()
        cache.read(*extent)
        alone.append(time.perf_counter() - begun)
    request = statistics.median(alone)
    rest = extents[ALONE + 1 :]
    involved = [os.getpid(), int(cache.status()["engine_pid"]), *processes]
    spent = sum(map(_cpu_seconds, involved))
    fetches = _fetch(cache, rest)
    cpu = sum(map(_cpu_seconds, involved)) - spent
    count, rate = _copy(cache, extents)
    passing = _fetch(full, rest) if full is not None else None
    return Measured(len(extents), count, request, fetches, passing, cpu / len(rest), rate)


def _fetch(cache: Cache, extents: Sequence[Extent]) -> float:
    """Reads them as a job does that looks ahead; how many come a second."""
    reader = cache._reader
    reader.prefetch(reader.extents(extents), ("measure", 1))
    arrived = {}  # when so many had
    for start in range(0, len(extents), BATCH):
        cache.read_many(extents[start : start + BATCH])
        arrived[min(start + BATCH, len(extents))] = time.perf_counter()
    # The first quarter is the engine's and the governor's to find their pace in.
    early = min(count for count in arrived if count >= len(extents) // 4)
    return (len(extents) - early) / max(arrived[len(extents)] - arrived[early], 1e-6)


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
